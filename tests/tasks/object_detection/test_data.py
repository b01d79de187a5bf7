"""The three formats give the same items; splits, partitions and streaming."""

from __future__ import annotations

import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from fl_common.errors import ConfigError, DataError, SchemaError
from tasks.contract import DataSource, Partition
from tasks.datasets import crowd
from tasks.object_detection.data import box_counts, picture_kinds, read_site
from tasks.object_detection.schema import DetectionSchema

from .conftest import BOXES, write_picture, yolo_line


def _read(path, schema, **options):
    return read_site(DataSource("a", str(path), **options), 3, schema)


def _all(data):
    return sorted([*data.train, *data.holdout], key=lambda item: item.name)


@pytest.mark.parametrize("kind", ["yolo", "coco", "voc"])
def test_every_format_gives_the_same_items(kind, site, schema):
    data = _read(getattr(site, kind)(), schema)
    assert (data.num_train, data.num_holdout) == (3, 1)
    assert data.notes == [] or "no training box" in data.notes[0]
    for item, boxes in zip(_all(data), BOXES, strict=True):
        np.testing.assert_allclose(item.boxes, [box[:4] for box in boxes], atol=1e-4)
        assert item.labels.tolist() == [box[4] for box in boxes]
        assert (item.boxes.dtype, item.labels.dtype) == (np.float32, np.int64)
        assert (item.width, item.height) == (100, 80)
        assert item.image().size == (100, 80)
        assert item.image().mode == "RGB"


@pytest.mark.parametrize("kind", ["yolo", "coco", "voc"])
def test_classes_are_mapped_by_name(kind, site):
    schema = DetectionSchema.from_mapping(
        {"classes": ["vehicle"], "class_aliases": {"car": "vehicle", "bus": None}}
    )
    data = _read(getattr(site, kind)(), schema)
    counts = box_counts(_all(data), 1)
    assert counts.sum() == 4
    assert any("3 objects are of a class that the use case ignores" in n for n in data.notes)


def test_yolo_folder_needs_no_manifest(site, schema):
    manifest = site.yolo()
    manifest.unlink()
    assert len(_all(_read(site.root, schema))) == 4
    (site.root / "classes.txt").write_text("bus\ncar\n")
    flipped = _all(_read(site.root, schema))
    assert flipped[0].labels.tolist() == [1, 0]


def test_yolo_folder_holds_pictures_and_labels_together(site, schema):
    write_picture(site.root / "a.png")
    write_picture(site.root / "b.png")
    (site.root / "classes.txt").write_text("car\nbus\n")
    (site.root / "a.txt").write_text(yolo_line(BOXES[0][0]))
    (site.root / "b.txt").write_text("1 0.1 0.1 0.5 0.1 0.5 0.6 0.1 0.6\n")
    first, second = _all(_read(site.root, schema))
    assert first.labels.tolist() == [0]
    np.testing.assert_allclose(second.boxes, [[10, 8, 50, 48]], atol=1e-4)


def test_yolo_val_pictures_are_the_holdout(site, schema):
    manifest = site.yolo()
    write_picture(site.root / "val" / "images" / "v.png")
    (site.root / "val" / "labels").mkdir()
    (site.root / "val" / "labels" / "v.txt").write_text(yolo_line(BOXES[0][0]))
    content = yaml.safe_load(manifest.read_text()) | {"val": "val/images"}
    manifest.write_text(yaml.safe_dump(content))
    data = _read(manifest, schema)
    assert (data.num_train, data.num_holdout) == (4, 1)
    assert data.holdout[0].name.endswith("v.png")


def test_yolo_export_that_points_beside_itself_is_read_as_meant(site, schema):
    manifest = site.yolo()
    for folder in ("train", "valid"):
        (site.root / folder).mkdir()
        for part in ("images", "labels"):
            shutil.copytree(site.root / part, site.root / folder / part)
    changed(site.root / "valid" / "images")
    content = {"train": "../train/images", "val": "../valid/images", "test": "../test/images"}
    manifest.write_text(yaml.safe_dump({**content, "names": ["car", "bus"]}))
    data = _read(manifest, schema)
    assert (data.num_train, data.num_holdout) == (4, 4)
    assert "valid" in data.holdout[0].name
    (site.root.parent / "train").mkdir()
    shutil.copytree(site.root / "images", site.root.parent / "train" / "images")
    shutil.copytree(site.root / "labels", site.root.parent / "train" / "labels")
    there = _read(manifest, schema).train[0].name  # what the file says is there after all
    assert Path(there).resolve().is_relative_to(site.root.parent / "train")


