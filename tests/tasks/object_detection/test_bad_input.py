"""Every fault of pictures and labels is counted and named, then refused or dropped."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from PIL import Image

from fl_common.errors import DataError
from tasks.contract import DataSource
from tasks.datasets.folder import data_root
from tasks.images.issues import NEUTRAL
from tasks.object_detection.data import read_site
from tasks.object_detection.schema import DetectionSchema

from .conftest import write_picture, yolo_line


def _append(site, *lines, name="p0"):
    with (site.root / "labels" / f"{name}.txt").open("a") as file:
        file.write("\n".join(lines) + "\n")


def _cut(site):
    path = site.root / "images" / "p0.png"
    path.write_bytes(path.read_bytes()[:3000])


def _sixteen_bit(site):
    values = np.full((80, 100), 40_000, dtype=np.uint16)
    Image.fromarray(values).save(site.root / "images" / "p0.png")


def _turned(site):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (80, 100)).save(site.root / "images" / "p0.png", exif=exif)


def _converted(site, mode, kind="png"):
    path = site.root / "images" / "p0.png"
    picture = Image.open(path).convert(mode)
    path.unlink()
    picture.save(path.with_suffix(f".{kind}"))


# name: what is done to a YOLO site; what is reported; boxes and pictures that are left of 7 and 4
YOLO = {
    "truncated": (_cut, "truncated", 5, 3),
    "empty file": (
        lambda s: (s.root / "images" / "p0.png").write_bytes(b""),
        "zero_size",
        5,
        3,
    ),
    "no image": (
        lambda s: (s.root / "images" / "p0.png").write_bytes(b"hello"),
        "unreadable",
        5,
        3,
    ),
    "sixteen bit": (_sixteen_bit, "sixteen_bit", 7, 4),
    "cmyk": (lambda s: _converted(s, "CMYK", "jpg"), "cmyk", 7, 4),
    "palette": (lambda s: _converted(s, "P"), "palette", 7, 4),
    "alpha": (lambda s: _converted(s, "RGBA"), "alpha", 7, 4),
    "rotated": (_turned, "exif_rotated", 7, 4),
    "partly outside": (lambda s: _append(s, "0 0.99 0.5 0.2 0.2"), "box_clipped", 8, 4),
    "fully outside": (lambda s: _append(s, "0 1.5 0.5 0.2 0.2"), "box_outside", 7, 4),
    "inverted": (lambda s: _append(s, "0 0.5 0.5 -0.2 0.2"), "box_inverted", 7, 4),
    "no area": (lambda s: _append(s, "0 0.5 0.5 0 0.2"), "box_empty", 7, 4),
    "not a number": (lambda s: _append(s, "0 nan 0.5 0.2 0.2"), "box_not_finite", 7, 4),
    "infinite": (lambda s: _append(s, "0 0.5 0.5 inf 0.2"), "box_not_finite", 7, 4),
    "class out of range": (lambda s: _append(s, "2 0.5 0.5 0.2 0.2"), "unknown_class", 7, 4),
    "negative class": (lambda s: _append(s, "-1 0.5 0.5 0.2 0.2"), "unknown_class", 7, 4),
    "class with a part": (lambda s: _append(s, "0.5 0.5 0.5 0.2 0.2"), "bad_label", 7, 4),
    "words": (lambda s: _append(s, "car 0.5 0.5 0.2 0.2"), "bad_label", 7, 4),
    "missing column": (lambda s: _append(s, "0 0.5 0.5 0.2"), "bad_label", 7, 4),
    "binary label": (
        lambda s: (s.root / "labels" / "p1.txt").write_bytes(b"\xff\x00\x81\n"),
        "bad_label",
        6,
        4,
    ),
    "same box twice": (lambda s: _append(s, yolo_line((10, 10, 30, 20, 0))), "duplicate_box", 7, 4),
    "label without image": (
        lambda s: (s.root / "labels" / "q.txt").write_text("0 0.5 0.5 0.2 0.2"),
        "label_without_image",
        7,
        4,
    ),
    "image without label": (
        lambda s: write_picture(s.root / "images" / "q.png"),
        "image_without_label",
        7,
        5,
    ),
    "empty label": (
        lambda s: (s.root / "labels" / "p1.txt").write_text(""),
        "background",
        6,
        4,
    ),
    "duplicated name": (
        lambda s: write_picture(s.root / "images" / "p0.bmp"),
        "duplicate_name",
        7,
        4,
    ),
}


@pytest.mark.parametrize("fault", YOLO)
def test_yolo_fault_is_refused_or_dropped(fault, site, schema, lenient):
    spoil, kind, boxes, pictures = YOLO[fault]
    path = site.yolo()
    spoil(site)
    _check(path, kind, boxes, pictures, schema, lenient)


def _check(path, kind, boxes, pictures, schema, lenient):
    from tasks.images.issues import DESCRIPTIONS

    source = DataSource("a", str(path))
    if kind not in NEUTRAL:
        with pytest.raises(DataError, match=DESCRIPTIONS[kind]) as caught:
            read_site(source, 0, schema)
        assert "\n" not in str(caught.value)
        assert "on_invalid=drop" in str(caught.value)
    else:
        assert any(DESCRIPTIONS[kind] in note for note in read_site(source, 0, schema).notes)
    data = read_site(source, 0, lenient)
    items = [*data.train, *data.holdout]
    assert sum(len(item.labels) for item in items) == boxes
    assert len(items) == pictures
    assert any(DESCRIPTIONS[kind] in note for note in data.notes), data.notes
    for item in items:
        assert np.isfinite(item.boxes).all()
        assert (item.boxes[:, :2] < item.boxes[:, 2:]).all()
        assert (item.boxes >= 0).all()
        assert (item.boxes <= [item.width, item.height] * 2).all()
        assert item.image().size == (item.width, item.height)


def _with(key, **row):
    return lambda content: content[key].append(row)


def _set(key, place, **row):
    return lambda content: content[key][place].update(row)


BOX = {"id": 99, "image_id": 5, "category_id": 3, "iscrowd": 0}
COCO = {
    "outside": (_with("annotations", **BOX, bbox=[200, 10, 5, 5]), "box_outside", 7, 4),
    "inverted": (_with("annotations", **BOX, bbox=[20, 10, -5, 5]), "box_inverted", 7, 4),
    "empty": (_with("annotations", **BOX, bbox=[20, 10, 0, 5]), "box_empty", 7, 4),
    "no number": (_with("annotations", **BOX, bbox=[20, "x", 5, 5]), "box_not_finite", 7, 4),
    "short": (_with("annotations", **BOX, bbox=[20, 5, 5]), "box_not_finite", 7, 4),
    "no box": (_with("annotations", **BOX), "box_not_finite", 7, 4),
    "no such class": (
        _with("annotations", **{**BOX, "category_id": 8}, bbox=[20, 10, 5, 5]),
        "unknown_class",
        7,
        4,
    ),
    "foreign class": (_with("categories", id=9, name="tram"), None, 7, 4),
    "no such image": (
        _with("annotations", **{**BOX, "image_id": 77}, bbox=[20, 10, 5, 5]),
        "label_without_image",
        7,
        4,
    ),
    "class is a list": (
        _with("annotations", **{**BOX, "category_id": [3]}, bbox=[20, 10, 5, 5]),
        "unknown_class",
        7,
        4,
    ),
    "image is a list": (
        _with("annotations", **{**BOX, "image_id": [5]}, bbox=[20, 10, 5, 5]),
        "bad_label",
        7,
        4,
    ),
    "id of a class is a list": (_with("categories", id=[9], name="tram"), "bad_label", 7, 4),
    "id of a class is absent": (_with("categories", name="tram"), "bad_label", 7, 4),
    "id of an image is a list": (_with("images", id=[9], file_name="q.png"), "bad_label", 7, 4),
    "number of 400 digits": (
        _with("annotations", **BOX, bbox=[10**400, 10, 5, 5]),
        "box_not_finite",
        7,
        4,
    ),
    "name of 4,000 letters": (_set("images", 0, file_name="x" * 4000), "missing", 5, 3),
    "whole numbers with a point": (
        _with("annotations", **{**BOX, "image_id": 5.0, "category_id": 3.0}, bbox=[20, 10, 5, 5]),
        None,
        8,
        4,
    ),
    "crowd": (_with("annotations", **{**BOX, "iscrowd": 1}, bbox=[2, 1, 5, 5]), "crowd", 7, 4),
    "file is gone": (_set("images", 0, file_name="gone.png"), "missing", 5, 3),
    "same id": (_with("images", id=5, file_name="p9.png"), "duplicate_name", 7, 4),
    "same file": (_with("images", id=55, file_name="p0.png"), "duplicate_name", 7, 4),
    "nameless": (_with("images", id=55), "bad_label", 7, 4),
    "other size": (_set("images", 0, width=90), "size_mismatch", 5, 3),
}


@pytest.mark.parametrize("fault", COCO)
def test_coco_fault_is_refused_or_dropped(fault, site, schema, lenient):
    change, kind, boxes, pictures = COCO[fault]
    path = site.coco(change)
    if kind is None:
        data = read_site(DataSource("a", str(path)), 0, schema)
        assert data.num_train == 3
        assert sum(len(item.labels) for item in (*data.train, *data.holdout)) == boxes
        return
    _check(path, kind, boxes, pictures, schema, lenient)


def test_coco_pictures_that_no_file_lists_are_noted(site, schema):
    path = site.coco()
    for name in ("q", "r"):
        write_picture(site.root / "images" / f"{name}.png")
    (site.root / "other.json").write_text("[3]")
    (site.root / "val.json").write_text('{"images": [{"id": 1, "file_name": "r.png"}]}')
    (note,) = read_site(DataSource("a", str(path)), 0, schema).notes
    assert note.startswith("1 images are listed in no JSON file")
    assert note.endswith("q.png)")
    (site.root / "images" / "q.png").unlink()
    assert read_site(DataSource("a", str(path)), 0, schema).notes == []


def _billion_laughs(site):
    entities = '<!DOCTYPE a [<!ENTITY b "bbbbbbbbbb"><!ENTITY c "&b;&b;&b;&b;">]>'
    site.annotation("p0", [], extra=entities)


VOC = {
    "outside": (lambda s: s.annotation("p0", [(200, 1, 210, 9, "car")]), "box_outside", 5, 4),
    "inverted": (lambda s: s.annotation("p0", [(30, 1, 20, 9, "car")]), "box_inverted", 5, 4),
    "empty": (lambda s: s.annotation("p0", [(30, 1, 30, 9, "car")]), "box_empty", 5, 4),
    "no number": (lambda s: s.annotation("p0", [("x", 1, 3, 9, "car")]), "box_not_finite", 5, 4),
    "unknown class": (lambda s: s.annotation("p0", [(1, 1, 3, 9, "cat")]), "unknown_class", 5, 4),
    "other size": (lambda s: s.annotation("p0", [], size=(80, 100)), "size_mismatch", 5, 3),
    "no size": (
        lambda s: s.annotation("p0", [(1, 1, 130, 9, "car")], size=(0, 0)),
        "box_clipped",
        6,
        4,
    ),
    "no object": (lambda s: s.annotation("p0", []), "background", 5, 4),
    "no xml": (
        lambda s: (s.root / "Annotations" / "p0.xml").write_text("<a>"),
        "bad_label",
        5,
        3,
    ),
    "entities": (_billion_laughs, "bad_label", 5, 3),
    "label without image": (
        lambda s: s.annotation("q", [(1, 1, 5, 5, "car")]),
        "label_without_image",
        7,
        4,
    ),
    "image without label": (
        lambda s: write_picture(s.root / "JPEGImages" / "q.png"),
        "image_without_label",
        7,
        5,
    ),
    "duplicated name": (
        lambda s: write_picture(s.root / "JPEGImages" / "p0.tif"),
        "duplicate_name",
        7,
        4,
    ),
}


@pytest.mark.parametrize("fault", VOC)
def test_voc_fault_is_refused_or_dropped(fault, site, schema, lenient):
    spoil, kind, boxes, pictures = VOC[fault]
    path = site.voc()
    spoil(site)
    _check(path, kind, boxes, pictures, schema, lenient)


def test_voc_list_with_a_name_twice_and_one_that_is_nowhere(site, schema, lenient):
    lists = site.voc() / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    path = lists / "train.txt"
    path.write_text("p0\np1\np0\n")
    _check(path, "duplicate_name", 3, 2, schema, lenient)
    path.write_text("p0\np1\nq\n")
    _check(path, "missing", 3, 2, schema, lenient)


def test_site_of_nothing_but_bad_pictures_is_refused_even_when_dropping(site, lenient):
    path = site.yolo()
    for picture in (site.root / "images").iterdir():
        picture.write_bytes(b"x")
    with pytest.raises(DataError, match=r"no usable picture.*4 images cannot be read"):
        read_site(DataSource("a", str(path)), 0, lenient)


def test_picture_that_vanishes_later_is_named(site, schema):
    data = read_site(DataSource("a", str(site.yolo())), 0, schema)
    shutil.rmtree(site.root / "images")
    with pytest.raises(DataError, match=r"p\d\.png: No such file"):
        data.train[0].image()


def test_real_set_with_two_empty_boxes_names_them():
    try:
        if not (data_root() / "bccd").is_dir():
            pytest.skip("BCCD is not here")
    except DataError as absent:
        pytest.skip(f"BCCD is not here: {absent}")
    source = DataSource("a", "dataset:blood_cells")
    cells = {"classes": ["RBC", "WBC", "Platelets"]}
    with pytest.raises(DataError, match=r"2 boxes have no area.*00338.*00343"):
        read_site(source, 0, DetectionSchema.from_mapping(cells))
    data = read_site(source, 0, DetectionSchema.from_mapping({**cells, "on_invalid": "drop"}))
    items = [*data.train, *data.holdout]
    assert len(items) == 364
    assert sum(len(item.labels) for item in items) == 4886
