"""YOLO by ultralytics: the contract, its boundary, and its own validator's numbers."""

from __future__ import annotations

import ast
import copy
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.numpy import load_file

from fl_common.errors import ConfigError
from fl_server.config.compose import compose_overrides
from fl_server.runtimes.execution import execute
from fl_server.runtimes.simulation import InProcessGrid
from tasks.contract import DataSource, LocalObjective, ModelSpec, TrainConfig, child_seed
from tasks.object_detection import ultralytics_yolo
from tasks.registry import load_task
from tasks.testing import NONE, TaskContract, assert_same
from tests.tasks.object_detection.shapes import (
    TINY_YOLO,
    shape_sources,
    shape_task,
    write_shapes,
)
from tests.unchecked import unchecked

ROOT = Path(__file__).resolve().parents[3]
YOLO = ModelSpec("yolo", TINY_YOLO)
present = pytest.mark.skipif(find_spec("ultralytics") is None, reason="ultralytics is not here")


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    return write_shapes(tmp_path_factory.mktemp("shapes"), count=30)


@pytest.fixture
def sources(shapes):
    return shape_sources(shapes, 2)


@pytest.fixture
def task():
    return shape_task()


@pytest.fixture
def data(task, sources):
    return task.read(sources[0], 0)


@present
class TestYolo(TaskContract):
    @pytest.fixture
    def spec(self):
        return YOLO

    def test_training_lowers_the_loss(self, task, model, sites):
        # an untrained network is assigned next to no target, so the loss rises before it falls
        config = TrainConfig("adamw", lr=0.002, batch_size=4, local_epochs=2)
        losses = [task.train(model, sites[0], config, NONE, seed).loss for seed in range(8)]
        assert losses[-1] < 0.8 * max(losses)

    def test_a_strong_proximal_term_keeps_weights_near_the_anchor(self, task, model, sites):
        start, found = model.arrays(), []
        config = TrainConfig(lr=0.01, batch_size=8, local_epochs=8)
        for mu in (0.0, 50.0):
            model.load(start)
            objective = LocalObjective(proximal_mu=mu, anchor=start)
            after = task.train(model, sites[0], config, objective, 1).arrays
            moving = [n for n in start if "running_" not in n]  # statistics have no gradient
            found.append(sum(float(((after[n] - start[n]) ** 2).sum()) for n in moving))
        assert found[1] < 0.5 * found[0]


@present
@pytest.mark.parametrize("config", ["yolov8n.yaml", "yolo12n.yaml", "yolo26n.yaml"])
def test_other_generations_train_and_detect(task, data, config):
    params = {"config": config, "width": None if "12" in config else 0.0625}
    model = task.build(ModelSpec("yolo", params), {}, 0)
    outcome = task.train(model, data, TrainConfig("adamw", lr=0.001, local_steps=1), NONE, 0)
    assert np.isfinite(outcome.loss)
    assert task.evaluate(model, data)["overall/images"][0] == data.num_holdout


@present
def test_what_travels_are_weights_and_statistics(task):
    model = task.build(YOLO, {}, 0)
    arrays, kinds = model.arrays(), model.layer_kinds()
    assert {array.dtype for array in arrays.values()} == {np.dtype(np.float32)}
    assert any(name.endswith("running_var") for name in arrays)
    assert not any("dfl" in name or "num_batches" in name for name in arrays)
    assert kinds.keys() == arrays.keys()
    assert set(kinds.values()) == {"norm", "head", "body"}
    assert all(kind != "body" for name, kind in kinds.items() if name.startswith("model.23."))


@present
def test_statistics_move_in_training_only(task, data):
    model = task.build(YOLO, {}, 0)
    before = model.arrays()
    task.evaluate(model, data)
    assert_same(model.arrays(), before)
    still = unchecked(TrainConfig(local_steps=1), lr=0.0)
    after = task.train(model, data, still, NONE, 0).arrays
    moved = {name for name, array in before.items() if (after[name] != array).any()}
    assert moved == {name for name in before if "running_" in name}


@present
@pytest.mark.parametrize(
    ("params", "schema", "says"),
    [
        ({"config": "yolo11q.yaml"}, {}, "no size 'q'"),
        ({"config": "yolo11n-seg.yaml"}, {}, "no plain detector"),
        ({"config": "yolo99n.yaml"}, {}, "does not exist"),
        ({"config": "/etc/passwd"}, {}, "does not exist"),
        ({"config": "../yolo11n.yaml"}, {}, "does not exist"),
        ({"width": -1}, {}, "width is -1"),
        ({"depth": "x"}, {}, "depth is 'x'"),
        ({"config": "yolo12n.yaml", "width": 0.03}, {}, "choose larger ones"),
        ({}, {"image_size": 100}, "multiple of 32"),
        ({}, {"image_size": 32}, "from 64"),
    ],
)
def test_bad_parameters_are_named(params, schema, says):
    with pytest.raises(ConfigError) as caught:
        shape_task(**schema).check(ModelSpec("yolo", params), TrainConfig())
    assert says in str(caught.value)