def test_linked_folders_are_followed(site, schema):
    manifest = site.yolo()
    for part in ("images", "labels"):
        (site.root / part).rename(site.root / f"disk_{part}")
        (site.root / part).mkdir()
        (site.root / part / "ward").symlink_to(site.root / f"disk_{part}")
    (site.root / "disk_images" / "loop").symlink_to(site.root / "images")
    items = _all(_read(manifest, schema))
    assert [len(item.labels) for item in items] == [2, 1, 3, 1]


def test_yolo_text_list_of_pictures(site, schema):
    manifest = site.yolo()
    (site.root / "some.txt").write_text("images/p0.png\nimages/p2.png\n\n")
    manifest.write_text(yaml.safe_dump({"train": "some.txt", "names": ["car", "bus"]}))
    assert [len(item.labels) for item in _all(_read(manifest, schema))] == [2, 3]


def test_voc_list_names_a_part(site, schema):
    root = site.voc()
    lists = root / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("p0\np2\np3\n")
    (lists / "test.txt").write_text("p1 1\n")
    data = _read(lists / "train.txt", schema, holdout=str(lists / "test.txt"))
    assert (data.num_train, data.num_holdout) == (3, 1)


def test_pictures_in_both_splits_are_refused(site, schema):
    path = site.yolo()
    with pytest.raises(DataError, match="4 images are in two splits"):
        _read(path, schema, holdout=str(path))


def test_copies_have_one_label_if_their_boxes_are_the_same_in_any_order(site, schema):
    path = site.yolo()
    label, images = site.root / "labels" / "p0.txt", site.root / "images"
    shutil.copy(images / "p0.png", images / "p9.png")
    lines = label.read_text().splitlines()
    (site.root / "labels" / "p9.txt").write_text("\n".join(reversed(lines)))
    assert any("1 images are copies" in note for note in _read(path, schema).notes)
    (site.root / "labels" / "p9.txt").write_text(lines[0])
    with pytest.raises(DataError, match=r"two labels \(\S+p9.png: same as \S+p0.png\)"):
        _read(path, schema)


def changed(folder):
    """Make other files of the pictures in a folder, with the same pixels."""
    for path in folder.glob("*.png"):
        path.write_bytes(path.read_bytes() + b"0")


def test_split_depends_on_the_seed_alone(site, schema):
    path = site.coco()

    def names(seed):
        return [item.name for item in read_site(DataSource("a", str(path)), seed, schema).holdout]

    assert names(1) == names(1)
    assert len({tuple(names(seed)) for seed in range(12)}) > 1
    pinned = DataSource("a", str(path), split_seed=1)
    assert [item.name for item in read_site(pinned, 99, schema).holdout] == names(1)


@pytest.mark.parametrize("kind", ["iid", "size", "dirichlet"])
def test_partition_deals_every_picture_once(kind, site, schema):
    path = site.yolo()
    sites = [_read(path, schema, partition=Partition(kind, 2, index)) for index in range(2)]
    names = [item.name for data in sites for item in (*data.train, *data.holdout)]
    assert len(names) == len(set(names)) == 4


def test_partition_by_place_gives_natural_sites():
    schema = DetectionSchema.from_mapping({"classes": list(crowd.CLASSES)})
    for index, place in enumerate(sorted(crowd.PLACES)):
        partition = Partition("column", 5, index, column="place")
        data = _read("dataset:crowd_detection", schema, partition=partition)
        assert {item.groups["place"] for item in data.train} == {place}
    with pytest.raises(SchemaError, match="choose from 'place'"):
        _read("dataset:crowd_detection", schema, partition=Partition("column", 5, 0, column="town"))


def test_picture_kind_is_its_most_telling_class(site, schema):
    items = _all(_read(site.yolo(), schema))
    assert picture_kinds(items, 2).tolist() == [1, 0, 0, 1]
    assert box_counts(items, 2).tolist() == [[1, 1], [1, 0], [2, 1], [0, 1]]


