"""The operator's contact sheet: layout, legend, colours, a private file."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from fl_common.errors import ConfigError, DataError
from fl_server.commands.cli import app
from tasks.images.contact_sheet import TILE, Sheet, Tile, colour, fitted, spread, write_sheet


def sheet(labels=(0,), classes=("cat",), size=5):
    def tile(index):
        return Tile(fitted(Image.new("RGB", (20, 10), (9, 9, 9))), f"p{index}", labels)

    return Sheet("ward", size, tile, classes)


def pixels(path):
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


def count(values, code):
    rgb = [int(code[i : i + 2], 16) for i in (1, 3, 5)]
    return int((values == rgb).all(axis=-1).sum())


def test_hundred_classes_have_a_hundred_colours():
    codes = {colour(label) for label in range(100)}
    assert len(codes) == 100
    assert all(len(code) == 7 for code in codes)


def test_long_legend_takes_more_lines_and_shows_every_class(tmp_path):
    names = [f"a class with a long name {i}" for i in range(40)]
    few = pixels(write_sheet(sheet(), tmp_path / "few.png", [0]))
    many = pixels(write_sheet(sheet(range(40), names), tmp_path / "many.png", [0]))
    assert many.shape[1] == few.shape[1]
    assert many.shape[0] > few.shape[0] + 300
    assert all(count(many, colour(label)) > 50 for label in range(40))


def test_file_is_whole_and_for_its_owner_only(tmp_path):
    path = tmp_path / "sheet.png"
    path.write_text("an older one")
    write_sheet(sheet(), path, spread(5, 3))
    assert path.stat().st_mode & 0o077 == 0
    assert [p.name for p in tmp_path.iterdir()] == ["sheet.png"]


@pytest.mark.parametrize(("size", "most", "rows"), [(10, 4, [0, 3, 6, 9]), (2, 24, [0, 1])])
def test_pictures_are_spread_over_the_list(size, most, rows):
    assert spread(size, most) == rows


@pytest.mark.parametrize("most", [0, 401])
def test_number_of_pictures_is_limited(most):
    with pytest.raises(ConfigError, match="max_images"):
        spread(10, most)


def test_other_endings_and_absent_folders_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"sheet\.jpg is no PNG"):
        write_sheet(sheet(), tmp_path / "sheet.jpg", [0])
    with pytest.raises(DataError, match="cannot be written"):
        write_sheet(sheet(), tmp_path / "nowhere" / "sheet.png", [0])


@pytest.mark.parametrize("size", [(1, 4000), (4000, 1), (8, 8), (1000, 500)])
def test_picture_of_any_shape_fits_its_tile(size):
    assert max(fitted(Image.new("RGB", size)).size) == TILE


def test_names_beyond_the_font_are_replaced(tmp_path):
    assert write_sheet(sheet(classes=("肺",)), tmp_path / "sheet.png", [0]).is_file()


@pytest.mark.parametrize("usecase", ["digits", "cell_masks", "mammography"])
def test_check_draws_a_site_and_sends_nothing(usecase, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    site = f"name: ward\ndata: {{train: 'dataset:{usecase}'}}\naudit: audit.jsonl\n"
    (tmp_path / "site.yaml").write_text(site)
    arguments = ["check", "--site", "site.yaml", "--usecase", usecase, "--preview", "sheet.png"]
    with pytest.raises(SystemExit) as stopped:
        app(arguments)
    assert stopped.value.code == 0
    assert "pictures: sheet.png" in capsys.readouterr().out
    assert sorted(p.name for p in tmp_path.iterdir()) == ["sheet.png", "site.yaml"]
