"""torchvision's detectors, the pixels that they see, and files to start from."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torchvision.models import resnet18

from fl_common.errors import ConfigError
from tasks.contract import ModelSpec, TrainConfig
from tasks.object_detection.augment import Augment, Loader
from tasks.object_detection.data import DetectionData
from tasks.object_detection.pixels import PADDING, boxed, letterbox, pixels
from tasks.object_detection.suppression import suppress
from tasks.testing import NONE, assert_same
from tests.tasks.object_detection.shapes import TINY, shape_sources, shape_task, write_shapes

SPECS = {
    "fasterrcnn": ModelSpec("fasterrcnn", TINY | {"anchor_sizes": [16, 32]}),
    "retinanet": ModelSpec("retinanet", TINY | {"anchor_sizes": [16, 32]}),
    "fcos": ModelSpec("fcos", TINY),
    "ssdlite": ModelSpec("ssdlite"),
}
FCOS = SPECS["fcos"]


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    return write_shapes(tmp_path_factory.mktemp("shapes"), count=20)


@pytest.fixture
def task():
    return shape_task()


@pytest.fixture
def data(task, shapes):
    return task.read(shape_sources(shapes, 2)[0], 0)


@pytest.mark.parametrize("name", SPECS)
def test_every_family_trains_alike_twice_and_evaluates(task, data, name):
    model = task.build(SPECS[name], {}, 0)
    start = model.arrays()
    config = TrainConfig("adamw", lr=0.001, batch_size=3, local_steps=2)
    first = task.train(model, data, config, NONE, 1)
    model.load(start)
    second = task.train(model, data, config, NONE, 1)
    assert np.isfinite(first.loss)
    assert first.loss == second.loss
    assert_same(first.arrays, second.arrays)
    stats = task.evaluate(model, data)
    assert stats["overall/images"][0] == data.num_holdout
    kinds = model.layer_kinds()
    assert {"head", "body"} <= set(kinds.values())
    assert kinds.keys() == first.arrays.keys()


@pytest.mark.parametrize("name", SPECS)
def test_pictures_without_objects_and_single_pictures_train(task, data, name):
    empty = [item for item in (*data.train, *data.holdout) if not len(item.labels)]
    background = DetectionData("a", empty[:1], data.holdout, [])
    outcome = task.train(task.build(SPECS[name], {}, 0), background, TrainConfig(lr=1e-4), NONE, 0)
    assert np.isfinite(outcome.loss)


@pytest.mark.parametrize(
    ("name", "backbone"),
    [
        ("fcos", "resnet18"),
        ("fasterrcnn", "mobilenet_v3_small"),
        ("retinanet", "mobilenet_v2"),
        ("fcos", "mobilenet_v3_large"),
    ],
)
def test_backbones_by_name_detect(task, data, name, backbone):
    model = task.build(ModelSpec(name, {"backbone": backbone}), {}, 0)
    found = model.detect([model.boxed(data.holdout[0].image())])
    assert found[0].boxes.shape[1] == 4
    assert all(p.requires_grad for p in model.module.parameters())


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        (ModelSpec("retinanet", {"anchor_sizes": []}), "expected pixels"),
        (ModelSpec("retinanet", {"anchor_sizes": [0]}), "expected pixels"),
        (ModelSpec("retinanet", TINY | {"anchor_sizes": [16]}), "has 2 maps"),
        (ModelSpec("ssdlite", {"backbone": "tiny"}), "no parameter 'backbone'"),
    ],
)
def test_bad_parameters_are_named(task, spec, says):
    with pytest.raises(ConfigError) as caught:
        task.check(spec, TrainConfig())
    assert says in str(caught.value)


def test_small_pictures_need_the_tiny_backbone():
    task = shape_task(image_size=32)
    task.check(FCOS, TrainConfig())
    with pytest.raises(ConfigError, match="needs 64"):
        task.check(SPECS["ssdlite"], TrainConfig())


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_backbone_files_are_taken_by_name_and_shape(task, tmp_path, suffix, caplog):
    torch.manual_seed(5)
    state = {name: value.clone() for name, value in resnet18(weights=None).state_dict().items()}
    path = tmp_path / f"resnet18{suffix}"
    torch.save(state, path) if suffix == ".pth" else save_file(state, path)
    spec = ModelSpec("fcos", {"backbone": "resnet18", "pretrained": str(path)})
    model = task.build(spec, {}, 0)
    task.start(model, spec)
    arrays = model.arrays()
    for name in ("conv1.weight", "layer4.1.bn2.running_var", "layer3.0.downsample.0.weight"):
        np.testing.assert_array_equal(arrays[f"backbone.body.{name}"], state[name].numpy())
    (record,) = caplog.records
    assert f" of {len(arrays)} arrays taken from {path}; the others" in record.message


@pytest.mark.parametrize("lost", ["nothing", "a layer", "everything"])
def test_files_of_another_or_half_a_backbone_are_refused(task, tmp_path, lost):
    state = resnet18(weights=None).state_dict()
    if lost != "nothing":
        state = {n: v for n, v in state.items() if lost == "a layer" and "layer4" not in n}
        state["other"] = torch.zeros(1)
    path = tmp_path / "weights.safetensors"
    save_file(dict(state), path)
    backbone = "resnet50" if lost == "nothing" else "resnet18"
    spec = ModelSpec("retinanet", {"backbone": backbone, "pretrained": str(path)})
    model = task.build(spec, {}, 0)
    before = model.arrays()
    with pytest.raises(ConfigError, match=r"\d+ of \d+ arrays of 'retinanet' fit .*backbone"):
        task.start(model, spec)
    assert_same(model.arrays(), before)


def test_whole_detectors_are_taken_but_for_another_head(task, tmp_path, caplog):
    other = shape_task(classes=["a", "b", "c"])
    trained = other.build(FCOS, {}, 3).arrays()
    path = tmp_path / "model.safetensors"
    save_file({name: torch.tensor(array) for name, array in trained.items()}, path)
    spec = ModelSpec("fcos", TINY | {"pretrained": str(path)})
    task.start(task.build(spec, {}, 0), spec)
    assert "the others start from random values" in caplog.text
    caplog.clear()
    same = other.build(spec, {}, 0)
    other.start(same, spec)
    assert_same(same.arrays(), trained)
    assert f"{len(trained)} of {len(trained)} arrays taken from {path}" in caplog.text
    assert "random" not in caplog.text


@pytest.mark.parametrize("size", [(100, 80), (80, 100), (64, 64), (7, 300)])
@pytest.mark.parametrize("keep_ratio", [True, False])
def test_boxes_there_and_back(size, keep_ratio):
    frame = letterbox(*size, 64, keep_ratio=keep_ratio)
    boxes = np.array([[0, 0, *size], [1.5, 2, 5, 60]], dtype=np.float32).clip(0, [*size, *size])
    inside = frame.into(boxes)
    assert inside.min() >= 0
    assert inside.max() <= 64.001
    np.testing.assert_allclose(frame.back(inside, *size), boxes, atol=1e-3)


def test_letterbox_pads_with_grey_and_stretching_does_not():
    white = Image.new("RGB", (100, 50), "white")
    image, frame, *size = boxed(white, 64)
    assert size == [100, 50]
    assert (frame.width, frame.height, frame.offset) == (64, 32, (0, 16))
    assert torch.allclose(image[:, :16], torch.tensor(PADDING))
    assert torch.allclose(image[:, 16:48], torch.tensor(1.0))
    assert torch.allclose(boxed(white, 64, keep_ratio=False).pixels, torch.tensor(1.0))


def test_augmented_boxes_stay_on_their_shapes(data):
    augment = Augment(0.5, 0.5, scale=0.3, translate=0.2, colour=0.1, mosaic=0.5)
    loader = Loader(data.train, 64, augment, np.random.default_rng(0))
    seen = 0
    for _ in range(6):
        images, targets = loader.batch(range(len(data.train)))
        for image, target in zip(images, targets, strict=True):
            for (x1, y1, x2, y2), label in zip(target.boxes.tolist(), target.labels, strict=True):
                assert 0 <= x1 < x2 <= 64
                assert 0 <= y1 < y2 <= 64
                red, _, blue = image[:, int((y1 + y2) / 2), int((x1 + x2) / 2)].tolist()
                seen += 1
                if min(x2 - x1, y2 - y1) > 6:  # squares are red, discs blue, also when cut
                    assert (red > blue) is (int(label) == 0)
    assert seen > 50


def test_no_augmentation_shows_the_picture_itself(data):
    loader = Loader(data.train, 64, Augment.from_mapping(None), np.random.default_rng(0))
    images, (target,) = loader.batch([0])
    assert torch.equal(images[0], pixels(data.train[0].image()))
    np.testing.assert_allclose(target.boxes.numpy(), data.train[0].boxes, atol=1e-4)


def test_suppression_is_by_class_and_bounded():
    boxes = torch.tensor([[0, 0, 10, 10], [0, 0, 10, 9], [20, 20, 30, 30], [0, 0, 10, 10.0]])
    scores = torch.tensor([[0.9, 0.0005], [0.8, 0.0], [0.4, 0.6], [0.0, 0.7]])
    kept, values, labels = suppress(boxes, scores, nms_iou=0.5, max_detections=10)
    assert [round(v, 2) for v in values.tolist()] == [0.9, 0.7, 0.6, 0.4]
    assert labels.tolist() == [0, 1, 1, 0]
    assert kept.shape == (4, 4)
    assert len(suppress(boxes, scores, 0.5, 2)[0]) == 2
    assert len(suppress(boxes, scores, 0.95, 10)[0]) == 5