def test_holdout_is_stratified_by_kind():
    schema = DetectionSchema.from_mapping({"classes": list(crowd.CLASSES)})
    data = _read("dataset:crowd_detection", schema)
    assert (data.num_train, data.num_holdout) == (640, 160)
    kinds = [Counter(picture_kinds(part, 10).tolist()) for part in (data.train, data.holdout)]
    assert set(kinds[1]) >= set(range(10))


def test_ten_thousand_pictures_stream(monkeypatch, live):
    monkeypatch.setattr(crowd, "NUM_SCENES", 10_000)
    template = crowd.scene_record(0)

    def record(index):
        reference = crowd.GeneratedImage("crowd", index, 320, 320, crowd.draw_scene)
        return replace(template, image=reference)

    monkeypatch.setattr(crowd, "scene_record", record)
    schema = DetectionSchema.from_mapping({"classes": list(crowd.CLASSES)})
    data = _read("dataset:crowd_detection", schema)
    assert data.num_train + data.num_holdout == 10_000
    assert live.peak == 0  # generated pictures are not even drawn when they are read
    data.train[0].image()  # what the generator itself keeps
    kept = live.now
    for item in data.train[1:40]:
        assert item.image().size == (320, 320)
        assert live.now == kept


def test_files_on_disk_stream(site, schema, live):
    for index in range(60):
        write_picture(site.root / "images" / f"{index}.png", (400, 300))
    (site.root / "labels").mkdir()
    live.peak = 0
    data = _read(site.root, schema)
    assert live.now == 0  # no picture is kept
    for item in data.train:
        item.image()
        assert live.now == 0
    assert 1 <= live.peak <= 3  # one at a time, and what converting it takes


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("gone.json", "does not exist"),
        ("empty", "no detection data"),
        ("broken.json", "not a readable JSON"),
        ("other.json", "no COCO file"),
        ("broken.yaml", "not a readable YAML"),
        ("list.yaml", "not a YOLO data.yaml"),
        ("nameless.yaml", "needs names"),
        ("trainless.yaml", "no key 'train'"),
        ("folderless.yaml", "no folder or list"),
        ("picture.png", "no detection data"),
    ],
)
def test_unusable_source_is_named(name, match, tmp_path, schema):
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "other.json").write_text('{"images": 3}')
    (tmp_path / "broken.yaml").write_text("a: [")
    (tmp_path / "list.yaml").write_text("- a")
    (tmp_path / "nameless.yaml").write_text("train: .")
    (tmp_path / "trainless.yaml").write_text("names: [a]")
    (tmp_path / "folderless.yaml").write_text("names: [a]\ntrain: nowhere")
    write_picture(tmp_path / "picture.png")
    with pytest.raises(DataError, match=match) as caught:
        _read(tmp_path / name, schema)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_one_picture_is_too_few(tmp_path, schema):
    write_picture(tmp_path / "images" / "a.png")
    (tmp_path / "labels").mkdir()
    with pytest.raises(DataError, match="needs at least 2"):
        _read(tmp_path, schema)


@pytest.mark.parametrize("fraction", [0, 1, -0.5])
def test_holdout_fraction_is_checked(fraction, site, schema):
    with pytest.raises(ConfigError, match="holdout_fraction"):
        _read(site.yolo(), schema, holdout_fraction=fraction)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"clases": ["a"]}, "did you mean 'classes'"),
        ({"classes": []}, "list the classes"),
        ({"classes": ["a", "a"]}, "names a class twice"),
        ({"class_aliases": {"b": "c"}}, "which is no class"),
        ({"class_aliases": {"a": None}}, "is a class already"),
        ({"class_aliases": ["b"]}, "must map"),
        ({"image_size": 3.5}, "image_size is 3.5"),
        ({"image_size": True}, "image_size is True"),
        ({"score_threshold": 2}, "expected 0 to 1"),
        ({"nms_iou": 0}, "nms_iou is 0"),
        ({"max_detections": 0}, "max_detections"),
        ({"resize": "crop"}, "expected pad or stretch"),
        ({"on_invalid": "skip"}, "refuse or drop"),
    ],
)
def test_schema_mistakes_are_named(change, match):
    with pytest.raises(ConfigError, match=match):
        DetectionSchema.from_mapping({"classes": ["a"], **change})