def test_missing_package_is_one_line(task, monkeypatch):
    for name in [n for n in sys.modules if n.split(".")[0] == "ultralytics"] + ["ultralytics"]:
        monkeypatch.setitem(sys.modules, name, None)
    ultralytics_yolo._layouts.cache_clear()
    with pytest.raises(ConfigError, match=r"pip install 'fedleague\[yolo\]'"):
        task.check(YOLO, TrainConfig())
    task.check(ModelSpec("fcos", {"backbone": "tiny"}), TrainConfig())


def test_only_one_module_imports_the_agpl_package():
    importers = set()
    for package in ("tasks", "strategies", "fl_client", "fl_server"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Import | ast.ImportFrom):
                    origin = getattr(node, "module", None) or ""
                    names = (origin, *(alias.name for alias in node.names))
                    if any(name.split(".")[0] == "ultralytics" for name in names):
                        importers.add(path.name)
    assert importers == {"ultralytics_yolo.py"}


@present
def test_process_is_as_before_and_nothing_is_written(tmp_path):
    code = """
import os, sys, warnings, numpy as np, torch
import tasks.object_detection.adapter as adapter
assert "ultralytics" not in sys.modules
def state():
    return (dict(os.environ), torch.save, np.get_printoptions(), sys.excepthook,
            torch._tensor_str.PRINT_OPTS.linewidth, list(warnings.filters))
before = state()
from tasks.contract import ModelSpec
task = adapter.ObjectDetection({"classes": ["a"], "image_size": 64})
task.build(ModelSpec("yolo", {"width": 0.0625}), {}, 0)
assert "ultralytics" in sys.modules
for old, new in zip(before, state(), strict=True):
    assert old == new, (old, new)
"""
    home = {"HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | home,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == done.stderr == ""
    assert not list(tmp_path.iterdir())


@present
def test_checkpoint_of_the_package_is_read_without_running_code(task, tmp_path):
    trained = task.build(YOLO, {}, 9)
    module = copy.deepcopy(trained.module)
    module.args = {}
    path = tmp_path / "best.pt"
    torch.save({"epoch": 3, "model": module.half(), "ema": None, "train_args": {}}, path)
    model = task.build(YOLO, {}, 0)
    task.start(model, ModelSpec("yolo", TINY_YOLO | {"pretrained": str(path)}))
    for name, array in trained.arrays().items():
        np.testing.assert_allclose(model.arrays()[name], array, atol=2e-3)

    other = shape_task(classes=["a", "b", "c"])  # a head for other classes is not taken
    fresh = other.build(YOLO, {}, 0)
    before = fresh.arrays()
    other.start(fresh, ModelSpec("yolo", TINY_YOLO | {"pretrained": str(path)}))
    changed = {n for n, array in fresh.arrays().items() if (array != before[n]).any()}
    assert "model.0.conv.weight" in changed
    assert not any(before[n].shape != trained.arrays()[n].shape for n in changed)


@present
@pytest.mark.parametrize("content", [b"", b"junk", "code"])
def test_bad_checkpoints_are_refused(task, tmp_path, content):
    path = tmp_path / "bad.pt"
    if content == "code":
        torch.save({"model": os.system}, path)
    else:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"bad\.pt") as caught:
        task.check(ModelSpec("yolo", TINY_YOLO | {"pretrained": str(path)}), TrainConfig())
    assert ("posix.system" in str(caught.value)) is (content == "code")
    assert "ultralytics.nn" not in str(caught.value)
    assert str(caught.value).isprintable()  # no colour codes


@present
def test_checkpoint_within_a_training_is_read(task, tmp_path):
    trained = task.build(YOLO, {}, 9)
    from ultralytics.utils import IterableSimpleNamespace

    module = copy.deepcopy(trained.module)
    module.args = IterableSimpleNamespace(box=7.5)  # as in epoch3.pt and last.pt before the end
    path = tmp_path / "epoch3.pt"
    torch.save({"epoch": 3, "model": None, "ema": module.half(), "optimizer": {}}, path)
    model = task.build(YOLO, {}, 0)
    task.start(model, ModelSpec("yolo", TINY_YOLO | {"pretrained": str(path)}))
    for name, array in trained.arrays().items():
        np.testing.assert_allclose(model.arrays()[name], array, atol=2e-3)
    torch.save(trained.module.state_dict(), path)  # what the refusal of other files asks for
    task.start(model, ModelSpec("yolo", TINY_YOLO | {"pretrained": str(path)}))
    assert_same(model.arrays(), trained.arrays())


