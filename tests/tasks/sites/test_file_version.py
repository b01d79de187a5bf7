"""A resident client notices changed data, however deep, and nothing else."""

from __future__ import annotations

import os

import pytest

from fl_client.policy.site import site_from_mapping
from fl_client.site_job import SiteJob
from fl_server.commands.usecases import job_of
from tasks.sites.file_version import file_version
from tests.tasks.image_classification.conftest import Site


@pytest.fixture
def folder(tmp_path):
    return Site(tmp_path / "site").folder()


def relabel(folder):
    (folder / "disc" / "p00.png").rename(folder / "ring" / "p99.png")


def remove(folder):
    (folder / "cross" / "p00.png").unlink()


def rewrite(folder):
    path = folder / "disc" / "p00.png"
    path.write_bytes(path.read_bytes())
    os.utime(path, (1, 1))


@pytest.mark.parametrize("change", [relabel, remove, rewrite])
def test_change_below_a_folder_is_noticed(folder, change):
    before = file_version(str(folder))
    assert file_version(str(folder)) == before
    change(folder)
    assert file_version(str(folder)) != before


def test_log_and_budget_beside_the_pictures_are_no_change(folder):
    before = file_version(str(folder))
    for name in ("audit.jsonl", "epsilon.json", ".epsilon.json.partial"):
        (folder / name).write_text("{}")
    assert file_version(str(folder)) == before


@pytest.mark.parametrize("name", [None, "", "dataset:digits", "/nowhere/at/all"])
def test_what_is_not_there_has_no_stamp(name):
    assert file_version(name) is None


def test_resident_client_reads_a_changed_folder_again(folder, tmp_path):
    raw = {"name": "ward", "data": {"train": "site/folder"}, "policy": {"min_rows": 1}}
    site = site_from_mapping(raw, "site.yaml", tmp_path)
    classes = "usecase.classes=[disc,ring,cross]"
    job = job_of("image_classification", [classes, "model=simple_cnn"]).to_json()
    first = SiteJob.open(site, job).data
    assert SiteJob.open(site, job).data is first
    remove(folder)
    second = SiteJob.open(site, job).data
    assert second.num_train + second.num_holdout == first.num_train + first.num_holdout - 1
