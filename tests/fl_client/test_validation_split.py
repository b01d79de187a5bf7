"""A server that asks about validation rows learns no more than of a holdout of these rows."""

from __future__ import annotations

import json

import numpy as np
import pytest

from fl_client.policy.site import read_site
from fl_client.site_job import SiteJob
from strategies.wire.messages import DESCRIBE, EVALUATE, STATS, EvaluateReply, SiteReply, request
from strategies.wire.refusal import Refusal
from tasks.contract import ModelSpec
from tasks.registry import load_task
from tasks.stats import Stats

QUARTER = {"validation_fraction": 0.25}


def evaluated(site, split=None):
    job, arrays = site.fitted_job()
    config = {} if split is None else {"split": split}
    return site.ask(EVALUATE, site.with_weights(job, arrays, **config))


def stats_of(reply):
    return EvaluateReply.from_records(reply.content).stats


def test_site_says_how_many_rows_choose_and_evaluates_on_exactly_these(make_site):
    site = make_site(QUARTER)
    told = SiteReply.from_records(site.ask(DESCRIBE, request(site.job_text())).content)
    assert (told.num_train, told.num_validation, told.num_holdout) == (36, 12, 12)
    reply = EvaluateReply.from_records(evaluated(site, "validation").content)
    assert reply.num_examples == 12
    job, _ = site.fitted_job()
    task = load_task(site.job["task"], site.job["schema"])
    data = SiteJob.open(read_site(site.path), job).data
    model = task.build(ModelSpec("linear"), json.loads(job)["fitted"], 0)
    expected = task.evaluate(model, data, "validation")
    assert reply.stats.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(reply.stats[name], array)


def test_evaluation_without_a_split_is_on_the_holdout(make_site):
    """The holdout is the same rows as at a site that sets none aside to choose."""
    site = make_site(QUARTER)
    asked, implied = stats_of(evaluated(site, "holdout")), stats_of(evaluated(site))
    job, arrays = site.fitted_job()
    without = stats_of(make_site().ask(EVALUATE, site.with_weights(job, arrays)))
    for name, array in implied.items():
        np.testing.assert_array_equal(asked[name], array)
        np.testing.assert_array_equal(without[name], array)


@pytest.mark.parametrize("split", ["train", "test", "", "validation ", "Validation", "*"])
def test_any_other_split_is_refused(make_site, refused, split):
    refused(evaluated(make_site(QUARTER), split), Refusal.POLICY)


@pytest.mark.parametrize("split", [1, 0.5, b"validation", ["holdout", "validation"], [1, 2]])
def test_a_split_that_is_no_text_is_refused(make_site, refused, split):
    refused(evaluated(make_site(QUARTER), split), Refusal.POLICY)


def test_no_other_rows_stand_in_at_a_site_without_validation_rows(site, refused):
    refused(evaluated(site, "validation"), Refusal.DATA)


@pytest.mark.parametrize("key", ["validation_fraction", "validation", "holdout_fraction"])
def test_a_job_cannot_set_rows_aside(site, refused, key):
    """Two answers that differ by one row would tell that row."""
    refused(site.fit(**{key: 0.5}), Refusal.PROTOCOL)
    schema = {**site.job["schema"], key: 0.5}
    assert site.fit(schema=schema).has_error()


def test_too_few_rows_to_choose_by_are_not_answered_from(make_site, refused):
    site = make_site({"validation_fraction": 0.1}, min_rows=6)  # 5 of 48 rows
    refused(site.fit(), Refusal.POLICY)
    assert "validation split has 5 rows" in site.audit[-1]["why"]
    assert not make_site({"validation_fraction": 0.1}, min_rows=5).fit().has_error()


def test_a_subgroup_that_is_small_among_these_rows_does_not_leave(make_site, csv_sites):
    """The policy looks at the split that is asked about, not at the holdout."""
    header, *rows = csv_sites[0].read_text().splitlines()
    name = header.split(",")[0]
    few = csv_sites[0].with_name("few.csv")
    many = csv_sites[0].with_name("many.csv")
    for path, members in ((few, 2), (many, 20)):
        cells = [row.split(",") for row in rows]
        for i, row in enumerate(cells):
            row[0] = "900" if i < members else "1"
        path.write_text("\n".join([header, *map(",".join, cells)]))
    data = {"validation": few.name, "holdout": many.name}
    site = make_site(data)
    site.job["schema"] = {
        **site.job["schema"],
        "subgroups": {"high": {"column": name, "min": 500}},
    }
    scopes = {
        split: {name.split("/")[0] for name in stats_of(evaluated(site, split))}
        for split in ("validation", "holdout")
    }
    assert scopes["holdout"] - scopes["validation"] == {"subgroups"}


def test_validation_and_holdout_add_up_to_one_holdout_of_both(make_site, csv_sites):
    """Exactly: no summand of the one depends on the rows of the other."""
    site = make_site({"holdout_fraction": 0.2, "validation_fraction": 0.25})
    data = SiteJob.open(read_site(site.path), site.job_text()).data
    both = np.concatenate([data.validation.target, data.holdout.target])
    confusion = Stats.total(stats_of(evaluated(site, s)) for s in ("validation", "holdout"))
    matrix = confusion["overall/confusion"]
    assert matrix.sum(axis=1).tolist() == np.bincount(both, minlength=2).tolist()


def test_preprocessing_is_fitted_without_the_rows_that_choose(make_site):
    """Their values leave in no other exchange than the evaluation."""
    site = make_site(QUARTER)
    task = load_task(site.job["task"], site.job["schema"])
    data = SiteJob.open(read_site(site.path), site.job_text()).data
    stats = site.fit().content[STATS]
    fitted = task.fit(data, 5)
    data.validation.numeric[:] = 1e9
    data.validation.target[:] = 0
    for name, array in task.fit(data, 5).items():
        np.testing.assert_array_equal(array, fitted[name])
        np.testing.assert_array_equal(array, stats[name].numpy())


def test_the_audit_log_says_which_rows_were_asked_about(make_site):
    site = make_site(QUARTER)
    evaluated(site, "validation")
    lines = [line for line in site.audit if line["asked"] == EVALUATE]
    assert [(line["direction"], line["split"]) for line in lines] == [
        ("in", "validation"),
        ("out", "validation"),
    ]
    evaluated(site, "train")
    assert site.audit[-1]["split"] == "train"
    assert site.audit[-1]["decision"] == "refused"


def test_the_same_file_for_two_splits_is_refused(make_site, csv_sites, refused):
    site = make_site({"validation": csv_sites[0].name})
    refused(site.fit(), Refusal.DATA)
    assert "data.train and data.validation are the same file" in site.audit[-1]["why"]
