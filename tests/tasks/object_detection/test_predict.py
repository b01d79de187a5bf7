"""Predictions for every kind of input, damaged ones included."""

from __future__ import annotations

import json

import numpy as np
import pytest
import yaml

from fl_common.errors import DataError
from tasks.contract import DataSource, LocalObjective, ModelSpec, TrainConfig
from tasks.metrics import detection_stats, finalise_detection
from tasks.metrics.detection import Detections
from tests.tasks.object_detection.shapes import TINY, shape_task, write_shapes

from .conftest import write_picture

FCOS = ModelSpec("fcos", TINY)


def _predict(path, **schema):
    task = shape_task(classes=["car", "bus"], score_threshold=0.0, **schema)
    return task.predict(task.build(FCOS, {}, 0), path)


def _names(found):
    return [row["file_name"] for row in found.content["images"]]


def test_numbers_of_a_coco_file_are_kept(site):
    found = _predict(site.coco()).content
    assert [(row["id"], row["file_name"]) for row in found["images"]] == [
        (5 + i, f"p{i}.png") for i in range(4)
    ]
    assert {row["name"]: row["id"] for row in found["categories"]} == {"car": 3, "bus": 7}
    assert {row["category_id"] for row in found["annotations"]} <= {3, 7}
    json.dumps(found)


@pytest.mark.parametrize(
    ("categories", "numbers"),
    [
        ([{"id": "c", "name": "car"}, {"id": "b", "name": "bus"}], {"car": "c", "bus": "b"}),
        ([{"id": "c", "name": "car"}], {"car": "c", "bus": 2}),
        ([{"id": 1, "name": "bus"}, {"id": 2, "name": "tram"}], {"car": 3, "bus": 1}),
        ([{"id": [1], "name": "car"}, {"name": "bus"}], {"car": 1, "bus": 2}),
        ([], {"car": 1, "bus": 2}),
    ],
)
def test_numbers_of_categories_may_be_text_foreign_or_absent(site, categories, numbers):
    found = _predict(site.coco(lambda content: content.update(categories=categories)))
    assert {row["name"]: row["id"] for row in found.content["categories"]} == numbers


def test_coco_file_without_labels_is_enough(site):
    def unlabelled(content):
        del content["annotations"], content["categories"]

    assert _names(_predict(site.coco(unlabelled))) == [f"p{i}.png" for i in range(4)]


@pytest.mark.parametrize("text", ["{", "[1, 2]", "3", '{"images": 3}', '{"images": [3]}'])
def test_broken_coco_file_is_named(tmp_path, text):
    path = tmp_path / "broken.json"
    path.write_text(text)
    with pytest.raises(DataError, match=r"broken\.json") as caught:
        _predict(path)
    assert "\n" not in str(caught.value)


def test_coco_image_without_a_name_is_a_bad_picture(site):
    path = site.coco(lambda content: content["images"].append({"id": 77}))
    with pytest.raises(DataError, match=r"1 pictures cannot be used .*image 4 lacks"):
        _predict(path)
    assert len(_predict(path, on_invalid="drop")) == 4


@pytest.mark.parametrize("kind", ["folder", "voc", "one"])
def test_other_inputs(site, kind):
    root = site.voc() if kind == "voc" else site.yolo().parent / "images"
    path = root / "p0.png" if kind == "one" else root
    found = _predict(path)
    assert len(found) == (1 if kind == "one" else 4)
    assert (found.content["images"][0]["width"], found.content["images"][0]["height"]) == (100, 80)
    assert found.notes == ()


def test_linked_folders_are_followed(site, tmp_path):
    folder = tmp_path / "new"
    folder.mkdir()
    (folder / "ward").symlink_to(site.yolo().parent / "images")
    (folder / "loop").symlink_to(folder)
    assert _names(_predict(folder)) == [f"ward/p{i}.png" for i in range(4)]


def test_labels_are_not_looked_at(site):
    root = site.voc()
    (root / "Annotations" / "p0.xml").write_text("<broken")
    (root / "Annotations" / "p1.xml").unlink()
    assert len(_predict(root)) == 4


def test_list_of_voc_pictures_is_followed(site):
    lists = site.voc() / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    (lists / "test.txt").write_text("p2\np0\n")
    assert _names(_predict(lists / "test.txt")) == ["p2.png", "p0.png"]


