"""A job at a site: the policy decides first, the data are read once, the model is built once."""

import json

import pytest

from fl_client import site_job
from fl_client.policy.site import read_site
from fl_client.site_job import SiteJob, job_parts
from fl_common.errors import DataError, PolicyError, ReplyError
from strategies.wire.job import Job


@pytest.fixture(autouse=True)
def forget():
    job_parts.cache_clear()
    site_job._readings.clear()


@pytest.fixture
def reads(monkeypatch):
    """Count how often a task reads a site's rows."""
    from tasks.tabular.adapter import TabularTask

    calls = []
    real = TabularTask.read

    def read(self, source, seed):
        calls.append(source.name)
        return real(self, source, seed)

    monkeypatch.setattr(TabularTask, "read", read)
    return calls


def test_policy_decides_before_anything_is_read(make_site, reads):
    site = make_site(tasks=["image_classification"])
    with pytest.raises(PolicyError, match=r"policy\.tasks"):
        SiteJob.open(read_site(site.path), site.job_text())
    assert reads == []


def test_opening_reads_no_data(site, reads):
    job = SiteJob.open(read_site(site.path), site.job_text())
    assert reads == []
    assert job.data is job.data
    assert reads == ["clinic"]


def test_rows_are_read_once_for_all_messages_of_a_run(site, reads):
    config, text = read_site(site.path), site.job_text()
    fitted, _ = site.fitted_job()
    first = SiteJob.open(config, text).data
    assert SiteJob.open(config, text).data is first
    assert SiteJob.open(config, fitted).data is first  # the preprocessing changes no row
    assert reads == ["clinic"]


def test_another_split_or_schema_is_another_reading(site, reads):
    config = read_site(site.path)
    schema = {**site.job["schema"], "subgroups": {"women": {"column": "sex", "values": ["f"]}}}
    for changes in ({}, {"split_seed": 1}, {"schema": schema}):
        assert SiteJob.open(config, site.job_text(**changes)).data.num_train == 48
    assert reads == ["clinic"] * 3


def test_the_model_is_built_once_for_a_text(site):
    text, _ = site.fitted_job()
    config = read_site(site.path)
    assert SiteJob.open(config, text).model is SiteJob.open(config, text).model
    assert SiteJob.open(config, text).model is job_parts(text).model


def test_a_job_without_preprocessing_has_no_model(site):
    with pytest.raises(ReplyError, match="no fitted preprocessing"):
        SiteJob.open(read_site(site.path), site.job_text()).model  # noqa: B018


def test_too_few_rows_are_refused_each_time(make_site, reads):
    site = make_site(min_rows=1000)
    for _ in range(2):
        with pytest.raises(PolicyError, match=r"policy\.min_rows is 1000"):
            SiteJob.open(read_site(site.path), site.job_text()).data  # noqa: B018


def test_text_that_is_no_job_is_refused(site):
    with pytest.raises(ReplyError, match="cannot be read"):
        SiteJob.open(read_site(site.path), "no job")


def test_missing_file_is_named(make_site):
    site = make_site({"train": "nowhere.csv"})
    with pytest.raises(DataError, match=r"nowhere\.csv"):
        SiteJob.open(read_site(site.path), site.job_text()).data  # noqa: B018


def test_memory_is_that_of_the_run(site):
    config = read_site(site.path)
    assert SiteJob.open(config, site.job_text()).memory is None  # a job without a run
    one, two = (SiteJob.open(config, site.job_text(run=run)).memory for run in ("one", "two"))
    assert one.budget_file != two.budget_file
    again = SiteJob.open(config, site.job_text(run="one"))
    assert again.memory.budget_file == one.budget_file


def test_job_says_what_its_text_says(site):
    job = SiteJob.open(read_site(site.path), site.job_text(seed=5))
    assert job.job == Job.from_json(json.dumps({**site.job, "seed": 5}))
    assert job.policy is job.site.policy
