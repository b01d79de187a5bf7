"""The detection use cases, their picture sets, and the contact sheet."""

from __future__ import annotations

import pickle
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image, ImageDraw

from fl_common.errors import ConfigError, DataError
from tasks.contract import DataSource, Partition
from tasks.datasets import crowd
from tasks.images.datasets import image_dataset_names, load_image_dataset
from tasks.metrics import metric_names
from tasks.object_detection.data import read_site
from tasks.object_detection.preview import contact_sheet
from tasks.object_detection.schema import DetectionSchema

CONF = Path(__file__).resolve().parents[3] / "conf"
COMMON = {"slug", "title", "description", "task", "score", "extra_columns"}


def _conf(slug):
    return yaml.safe_load((CONF / "usecase" / f"{slug}.yaml").read_text())


def _schema(slug):
    usecase = _conf(slug)["usecase"]
    return DetectionSchema.from_mapping({k: v for k, v in usecase.items() if k not in COMMON})


def _dataset(name):
    try:
        return load_image_dataset(name)
    except DataError as absent:
        pytest.skip(f"{name} is not here: {absent}")


@pytest.mark.parametrize("slug", ["crowd_detection", "aerial_cars", "blood_cells"])
def test_usecase_fits_its_pictures(slug):
    conf = _conf(slug)
    usecase, data = conf["usecase"], conf["data"]
    _dataset(data["dataset"])
    kind = "column" if "partition" in conf else "iid"
    column = conf.get("partition", {}).get("column")
    schema = _schema(slug)
    names = metric_names("detection", schema.classes)
    assert usecase["score"]["name"] in names
    assert {shown.removeprefix("overall/") for shown in usecase["extra_columns"]} <= set(names)
    for index in range(data["num_sites"]):
        partition = Partition(kind, data["num_sites"], index, column=column)
        source = DataSource("a", f"dataset:{data['dataset']}", partition=partition)
        site = read_site(source, 0, schema)
        assert site.num_train > site.num_holdout > 0
        assert not any("no training box" in note for note in site.notes)


def test_aerial_sites_are_sequences_and_hold_out_their_last_frames():
    _dataset("aerial_cars")
    for index, (stem, boxes) in enumerate([("MOS", 255), ("MunichStreet02-MOS", 370)]):
        source = DataSource(
            "a", "dataset:aerial_cars", partition=Partition("column", 2, index, column="sequence")
        )
        site = read_site(source, 0, _schema("aerial_cars"))
        frames = [Path(item.name).stem for item in (*site.train, *site.holdout)]
        assert frames == [f"{stem}{number}" for number in range(74, 94, 2)]
        assert sum(len(item.labels) for item in (*site.train, *site.holdout)) == boxes


def test_crowd_has_the_stated_imbalance():
    counts = Counter(n for i in range(crowd.NUM_SCENES) for n in crowd.layout(i).figures)
    names = Counter(figure.name for figure in counts)
    order = [name for name, _ in names.most_common()]
    assert order[:2] == ["car", "pedestrian"]
    assert order[-1] == "awning-tricycle"
    assert names["car"] > 20 * names["awning-tricycle"] > 2000
    assert set(names) == set(crowd.CLASSES)


def test_scene_is_the_same_every_time_and_unlike_its_neighbour():
    first = np.asarray(crowd.draw_scene(7))
    crowd.layout.cache_clear()
    np.testing.assert_array_equal(first, np.asarray(crowd.draw_scene(7)))
    assert (first != np.asarray(crowd.draw_scene(8))).mean() > 0.5


@pytest.mark.parametrize("name", crowd.CLASSES)
@pytest.mark.parametrize("angle", [0.0, 0.4, 1.2, 2.5, 4.0])
def test_box_is_the_outline_of_the_drawn_figure(name, angle):
    figure = crowd.Figure(name, 160.0, 160.0, angle, 1.0)
    large = Image.new("RGB", (640, 640))
    crowd.draw_figure(ImageDraw.Draw(large), figure, np.random.default_rng(0))
    drawn = np.array(large.convert("L").point(lambda v: 255 * (v > 0)).getbbox()) / 2
    np.testing.assert_allclose(drawn, figure.box, atol=1.0)
    box = np.array(figure.box)
    assert np.prod(drawn[2:] - drawn[:2]) / np.prod(box[2:] - box[:2]) > 0.7


def test_figures_are_of_several_sizes_and_some_scenes_hold_none():
    scenes = [crowd.layout(index) for index in range(200)]
    lengths = [f.box[2] - f.box[0] for s in scenes for f in s.figures if f.name == "pedestrian"]
    assert max(lengths) > 1.8 * min(lengths)
    assert 2 <= sum(not scene.figures for scene in scenes) <= 20
    assert any(not crowd.scene_record(index).names for index in range(200))


def test_trees_hide_figures_in_part_but_never_their_middle():
    hidden = 0
    for index in range(60):
        scene = crowd.layout(index)
        for figure in scene.figures:
            for x, y, radius in scene.trees:
                assert np.hypot(figure.x - x, figure.y - y) >= radius
                hidden += bool((np.hypot(*(figure.outline - (x, y)).T) < radius).any())
    assert hidden > 30


def test_figures_do_not_overlap():
    for index in range(40):
        figures = crowd.layout(index).figures
        for place, one in enumerate(figures):
            assert not any(crowd.collide(one, two) for two in figures[place + 1 :])


def test_scene_reference_travels_to_workers():
    reference = pickle.loads(pickle.dumps(crowd.scene_record(3).image))
    assert reference.name == "crowd_detection/00003"
    assert reference.load().size == (320, 320)


def test_image_datasets_are_listed_and_a_near_name_is_suggested():
    assert {"crowd_detection", "aerial_cars", "blood_cells"} <= set(image_dataset_names())
    with pytest.raises(ConfigError, match="did you mean 'blood_cells'"):
        load_image_dataset("blood_cell")


@pytest.mark.parametrize("name", ["aerial_cars", "blood_cells"])
def test_absent_data_folder_is_named(name, tmp_path, monkeypatch):
    monkeypatch.setenv("FEDLEAGUE_DATA", str(tmp_path))
    with pytest.raises(DataError, match=r"is absent; put the data set there.*FEDLEAGUE_DATA"):
        load_image_dataset(name)


def test_contact_sheet_shows_boxes_and_is_private(site, schema, tmp_path):
    data = read_site(DataSource("ward", str(site.yolo())), 0, schema)
    path = contact_sheet(data, tmp_path / "sheet.png", 2, schema.classes)
    assert path.stat().st_mode & 0o077 == 0
    assert [p.name for p in tmp_path.iterdir() if "partial" in p.name] == []
    with Image.open(path) as sheet:
        pixels = np.asarray(sheet.convert("RGB")).reshape(-1, 3)
    for colour in ((0xE6, 0x19, 0x4B), (0x3C, 0xB4, 0x4B)):
        assert (pixels == colour).all(axis=1).sum() > 100


def test_contact_sheet_is_limited(site, schema, tmp_path):
    data = read_site(DataSource("ward", str(site.yolo())), 0, schema)
    with pytest.raises(ConfigError, match="max_images"):
        contact_sheet(data, tmp_path / "a.png", 0)
    with pytest.raises(DataError, match="cannot be written"):
        contact_sheet(data, tmp_path / "nowhere" / "a.png")
