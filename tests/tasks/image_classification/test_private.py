"""DP-SGD on pictures: plain training without noise, bounded with it, refused where it cannot be."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from fl_common.errors import ConfigError
from tasks.contract import DataSource, DpSgd, LocalObjective, ModelSpec, TrainConfig
from tasks.networks.dp_sgd import per_example_gradients
from tasks.registry import load_task

pytest.importorskip("opacus")
NOISELESS = DpSgd(noise_multiplier=0.0, max_grad_norm=1e9, delta=1e-5)
WHOLE = TrainConfig(batch_size=1000, local_steps=2, lr=0.05)
SMALL = ModelSpec("simple_cnn", {"channels": [4, 8], "hidden": 8})
RESIDUAL = ModelSpec("resnet18", {"norm": "group"})
DENSE = ModelSpec(
    "torchvision_classifier", {"architecture": "shufflenet_v2_x0_5", "norm": "frozen"}
)


@pytest.fixture
def task(schema_values):
    return load_task("image_classification", schema_values | {"image_size": 32})


def opened(task, site, spec):
    data = task.read(DataSource("a", str(site.folder())), 0)
    fitted = task.prepare(task.fit(data, 1))
    return data, task.build(spec, fitted, 0)


@pytest.mark.parametrize("spec", [SMALL, RESIDUAL, DENSE], ids=lambda spec: spec.name)
def test_without_noise_and_clipping_it_is_plain_training(task, site, spec):
    """On whole batches: Poisson sampling at rate 1 takes every picture, as an epoch does."""
    data, model = opened(task, site, spec)
    start = model.arrays()
    plain = task.train(model, data, WHOLE, LocalObjective(), 1)
    model.load(start)
    private = task.train(model, data, replace(WHOLE, dp=NOISELESS), LocalObjective(), 1)
    assert private.num_steps == plain.num_steps
    assert any((plain.arrays[name] != start[name]).any() for name in start)
    for name, array in plain.arrays.items():
        np.testing.assert_allclose(private.arrays[name], array, rtol=1e-3, atol=2e-5, err_msg=name)


def test_one_picture_moves_the_gradient_at_most_the_bound(task, site):
    data, model = opened(task, site, RESIDUAL)
    labels = torch.from_numpy(data.train.labels)
    pixels = model.preprocess.normalise(
        torch.from_numpy(data.train.loader(model.preprocess.geometry).batch(np.arange(len(labels))))
    )

    def loss(rows):
        return torch.nn.functional.cross_entropy(model.forward(pixels[rows]), labels[rows])

    def gradient(noise, rows):
        generator = torch.Generator().manual_seed(0)
        config = TrainConfig(dp=noise)
        with per_example_gradients(model, config, 10.0, generator) as noised:
            return torch.cat([g.flatten() for g in noised(loss, rows)])

    rows = torch.arange(8)
    for bound, holds in ((0.05, True), (1e9, False)):
        noise = replace(NOISELESS, max_grad_norm=bound)
        shift = float((gradient(noise, rows) - gradient(noise, rows[:-1])).norm())
        assert (shift <= 0.05 / 10 * (1 + 1e-4)) is holds


def test_models_that_mix_pictures_are_refused_at_launch(task, site):
    config = replace(WHOLE, dp=NOISELESS)
    for norm in ("group", "frozen"):
        task.check(ModelSpec("mobilenet_v3_small", {"norm": norm}), config)
    with pytest.raises(ConfigError, match=r"model\.params\.norm=group"):
        task.check(ModelSpec("mobilenet_v3_small"), config)
    _, model = opened(task, site, ModelSpec("mobilenet_v3_small"))
    assert not model.trains_privately  # so that a site refuses it, whatever the server checked
    assert opened(task, site, SMALL)[1].trains_privately


def test_models_that_opacus_cannot_take_apart_are_refused_with_the_reason(task, monkeypatch):
    import opacus

    def refuses(*_arguments, **_options):
        raise NotImplementedError("Layer X is not supported")

    monkeypatch.setattr(opacus, "GradSampleModule", refuses)
    with pytest.raises(ConfigError, match="Layer X is not supported"):
        task.check(SMALL, replace(WHOLE, dp=NOISELESS))
    task.check(SMALL, WHOLE)


def test_private_training_is_noisy_and_keeps_its_loss(task, site):
    data, model = opened(task, site, SMALL)
    config = replace(WHOLE, dp=DpSgd(noise_multiplier=1.0, max_grad_norm=1.0, delta=1e-5))
    start = model.arrays()
    outcomes = []
    for _ in range(2):
        model.load(start)
        outcomes.append(task.train(model, data, config, LocalObjective(), 1))
    first, second = (outcome.arrays for outcome in outcomes)
    assert any((first[name] != second[name]).any() for name in first)  # not the run's seed
    assert [outcome.loss for outcome in outcomes] == [0.0, 0.0]
    assert not any(m._forward_hooks for m in model.module.modules())
