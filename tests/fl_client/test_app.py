"""What a server may ask: nothing that it sends widens the site's policy."""

from __future__ import annotations

import json
import math

import pytest
from flwr.app import ConfigRecord, Message, RecordDict

from fl_client import runner, site_job
from strategies.local import LocalResult
from strategies.wire.messages import (
    ARRAYS,
    CONFIG,
    DESCRIBE,
    EVALUATE,
    FIT,
    JOB,
    STATS,
    TRAIN,
    request,
)
from strategies.wire.records import pack_arrays, unpack_arrays
from strategies.wire.refusal import Refusal
from tasks.contract import LocalObjective


def test_site_answers_every_exchange(site):
    job, arrays = site.fitted_job()
    described = site.ask(DESCRIBE, request(site.job_text()))
    assert described.content.config_records["site"] == {"name": "clinic"}
    assert described.content.metric_records["metrics"] == {"num-train": 48, "num-holdout": 12}
    trained = site.ask(TRAIN, site.with_weights(job, arrays))
    assert trained.content.array_records[ARRAYS].keys() == arrays.keys()
    evaluated = site.ask(EVALUATE, site.with_weights(job, arrays))
    assert len(evaluated.content.array_records[STATS])


@pytest.mark.parametrize(
    ("policy", "asked"),
    [
        ({"tasks": ["tabular_regression"]}, {}),
        ({"tasks": []}, {}),
        ({"models": ["mlp"]}, {}),
        ({"strategies": ["fedprox"]}, {}),
        ({"min_rows": 49}, {}),  # 48 training rows
        ({"min_rows": 13}, {}),  # 12 held out
        ({"max_local_epochs": 1}, {"train": {"local_epochs": 2}}),
        ({}, {"train": {"local_epochs": 101}}),
        ({"max_local_steps": 5}, {"train": {"local_steps": 6}}),
        ({}, {"train": {"local_steps": 10**9}}),
    ],
)
@pytest.mark.parametrize("kind", [DESCRIBE, FIT])
def test_policy_refuses_with_its_fixed_code(make_site, refused, kind, policy, asked):
    site = make_site(**policy)
    refused(site.ask(kind, request(site.job_text(**asked))), Refusal.POLICY)
    key = next(iter(policy), "max_local")
    assert site.audit[-1]["decision"] == "refused"
    assert key in site.audit[-1]["why"]


def test_weights_stay_where_the_policy_says_so(make_site, refused):
    site = make_site(weights_may_leave=False)
    job, arrays = site.fitted_job()
    refused(site.ask(TRAIN, site.with_weights(job, arrays)), Refusal.POLICY)
    assert not site.ask(EVALUATE, site.with_weights(job, arrays)).has_error()


@pytest.mark.parametrize(
    "strategy", ["os:system", "json:loads", "nope", "tasks.registry:load_task", "", ":", "a:b:c"]
)
def test_code_that_is_not_installed_for_it_does_not_run(site, refused, strategy):
    job, arrays = site.fitted_job(strategy=strategy)
    refused(site.ask(TRAIN, site.with_weights(job, arrays)), Refusal.POLICY)


def test_custom_code_runs_only_if_the_site_allows_it(make_site, refused, monkeypatch, tmp_path):
    (tmp_path / "my_half.py").write_text("from strategies.fedavg import local_update as half\n")
    monkeypatch.syspath_prepend(tmp_path)
    closed, open_ = make_site(), make_site(custom_code=True)
    job, arrays = closed.fitted_job(strategy="my_half:half")
    refused(closed.ask(TRAIN, closed.with_weights(job, arrays)), Refusal.POLICY)
    assert not open_.ask(TRAIN, open_.with_weights(job, arrays)).has_error()
    restricted = make_site(custom_code=True, strategies=["fedavg"])
    refused(restricted.ask(TRAIN, restricted.with_weights(job, arrays)), Refusal.POLICY)


@pytest.mark.parametrize("limit", [math.inf, math.nan, "1000", True, None, 1e3])
def test_epochs_that_are_no_number_do_not_slip_past_the_limit(site, refused, limit):
    refused(site.fit(train={"local_epochs": limit}), Refusal.PROTOCOL)


