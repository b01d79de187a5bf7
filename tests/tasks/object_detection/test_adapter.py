"""The task's contract on a tiny network, and what is particular to detection."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fl_client.data_check import check_site_file
from fl_common.errors import ConfigError, DivergedError, SchemaError
from strategies.wire.job import Job
from tasks.contract import LocalObjective, ModelSpec, TrainConfig
from tasks.object_detection.data import DetectionData
from tasks.stats import Stats
from tasks.testing import NONE, TaskContract, assert_same
from tests.tasks.object_detection.shapes import (
    SCHEMA,
    TINY,
    shape_sources,
    shape_task,
    write_shapes,
)

FCOS = ModelSpec("fcos", TINY)
ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    return write_shapes(tmp_path_factory.mktemp("shapes"))


@pytest.fixture
def sources(shapes):
    return shape_sources(shapes)


@pytest.fixture
def task():
    return shape_task()


@pytest.fixture
def data(task, sources):
    return task.read(sources[0], 0)


class TestFcos(TaskContract):
    @pytest.fixture
    def spec(self):
        return FCOS


def test_augmented_training_is_deterministic(task, data):
    strong = {"flip": 0.5, "flip_vertical": 0.5, "scale": 0.4, "translate": 0.2, "colour": 0.4}
    model = task.build(ModelSpec("fcos", TINY | {"augment": strong | {"mosaic": 0.5}}), {}, 0)
    start, config = model.arrays(), TrainConfig("adam", lr=0.001, batch_size=4)
    first = task.train(model, data, config, NONE, 5)
    torch.rand(3)  # the global generator is neither used nor moved
    model.load(start)
    assert_same(task.train(model, data, config, NONE, 5).arrays, first.arrays)
    model.load(start)
    other = task.train(model, data, config, NONE, 6).arrays
    assert any((other[n] != array).any() for n, array in first.arrays.items())


def test_global_generator_is_left_alone(task, data):
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    model = task.build(FCOS, {}, 0)
    task.train(model, data, TrainConfig(batch_size=8), NONE, 0)
    task.evaluate(model, data)
    assert torch.equal(torch.rand(1), expected)


def test_pooled_evaluation_equals_evaluation_of_all_pictures(task, sources):
    sites = [task.read(source, 0) for source in sources]
    model = task.build(FCOS, {}, 0)
    task.train(model, sites[0], TrainConfig("adam", lr=0.003, local_epochs=3), NONE, 0)
    pooled = Stats.total(task.evaluate(model, site) for site in sites)
    holdout = [item for site in sites for item in site.holdout]
    central = task.evaluate(model, DetectionData("all", [], holdout, []))
    for name, array in central.items():
        np.testing.assert_allclose(pooled[name], array, rtol=1e-12)
    assert pooled["overall/images"][0] == len(holdout)


def test_blank_has_the_form_of_an_evaluation(task, data):
    model = task.build(FCOS, {}, 0)
    stats, blank = task.evaluate(model, data), task.empty_stats(model)
    assert stats.keys() == blank.keys()
    for name, array in blank.items():
        assert (array.shape, array.dtype) == (stats[name].shape, stats[name].dtype)
        assert not array.any()


def test_fit_counts_pictures_not_boxes_and_hides_rare_classes(task, data):
    assert task.fit(data, 1)["pictures"] == data.num_train
    assert (task.fit(data, 1)["showing"] <= data.num_train).all()
    assert not task.fit(data, data.num_train + 1)["showing"].any()
    with pytest.raises(SchemaError, match="no training picture"):
        task.prepare(Stats({"sites": 1, "pictures": 3, "showing": np.zeros(2, np.int64)}))


@pytest.mark.parametrize(
    ("spec", "config", "says"),
    [
        (ModelSpec("yolo12", {}), TrainConfig(), "did you mean 'yolo'"),
        (ModelSpec("fcos", {"backbon": "tiny"}), TrainConfig(), "did you mean 'backbone'"),
        (ModelSpec("fcos", {"backbone": "resnet19"}), TrainConfig(), "did you mean"),
        (ModelSpec("fcos", TINY | {"augment": {"flop": 1}}), TrainConfig(), "'flip'"),
        (ModelSpec("fcos", TINY | {"augment": {"flip": 2}}), TrainConfig(), "augment.flip is 2"),
        (ModelSpec("fcos", TINY | {"augment": "x"}), TrainConfig(), "augment is 'x'"),
        (ModelSpec("fcos", TINY | {"pretrained": 3}), TrainConfig(), "pretrained is 3"),
        (ModelSpec("fcos", TINY | {"pretrained": "gone.pt"}), TrainConfig(), "no such file"),
        (FCOS, TrainConfig(optimizer="sdg"), "did you mean 'sgd'"),
        (FCOS, TrainConfig(loss="mse"), "brings its own loss"),
        (FCOS, TrainConfig(class_weight="balanced"), "expected none"),
        (FCOS, TrainConfig(lr=1e31), "train.lr is 1e+31"),
    ],
)
def test_bad_choices_are_named_before_any_site_is_asked(task, spec, config, says):
    with pytest.raises(ConfigError) as caught:
        task.check(spec, config)
    assert says in str(caught.value)


def test_sites_never_open_the_organisers_file(task):
    task.build(ModelSpec("fcos", TINY | {"pretrained": "/organiser/only.pt"}), {}, 0)


def test_weights_that_are_no_numbers_stop_evaluation(task, data):
    model = task.build(FCOS, {}, 0)
    arrays = model.arrays()
    name = next(iter(arrays))
    arrays[name][...] = np.nan
    model.load(arrays)
    with pytest.raises(DivergedError):
        task.evaluate(model, data)


def test_scaffold_correction_reaches_every_parameter(task, data):
    model = task.build(FCOS, {}, 0)
    start = model.arrays()
    config = TrainConfig(lr=0.01, batch_size=64, local_steps=1)
    plain = task.train(model, data, config, NONE, 0).arrays
    model.load(start)
    linear = {name: np.ones_like(array) for name, array in start.items()}
    moved = task.train(model, data, config, LocalObjective(linear=linear), 0).arrays
    for name in start:
        np.testing.assert_allclose(moved[name], plain[name] - 0.01, atol=1e-6)


def test_one_picture_of_full_size_is_in_memory_at_a_time(task, data, shapes, live):
    model = task.build(FCOS, {}, 0)
    everything = DetectionData("all", data.train, [*data.train, *data.holdout], [])
    for work in (
        lambda: task.train(model, everything, TrainConfig(batch_size=8, local_steps=2), NONE, 0),
        lambda: task.evaluate(model, everything),
        lambda: task.predict(model, shapes),
    ):
        live.peak = 0
        work()
        assert live.now == 0
        assert 1 <= live.peak <= 3


PEAK_MEMORY = """
import resource, sys
from pathlib import Path
from tasks.contract import DataSource, LocalObjective, ModelSpec, TrainConfig
from tasks.registry import load_task

