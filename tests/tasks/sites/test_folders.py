"""Folders are walked through links, and a link that leads back does not hang."""

from __future__ import annotations

import os

import numpy as np
import pytest

from tasks.contract import DataSource
from tasks.registry import load_task
from tasks.sites.file_version import file_version
from tasks.sites.folders import files_below, walk
from tests.tasks.image_classification.conftest import Site
from tests.tasks.semantic_segmentation import conftest as masks


def touch(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")
    return path


def test_endings_are_chosen_in_any_case_and_order_is_fixed(tmp_path):
    for name in ("b/x.PNG", "a/y.png", "a/z.txt", "w.jpg", "c.png/v.png"):
        touch(tmp_path / "in" / name)
    found = [p.relative_to(tmp_path / "in").as_posix() for p in files_below(tmp_path, {".png"})]
    assert found == ["a/y.png", "b/x.PNG", "c.png/v.png"]
    assert files_below(tmp_path / "absent", {".png"}) == []


def test_links_are_followed_but_never_in_a_circle(tmp_path):
    touch(tmp_path / "store" / "cat" / "x.png")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "cat").symlink_to(tmp_path / "store" / "cat")
    (tmp_path / "in" / "kitten").symlink_to(tmp_path / "store" / "cat")
    (tmp_path / "in" / "self").symlink_to(".")
    (tmp_path / "store" / "cat" / "up").symlink_to(tmp_path)
    (tmp_path / "in" / "gone").symlink_to(tmp_path / "nowhere")
    found = [p.relative_to(tmp_path).as_posix() for p in files_below(tmp_path / "in", {".png"})]
    assert {"in/cat/x.png", "in/kitten/x.png"} <= set(found)
    assert len(found) < 10
    assert next(folder for folder, _ in walk(tmp_path / "in" / "self")).endswith("self")


def test_linked_class_folders_are_read_as_real_ones(tmp_path, schema_values):
    real = Site(tmp_path / "store").folder()
    linked = tmp_path / "linked"
    linked.mkdir()
    for folder in real.iterdir():
        (linked / folder.name).symlink_to(folder)
    task = load_task("image_classification", schema_values)
    one, other = (task.read(DataSource("a", str(p)), 0) for p in (real, linked))
    np.testing.assert_array_equal(one.train.labels, other.train.labels)
    assert (one.num_train, one.num_holdout) == (other.num_train, other.num_holdout)
    whole = tmp_path / "whole"
    whole.symlink_to(real)
    assert task.read(DataSource("a", str(whole)), 0).num_train == one.num_train


def test_linked_folders_of_masks_are_read_and_predicted(tmp_path):
    root = masks.Site(tmp_path / "store").write()
    linked = tmp_path / "linked"
    for name in ("images", "masks"):
        (linked / name).mkdir(parents=True)
        (linked / name / "ward").symlink_to(root / name)
    schema = {"classes": ["ground", "square", "disc"], "image_size": 24}
    task = load_task("semantic_segmentation", schema)
    one, other = (task.read(DataSource("a", str(p)), 0) for p in (root, linked))
    assert (one.num_train, one.num_holdout) == (other.num_train, other.num_holdout)


@pytest.mark.parametrize("change", ["add", "remove", "touch"])
def test_a_change_in_a_linked_folder_is_noticed(change, tmp_path):
    file = touch(tmp_path / "store" / "x.png")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "cat").symlink_to(tmp_path / "store")
    before = file_version(str(tmp_path / "in"))
    assert file_version(str(tmp_path / "in")) == before
    if change == "add":
        touch(tmp_path / "store" / "y.png")
    elif change == "remove":
        file.unlink()
    else:
        os.utime(file, (1, 1))
    assert file_version(str(tmp_path / "in")) != before


@pytest.fixture
def schema_values():
    return {"classes": ["disc", "ring", "cross"], "image_size": 16}
