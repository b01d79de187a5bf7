"""A contact sheet of pictures with their masks laid over them."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageColor

from tasks.contract import DataSource
from tasks.images.contact_sheet import colour
from tasks.semantic_segmentation.data import read_site
from tasks.semantic_segmentation.preview import OPACITY, _tile, contact_sheet

from .conftest import CLASSES


def test_pixels_are_tinted_by_class_and_unlabelled_ones_are_not(site, make_schema):
    def blank_corner(mask):
        mask = mask.copy()
        mask[:4, :4] = 255
        return mask

    data = read_site(DataSource("ward", str(site.write(blank_corner))), 0, make_schema())
    scene = data.train.scenes[0]
    tile = _tile(scene)
    mask = np.asarray(Image.fromarray(scene.mask.load()).resize(tile.picture.size, 0))
    plain = np.asarray(scene.image_ref.load().resize(tile.picture.size, 0), dtype=float)
    shown = np.asarray(tile.picture, dtype=float)
    np.testing.assert_array_equal(shown[mask == 255], plain[mask == 255])
    for label in range(3):
        mixed = plain * (1 - OPACITY) + OPACITY * np.array(ImageColor.getrgb(colour(label)))
        assert abs(shown - mixed)[mask == label].max() <= 0.5
    assert tile.labels == [0, 1, 2]
    assert "3% without label" in tile.caption


def test_sheet_has_the_legend_of_its_classes(site, make_schema, tmp_path):
    data = read_site(DataSource("ward", str(site.write())), 0, make_schema())
    path = contact_sheet(data, tmp_path / "sheet.png", 4, CLASSES)
    assert path.stat().st_mode & 0o077 == 0
    with Image.open(path) as sheet:
        head = np.asarray(sheet.convert("RGB"))[:26].reshape(-1, 3)
    for label in range(3):
        assert (head == ImageColor.getrgb(colour(label))).all(axis=1).sum() > 100