@pytest.mark.parametrize(
    "changes",
    [
        {"protocol": 2},
        {"protocol": None},
        {"policy": {"min_rows": 0}},
        {"custom_code": True},
        {"train": {"max_local_epochs": 10**6}},
        {"train": {"site": "/etc/passwd"}},
        {"train": []},
        {"model": "linear"},
        {"model": {"name": "linear", "path": "/etc/passwd"}},
        {"source": {"train": "/etc/passwd"}},
        {"data": {"train": "/etc/passwd"}},
    ],
)
def test_job_with_anything_else_in_it_is_not_read(site, refused, changes):
    refused(site.fit(**changes), Refusal.PROTOCOL)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "5", '"x"'])
def test_text_that_is_no_job_is_refused(site, refused, text):
    refused(site.ask(FIT, request(text)), Refusal.PROTOCOL)


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "dataset:digits"])
@pytest.mark.parametrize("key", ["target", "exclude", "columns", "subgroups"])
def test_paths_in_a_schema_open_no_file(site, name, key):
    values = {
        "target": name,
        "exclude": [name],
        "columns": [name],
        "subgroups": {"s": {"column": name, "values": ["x"]}},
    }
    reply = site.fit(schema={**site.job["schema"], key: values[key]})
    assert key == "exclude" or reply.error.code == Refusal.SCHEMA.code


@pytest.mark.parametrize(
    "changes",
    [
        {"task": "nope"},
        {"task": "os:system"},
        {"task": None},
        {"schema": None},
        {"schema": {"target": "y"}},
        {"schema": {**{"target": "y", "classes": ["n", "p"]}, "path": "/etc/passwd"}},
        {"seed": "x"},
        {"split_seed": "x"},
        {"split_seed": [1]},
    ],
)
def test_job_that_makes_no_sense_gets_a_fixed_code(site, changes):
    reply = site.fit(**changes)
    codes = {(r.code, r.text) for r in Refusal}
    if "seed" not in changes:  # the run's seed plays no part before training
        assert (reply.error.code, reply.error.reason) in codes


@pytest.mark.parametrize(
    "kind", ["query.foo", "query", "train.custom", "evaluate.custom", "train.describe"]
)
def test_unknown_message_types_get_a_fixed_code(site, refused, kind):
    refused(site.ask(kind, request(site.job_text())), Refusal.POLICY)
    incoming, outgoing = site.audit
    assert incoming["asked"] == outgoing["asked"] == kind
    assert outgoing["decision"] == "refused"
    assert kind in outgoing["why"]


@pytest.mark.parametrize("kind", [DESCRIBE, FIT, TRAIN, EVALUATE])
@pytest.mark.parametrize(
    "content",
    [
        RecordDict(),
        RecordDict({CONFIG: ConfigRecord({})}),
        RecordDict({CONFIG: ConfigRecord({JOB: b"bytes"})}),
        RecordDict({CONFIG: ConfigRecord({JOB: 5, "server-round": b"bytes"})}),
        RecordDict({"other": ConfigRecord({JOB: "{}"})}),
    ],
)
def test_message_without_a_job_is_refused(site, refused, kind, content):
    refused(site.ask(kind, content), Refusal.PROTOCOL)
    assert len(site.audit) == 2


@pytest.mark.parametrize("kind", [TRAIN, EVALUATE])
def test_message_without_or_with_other_weights_is_refused(site, refused, kind):
    job, arrays = site.fitted_job()
    refused(site.ask(kind, request(job)), Refusal.PROTOCOL)
    wrong = {name: a[..., :1] for name, a in unpack_arrays(arrays).items()}
    refused(site.ask(kind, site.with_weights(job, pack_arrays(wrong))), Refusal.PROTOCOL)
    unfitted = site.with_weights(site.job_text(), arrays)
    refused(site.ask(kind, unfitted), Refusal.PROTOCOL)


def test_client_half_cannot_train_longer_than_the_policy(make_site, refused, monkeypatch):
    """A half that takes its epochs from the round's config meets the limit too."""

    def half(local):
        epochs = int(local.number("local-epochs", 1))
        return LocalResult(local.train(LocalObjective(), local_epochs=epochs), {})

    monkeypatch.setattr(runner, "client_update", lambda *_: half)
    site = make_site(max_local_epochs=2)
    job, arrays = site.fitted_job()
    allowed, too_many = ({"local-epochs": n} for n in (2, 3))
    assert not site.ask(TRAIN, site.with_weights(job, arrays, **allowed)).has_error()
    refused(site.ask(TRAIN, site.with_weights(job, arrays, **too_many)), Refusal.POLICY)


