"""Masks by number, palette and colour; pairs, splits, and every fault."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from fl_common.errors import ConfigError, DataError
from tasks.contract import DataSource, Partition
from tasks.images.augment import IGNORED
from tasks.semantic_segmentation.data import read_site, scene_kinds
from tasks.semantic_segmentation.masks import palette_image, read_mask

from .conftest import CLASSES, scene

PALETTE = [0, 0, 0, 255, 0, 0, 0, 0, 255]
COLOURS = {"ground": [0, 0, 0], "square": [255, 0, 0], "disc": [0, 0, 255]}


def _numbered(*values):
    return dict(zip(CLASSES, values, strict=True))


def _with_palette(mask):
    image = Image.fromarray(mask).convert("P")
    image.putpalette(PALETTE + [0] * 759)
    return image


def _coloured(mask):
    return np.array(list(COLOURS.values()), np.uint8)[mask]


@pytest.mark.parametrize(
    ("convert", "keys"),
    [
        (lambda mask: mask, {}),
        (_with_palette, {}),
        (lambda mask: (mask * 100).astype(np.uint8), {"values": _numbered(0, 100, 200)}),
        (
            lambda mask: mask.astype(np.uint16) * 1000,
            {"values": _numbered(0, 1000, 2000)},
        ),
        (_coloured, {"values": COLOURS}),
        (_with_palette, {"values": COLOURS}),
    ],
)
def test_every_kind_of_mask_gives_the_same_classes(site, make_schema, convert, keys):
    schema = make_schema(**keys)
    data = read_site(DataSource("a", str(site.write(convert))), 0, schema)
    assert (data.num_train, data.num_holdout, data.notes) == (13, 3, [])
    for part in (*data.train.scenes, *data.holdout.scenes):
        number = int(part.mask.path.stem[1:])
        np.testing.assert_array_equal(part.mask.load(), scene(number)[1])
        assert part.counts == tuple(np.bincount(scene(number)[1].ravel(), minlength=3))


@pytest.mark.parametrize("keys", [{}, {"values": COLOURS, "ignore": [[9, 9, 9]]}, {"ignore": 400}])
def test_written_pixels_without_a_label_are_read_back(tmp_path, make_schema, keys):
    mask = scene(3)[1].copy()
    mask[:2] = IGNORED
    schema = make_schema(**keys)
    palette_image(mask, schema).save(tmp_path / "m.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "m.png", schema), mask)
    nameless = make_schema(values=COLOURS)
    with pytest.raises(ConfigError, match=r"usecase\.ignore"):
        palette_image(mask, nameless)


def test_written_masks_are_read_back(tmp_path, make_schema):
    for keys in ({}, {"values": COLOURS}, {"values": _numbered(0, 300, 9)}):
        schema = make_schema(**keys)
        palette_image(scene(3)[1], schema).save(tmp_path / "m.png")
        np.testing.assert_array_equal(read_mask(tmp_path / "m.png", schema), scene(3)[1])


def test_pixels_without_a_label_are_ignored(tmp_path, make_schema):
    mask = scene(0)[1]
    mask[:3] = 255
    mask[3] = 7
    Image.fromarray(mask).save(tmp_path / "m.png")
    found = read_mask(tmp_path / "m.png", make_schema(ignore=[255, 7]))
    assert (found[:4] == IGNORED).all()
    np.testing.assert_array_equal(found[4:], mask[4:])


def test_borders_and_moved_edges_are_without_a_label(site, make_schema):
    schema = make_schema(image_size=24)
    data = read_site(DataSource("a", str(site.write())), 0, schema)
    pictures, masks = data.train.loaders(schema.geometry)
    pixels, labels = pictures.batch(np.arange(3)), masks.batch(np.arange(3))
    assert (pixels.shape, labels.shape) == ((3, 3, 24, 24), (3, 1, 24, 24))
    assert (labels[:, :, :2] == IGNORED).all()
    assert (labels[:, :, 2:22] != IGNORED).all()
    assert (labels[:, :, 22:] == IGNORED).all()


def test_a_folder_may_name_its_own_holdout(site, make_schema):
    site.write(sub="train")
    site.count = 4
    site.write(sub="val")
    with pytest.raises(DataError, match="4 images are in two splits"):
        read_site(DataSource("a", str(site.root)), 0, make_schema())
    for path in (site.root / "val" / "images").glob("*.png"):
        path.write_bytes(path.read_bytes() + b"0")  # another file
    data = read_site(DataSource("a", str(site.root)), 0, make_schema())
    assert (data.num_train, data.num_holdout) == (16, 4)


def _break(root):
    images, masks = root / "images", root / "masks"
    (images / "s00.png").write_bytes(b"")
    (masks / "s01.png").write_bytes(b"no mask")
    (masks / "s02.png").unlink()
    (images / "s03.png").unlink()
    Image.fromarray(np.zeros((5, 5), np.uint8)).save(masks / "s04.png")
    Image.fromarray(np.full((20, 24), 9, np.uint8)).save(masks / "s05.png")
    Image.fromarray(np.full((20, 24), 255, np.uint8)).save(masks / "s06.png")
    Image.fromarray(np.zeros((20, 24, 3), np.uint8)).save(masks / "s07.png")
    Image.fromarray(scene(8)[0]).save(images / "s08.bmp")
    rotated = Image.fromarray(scene(9)[0])
    exif = Image.Exif()
    exif[0x0112] = 3
    rotated.save(images / "s09.png", exif=exif)


BAD = {
    "images are empty": "s00.png",
    "masks cannot be read": "s01.png",
    "images have no mask": "s02.png",
    "masks have no image": "s03.png",
    "masks differ in size from their image": "5 x 5 pixels, its image 24 x 20",
    "masks have a value that is no class": "the value 9 is no class",
    "masks label no pixel": "s06.png",
    "names stand twice": "s08.png",
    "their mask has not": "s09.png",
}


def test_a_mask_beyond_the_limit_is_not_decoded(site, make_schema):
    root = site.write()
    Image.new("L", (300, 300)).save(root / "masks" / "s02.png")
    with pytest.raises(DataError, match="300 x 300 pixels; the limit is 1,000 pixels"):
        read_site(DataSource("a", str(root)), 0, make_schema(max_pixels=1000))


def test_bad_pairs_are_refused_by_name_or_dropped_and_noted(site, make_schema):
    root = site.write()
    _break(root)
    with pytest.raises(DataError) as refused:
        read_site(DataSource("a", str(root)), 0, make_schema())
    data = read_site(DataSource("a", str(root)), 0, make_schema(on_invalid="drop"))
    notes = "\n".join(data.notes)
    for counted, named in BAD.items():
        for text in (str(refused.value), notes):
            assert counted in text
            assert named in text
    assert "mode RGB" in notes
    assert data.num_train + data.num_holdout == 16 - 9


@pytest.mark.parametrize("make", [lambda root: root / "no", lambda root: root])
def test_sources_that_are_no_pairs_are_named(tmp_path, make_schema, make):
    with pytest.raises(DataError, match="images/ and"):
        read_site(DataSource("a", str(make(tmp_path))), 0, make_schema())


def test_laboratories_are_natural_sites(make_schema):
    schema = make_schema(classes=["background", "cytoplasm", "nucleus"])
    for index, name in enumerate(("east", "north", "south", "west")):
        cut = Partition("column", 4, index, column="laboratory")
        data = read_site(DataSource("a", "dataset:cell_masks", partition=cut), 0, schema)
        assert {scene.groups["laboratory"] for scene in data.train.scenes} == {name}
        assert (data.num_train, data.num_holdout) == (48, 12)
        assert len(set(scene_kinds(data.train.scenes))) > 1


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"values": {"ground": 0, "square": 1}}, "for each class"),
        ({"values": {"ground": 0, "square": 1, "disc": 1}}, "the same value"),
        ({"values": {"ground": 0, "square": 1, "disc": [0, 0, 1]}}, "expected numbers"),
        ({"ignore": [[0, 0, 0]]}, "both be numbers or both colours"),
        ({"resize": "crop"}, "expected pad or stretch"),
        ({"boundary_tolerance": -1}, "boundary_tolerance is -1"),
        ({"clases": 1}, "did you mean 'classes'"),
    ],
)
def test_wrong_schemas_are_config_errors(make_schema, keys, message):
    with pytest.raises(ConfigError, match=message):
        make_schema(**keys)