for root in sys.argv[1:]:
    task = load_task("object_detection", {"classes": ["a"], "image_size": 64})
    data = task.read(DataSource("a", root, holdout_fraction=0.5), 0)
    model = task.build(ModelSpec("fcos", {"backbone": "tiny"}), {}, 0)
    config = TrainConfig(lr=0.001, batch_size=16, local_steps=1)
    task.train(model, data, config, LocalObjective(), 0)
    task.evaluate(model, data)
    task.predict(model, Path(root))
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
def test_memory_of_a_site_is_that_of_a_few_pictures(tmp_path):
    sizes = {"small": (640, 480), "large": (6000, 4000)}
    for name, size in sizes.items():
        for folder in ("images", "labels"):
            (tmp_path / name / folder).mkdir(parents=True)
        first = tmp_path / name / "images" / "0.jpg"
        Image.effect_noise((100, 100), 40).convert("RGB").resize(size).save(first, quality=20)
        for number in range(40):
            if number:
                other = first.with_name(f"{number}.jpg")  # a file of its own, not a copy
                other.write_bytes(first.read_bytes() + bytes([number]))
            (tmp_path / name / "labels" / f"{number}.txt").write_text("0 0.5 0.5 0.3 0.3")
    done = subprocess.run(
        [sys.executable, "-c", PEAK_MEMORY, *(str(tmp_path / name) for name in sizes)],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    small, large = (int(line) * 1024 for line in done.stdout.split())
    picture = 6000 * 4000 * 3  # bytes; a batch of 16 is 1.2 GB, its floats 4.6 GB
    assert large < 4 * 2**30
    assert large - small < 6 * picture


def test_predictions_are_coco_and_read_back(task, shapes, tmp_path):
    from pycocotools.coco import COCO

    model = task.build(FCOS, {}, 0)
    source = shape_sources(shapes, 1)[0]
    everything = task.read(source, 0)
    task.train(model, everything, TrainConfig("adam", lr=0.003, local_epochs=8), NONE, 0)
    found = task.predict(model, shapes).above(task.schema.score_threshold)
    path = tmp_path / "found.json"
    path.write_text(found.to_text())
    coco = COCO(str(path))
    assert len(found) == len(coco.getImgIds()) == 48
    assert [c["name"] for c in coco.loadCats(coco.getCatIds())] == ["square", "disc"]
    rows = coco.loadAnns(coco.getAnnIds())
    assert rows
    for row in rows:
        x, y, width, height = row["bbox"]
        assert row["score"] >= task.schema.score_threshold
        assert x >= 0
        assert y >= 0
        assert x + width <= 64.001
        assert y + height <= 64.001
    results = coco.loadRes(coco.dataset["annotations"])
    assert len(results.getAnnIds()) == len(rows)


def test_operator_sees_the_sites_own_pictures_and_nobody_else(shapes, tmp_path):
    (tmp_path / "site.yaml").write_text(f"name: a\ndata: {{train: {shapes}}}\n")
    sheet = tmp_path / "sheet.png"
    job = Job("object_detection", SCHEMA, FCOS, TrainConfig())
    report = check_site_file(tmp_path / "site.yaml", job.to_json(), sheet)
    assert report.num_train + report.num_holdout == 48
    assert sheet.stat().st_mode & 0o777 == 0o600
    assert sheet.read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_training_beats_the_untrained_network_on_an_easy_set(task, shapes):
    data = task.read(shape_sources(shapes, 1)[0], 0)
    model = task.build(FCOS, {}, 0)

    def map50():
        return task.finalise(task.evaluate(model, data), {}).overall.values["map50"]

    before = map50()
    config = TrainConfig("adam", lr=0.003, batch_size=8, local_epochs=40)
    outcome = task.train(model, data, config, NONE, 0)
    assert outcome.loss < 1.0
    assert map50() > 0.8 > before