def test_diverged_training_is_told_by_its_code_only(site, refused):
    mlp = {"name": "mlp", "params": {"hidden": [8]}}
    job, arrays = site.fitted_job(model=mlp, train={"lr": 1e30, "local_epochs": 3})
    refused(site.ask(TRAIN, site.with_weights(job, arrays)), Refusal.DIVERGED)


def test_rare_categories_are_folded_before_they_leave(make_site, csv_sites):
    text = csv_sites[0].read_text().replace(",f,", ",f,", 1).splitlines()
    text[1] = text[1].replace(",f,", ",zebra,").replace(",m,", ",zebra,")
    csv_sites[0].write_text("\n".join(text))
    site = make_site(min_group_size=2)
    names = site.fit().content.array_records[STATS].keys()
    assert any("value/f" in name for name in names)
    assert not any("zebra" in name for name in names)


SUBGROUPS = {
    "few": {"column": "x1", "min": 2.0},
    "many": {"column": "sex", "values": ["f"]},
    "nearly_all": {"column": "x1", "max": 2.0},
    "all": {"column": "x1", "max": 1e9},
    "none": {"column": "x1", "min": 1e9},
}


def _scopes(site):
    schema = {**site.job["schema"], "subgroups": SUBGROUPS}
    job, arrays = site.fitted_job(schema=schema)
    reply = site.ask(EVALUATE, site.with_weights(job, arrays))
    names = reply.content.array_records[STATS].keys()
    return {name.split("/")[1] for name in names if name.startswith("subgroups/")}, names


@pytest.mark.parametrize("minimum", [None, 1, 5])
def test_sums_of_a_small_subgroup_do_not_leave(make_site, csv_sites, minimum):
    """Nor do those of one that is all rows but a few: the difference would tell them."""
    lines = csv_sites[0].read_text().splitlines()
    header, rows = lines[0], [line.split(",") for line in lines[1:]]
    for i, row in enumerate(rows):
        row[0] = "3.0" if i < 2 else str(i / 100)
    csv_sites[0].write_text("\n".join([header, *map(",".join, rows)]))
    copy = csv_sites[0].with_name("copy.csv")
    copy.write_text(csv_sites[0].read_text())
    data = {"holdout": copy.name}
    site = make_site(data, **({} if minimum is None else {"min_subgroup_rows": minimum}))
    scopes, names = _scopes(site)
    expected = {"few", "many", "nearly_all", "all"}
    assert scopes == (expected if minimum == 1 else {"many", "all"})
    assert any(name.startswith("overall/") for name in names)


def test_data_without_subgroup_sizes_sends_none_of_them(make_site, monkeypatch):
    from tasks.tabular.data import TabularData

    site = make_site(min_subgroup_rows=2)
    monkeypatch.delattr(TabularData, "subgroup_rows")
    assert _scopes(site)[0] == set()


def test_corrected_file_is_read_anew(site, csv_sites):
    def rows():
        reply = site.ask(DESCRIBE, request(site.job_text()))
        return sum(reply.content.metric_records["metrics"].values())

    assert rows() == 60
    csv_sites[0].write_text("\n".join(csv_sites[0].read_text().splitlines()[:41]))
    assert rows() == 40


def test_server_that_asks_for_many_splits_does_not_fill_the_memory(site):
    before = len(site_job._readings)
    for seed in range(20):
        site.fit(split_seed=seed)
    assert len(site_job._readings) <= before + 1


def test_site_can_pin_its_split(make_site):
    site = make_site({"split_seed": 3})
    replies = [site.fit(split_seed=seed).content.array_records[STATS] for seed in (0, 1)]
    one, two = (json.dumps({k: a.numpy().tolist() for k, a in r.items()}) for r in replies)
    assert one == two


def test_server_error_message_is_answered_with_a_fixed_code(site):
    from flwr.app import Error
    from flwr.app.message import make_message

    metadata = Message(RecordDict(), 2, TRAIN).metadata
    message = make_message(metadata=metadata, error=Error(1, "x"))
    from fl_client.app import app

    reply = app(message, site.context)
    assert reply.error.code in {r.code for r in Refusal}
