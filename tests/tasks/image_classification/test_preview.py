"""A contact sheet of labelled pictures."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from fl_common.errors import DataError
from tasks.contract import DataSource
from tasks.image_classification.data import read_site
from tasks.image_classification.preview import contact_sheet
from tasks.image_classification.schema import ImageSchema
from tasks.images.contact_sheet import TILE, colour

from .conftest import CLASSES, Site


@pytest.fixture
def read(schema_values):
    schema = ImageSchema.from_mapping(schema_values)
    return lambda path: read_site(DataSource("ward", str(path)), 0, schema)


def framed(path, label):
    """Count pixels of the frames in a class's colour; a frame has some 3,900 of them."""
    rgb = [int(colour(label)[i : i + 2], 16) for i in (1, 3, 5)]
    with Image.open(path) as sheet:
        return int((np.asarray(sheet.convert("RGB")) == rgb).all(axis=-1).sum())


def test_every_class_is_framed_in_its_colour(site, read, tmp_path):
    path = contact_sheet(read(site.manifest()), tmp_path / "sheet.png", 6, CLASSES)
    frame = 4 * 3 * TILE
    for label in range(3):
        assert framed(path, label) == pytest.approx(2 * frame, rel=0.1)


def test_rare_class_is_shown(tmp_path, read):
    site = Site(tmp_path / "site", (200, 100, 3))
    path = contact_sheet(read(site.folder()), tmp_path / "sheet.png", 9, CLASSES)
    assert framed(path, 2) > 2 * 4 * 3 * TILE * 0.9


def test_vanished_picture_is_named(site, read, tmp_path):
    data = read(site.folder())
    for file in (site.root / "folder").rglob("*.png"):
        file.unlink()
    with pytest.raises(DataError, match=r"p\d\d\.png"):
        contact_sheet(data, tmp_path / "sheet.png", 6, CLASSES)
    assert not (tmp_path / "sheet.png").exists()