@pytest.mark.parametrize(
    ("splits", "read"),
    [
        (("train",), "train"),
        (("train", "val"), "val"),
        (("train", "val", "test"), "test"),
        (("train", "val", "absent test"), "val"),
    ],
)
def test_the_last_split_of_a_data_yaml_is_read_and_named(tmp_path, splits, read):
    content = {}
    for split in splits:
        content[split.split()[-1]] = f"{split}/images"
        if "absent" not in split:
            write_picture(tmp_path / split / "images" / f"{split}.png")
    (tmp_path / "data.yaml").write_text(yaml.safe_dump(content))  # names are labels: not needed
    found = _predict(tmp_path / "data.yaml")
    assert _names(found) == [f"{read}/images/{read}.png"]
    assert found.notes == (f"read: the {read} pictures of {tmp_path / 'data.yaml'}",)


def test_bad_pictures_are_all_named_at_once_or_left_out(site):
    folder = site.yolo().parent / "images"
    (folder / "p1.png").write_bytes(b"x")
    (folder / "p3.png").write_bytes((folder / "p3.png").read_bytes()[:3000])
    with pytest.raises(DataError, match=r"2 pictures cannot be used .*p1\.png.*p3\.png"):
        _predict(folder)
    found = _predict(folder, on_invalid="drop")
    assert _names(found) == ["p0.png", "p2.png"]
    (note,) = found.notes
    assert note.startswith("left out: 2 pictures cannot be used")
    assert "p1.png" in note
    assert "p3.png" in note


def test_bad_pictures_of_later_batches_are_named_too(tmp_path):
    for number in range(40):
        write_picture(tmp_path / f"{number:02d}.png", (20, 20))
    for number in (3, 39):
        (tmp_path / f"{number:02d}.png").write_bytes(b"x")
    with pytest.raises(DataError, match=r"03\.png.*39\.png"):
        _predict(tmp_path)


@pytest.mark.parametrize("on_invalid", ["refuse", "drop"])
def test_nothing_but_bad_pictures_is_an_error(tmp_path, on_invalid):
    (tmp_path / "a.png").write_bytes(b"x")
    with pytest.raises(DataError, match=r"1 pictures cannot be used .*a\.png"):
        _predict(tmp_path, on_invalid=on_invalid)


def test_file_that_cannot_be_written_is_named(site, tmp_path):
    found = _predict(site.coco())
    with pytest.raises(DataError, match="cannot be written"):
        found.write(tmp_path / "nowhere" / "found.json")
    assert "4 pictures" in found.write(tmp_path / "found.json")
    assert json.loads((tmp_path / "found.json").read_text()) == found.content
    assert [path.name for path in tmp_path.iterdir() if "part" in path.name] == []


def test_a_metric_of_the_file_is_the_reported_one_and_a_threshold_cuts_it(tmp_path):
    task = shape_task()
    path = write_shapes(tmp_path / "shapes", 40)
    data = task.read(DataSource("a", str(path)), 0)
    folder = tmp_path / "held"
    folder.mkdir()
    held = folder / task.export(DataSource("a", str(path)), 0, folder)["holdout"]
    fitted = task.prepare(task.fit(data, 1))
    model = task.build(FCOS, fitted, 0)
    config = TrainConfig(optimizer="adam", lr=0.003, batch_size=8, local_epochs=6)
    task.train(model, data, config, LocalObjective(), 0)
    reported = task.finalise(task.evaluate(model, data), fitted).overall

    def scored(content):
        boxes = {image["id"]: [] for image in content["images"]}
        for row in content["annotations"]:
            boxes[row["image_id"]].append(row)
        found = [_detections(rows) for rows in boxes.values()]
        stats = detection_stats(data.holdout, found, 2, task.schema.score_threshold)
        return finalise_detection(stats, task.schema.classes).values["map50"]

    found = task.predict(model, held)
    assert reported.values["map50"] > 0.05
    assert scored(found.content) == pytest.approx(reported.values["map50"], abs=1e-3)
    cut = found.above(0.25)
    assert 0 < len(cut.content["annotations"]) < len(found.content["annotations"])
    assert min(row["score"] for row in cut.content["annotations"]) >= 0.25
    assert [row["id"] for row in cut.content["annotations"]][:2] == [1, 2]
    assert len(cut) == len(found)


def _detections(rows):
    corners = [[x, y, x + w, y + h] for x, y, w, h in (row["bbox"] for row in rows)]
    return Detections(
        np.array(corners, dtype=np.float32).reshape(-1, 4),
        np.array([row["score"] for row in rows], dtype=np.float32),
        np.array([row["category_id"] for row in rows], dtype=np.int64),
    )