@present
def test_checkpoint_of_another_architecture_is_refused(task, tmp_path, caplog):
    path = tmp_path / "best.pt"
    torch.save({"model": task.build(YOLO, {}, 9).module, "ema": None}, path)
    for params in ({"config": "yolov8n.yaml"}, {"width": 0.125}):
        spec = ModelSpec("yolo", {**TINY_YOLO, **params, "pretrained": str(path)})
        model = task.build(spec, {}, 0)
        before = model.arrays()
        with pytest.raises(ConfigError, match=r"\d+ of \d+ arrays of 'yolo' fit .*config"):
            task.start(model, spec)
        assert_same(model.arrays(), before)
    other = shape_task(classes=["a", "b", "c"])
    spec = ModelSpec("yolo", TINY_YOLO | {"pretrained": str(path)})
    other.start(other.build(spec, {}, 0), spec)
    (record,) = caplog.records
    assert re.search(r"411 of 417 arrays taken from .*best\.pt; the others", record.message)


@present
def test_one_site_federated_equals_the_central_loop_bit_for_bit(shapes, tmp_path):
    config = compose_overrides(
        [
            "usecase=object_detection",
            "usecase.classes=[square,disc]",
            "usecase.image_size=64",
            "model.params.width=0.0625",
            f"data.sites=[{shapes}]",
            "train.local_epochs=1",
            "train.batch_size=8",
            "rounds=2",
            "seed=4",
            "board.url=null",
        ],
        tmp_path / "run",
    )
    execute(InProcessGrid(config.site_data), config)
    task = load_task(config.usecase.task, config.schema)
    (site,) = config.site_data
    source = DataSource(name=site["name"], **site["data"])
    data = task.read(source, config.split_seed)
    model = task.build(config.model, task.prepare(task.fit(data, 1)), config.seed)
    for number in (1, 2):
        seed = child_seed(config.seed, "train", source.name, number)
        task.train(model, data, config.train, NONE, seed)
    arrays = model.arrays()
    weights = load_file(config.folder / "model.safetensors")
    assert_same({name: weights[name] for name in arrays}, arrays)


@present
@pytest.mark.slow
def test_map_equals_the_packages_own_validator(tmp_path, monkeypatch):
    large = {"cells": 1, "sizes": (42, 66)}  # ultralytics assigns no target to a tiny first box
    root = write_shapes(tmp_path / "held", count=300, side=96, seed=1, **large).parent
    seen = write_shapes(tmp_path / "seen", count=60, side=96, **large)
    task = shape_task(image_size=64, max_detections=300)
    data = task.read(DataSource("all", str(seen), holdout=str(root)), 0)
    model = task.build(ModelSpec("yolo", TINY_YOLO | {"width": 0.125}), {}, 0)
    untrained = task.finalise(task.evaluate(model, data), {}).overall.values
    for lr, epochs in ((0.003, 18), (0.0005, 2)):
        config = TrainConfig("adamw", lr=lr, batch_size=8, local_epochs=epochs)
        task.train(model, data, config, NONE, epochs)
    ours = task.finalise(task.evaluate(model, data), {}).overall.values
    theirs = _reference_ultralytics_map(model.module, root, tmp_path, monkeypatch)
    assert ours["map50"] > 0.5 > untrained["map50"]
    assert ours["map50"] == pytest.approx(theirs["metrics/mAP50(B)"], abs=0.01)
    assert ours["map"] == pytest.approx(theirs["metrics/mAP50-95(B)"], abs=0.01)


def _reference_ultralytics_map(module, root, tmp_path, monkeypatch):
    """Return the validator's scores for the same weights, pictures and settings."""
    manifest = {"path": str(root), "train": "images", "val": "images"}
    path = root / "val.yaml"
    path.write_text(yaml.safe_dump(manifest | {"names": ["square", "disc"]}))
    monkeypatch.setenv("YOLO_CONFIG_DIR", str(tmp_path))
    from ultralytics.models.yolo.detect import DetectionValidator

    module = copy.deepcopy(module)
    module.names = {0: "square", 1: "disc"}
    settings = {
        "data": str(path),
        "imgsz": 64,
        "batch": 8,
        "conf": 0.001,
        "iou": 0.6,
        "max_det": 300,
        "rect": False,
        "plots": False,
        "workers": 0,
        "device": "cpu",
        "mode": "val",
        "verbose": False,
    }
    validator = DetectionValidator(args=settings, save_dir=tmp_path / "val")
    return validator(model=module)
