from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from fl_common.errors import ConfigError, ReplyError
from tasks.contract import LocalObjective, ModelSpec, TrainConfig
from tasks.networks.losses import classification_loss, regression_loss
from tasks.tabular.data import Tensors
from tasks.tabular.models import build_model
from tasks.tabular.training import train_model
from tests.unchecked import unchecked

ENCODER = SimpleNamespace(feature_names=list("abcdefg"), num_outputs=3)
NONE = LocalObjective()


def make(name="mlp", **params):
    return build_model(ModelSpec(name, params), ENCODER, 1)


@pytest.fixture
def data():
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(50, 7, generator=generator)
    return Tensors(inputs, torch.randint(0, 3, (50,), generator=generator))


def train(model, data, config, objective=NONE, seed=5):
    loss = classification_loss(config, [10, 20, 20])
    return train_model(model, data, loss, config, objective=objective, seed=seed)


def _reference_torch_loop(module, data, optimizer, config, seed=5):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(config.local_epochs):
        for index in torch.randperm(50, generator=generator).split(config.batch_size):
            optimizer.zero_grad()
            loss = F.cross_entropy(module(data.inputs[index]), data.targets[index])
            loss.backward()
            if config.grad_clip is not None:
                torch.nn.utils.clip_grad_norm_(module.parameters(), config.grad_clip)
            optimizer.step()
    return [p.detach().numpy() for p in module.parameters()]


OPTIMIZERS = {
    "sgd": (torch.optim.SGD, {}),
    "sgd+momentum": (torch.optim.SGD, {"momentum": 0.9}),
    "sgd+decay": (torch.optim.SGD, {"weight_decay": 0.1}),
    "sgd+both": (torch.optim.SGD, {"momentum": 0.5, "weight_decay": 0.01}),
    "adam": (torch.optim.Adam, {"weight_decay": 0.01}),
    "adamw": (torch.optim.AdamW, {"weight_decay": 0.01}),
    "rmsprop": (torch.optim.RMSprop, {"momentum": 0.3}),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_training_equals_a_plain_torch_loop_bit_for_bit(data, name):
    maker, options = OPTIMIZERS[name]
    config = TrainConfig(
        optimizer=name.partition("+")[0],
        lr=0.01,
        batch_size=16,
        local_epochs=3,
        momentum=options.get("momentum", 0.0),
        weight_decay=options.get("weight_decay", 0.0),
    )
    module = make().module
    expected = _reference_torch_loop(
        module, data, maker(module.parameters(), lr=0.01, **options), config
    )
    outcome = train(make(), data, config)
    assert outcome.num_steps == 12
    for ours, theirs in zip(outcome.arrays.values(), expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_gradient_clipping_equals_torch(data):
    config = TrainConfig(lr=0.5, batch_size=16, grad_clip=0.1)
    module = make().module
    optimizer = torch.optim.SGD(module.parameters(), lr=0.5)
    expected = _reference_torch_loop(module, data, optimizer, config)
    for ours, theirs in zip(train(make(), data, config).arrays.values(), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)


def test_objective_equals_a_hand_written_gradient(data):
    model = make("linear")
    start = model.arrays()
    rng = np.random.default_rng(0)
    linear, anchor = (
        {n: rng.normal(size=a.shape).astype(np.float32) for n, a in start.items()} for _ in "ab"
    )
    config = TrainConfig(lr=0.1, batch_size=64)
    objective = LocalObjective(proximal_mu=0.7, anchor=anchor, linear=linear)
    outcome = train(model, data, config, objective)
    weight, bias = start["0.weight"], start["0.bias"]
    inputs, targets = (t.numpy() for t in data)
    logits = inputs @ weight.T + bias
    residual = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True) - np.eye(3)[targets]
    gradients = {"0.weight": residual.T @ inputs / 50, "0.bias": residual.mean(axis=0)}
    for name, gradient in gradients.items():
        total = gradient + linear[name] + 0.7 * (start[name] - anchor[name])
        np.testing.assert_allclose(outcome.arrays[name], start[name] - 0.1 * total, atol=1e-5)


def test_proximal_anchor_defaults_to_the_weights_received(data):
    config = TrainConfig(lr=0.1, batch_size=8)
    start = make().arrays()
    implied = train(make(), data, config, LocalObjective(proximal_mu=0.5))
    explicit = train(make(), data, config, LocalObjective(proximal_mu=0.5, anchor=start))
    for ours, theirs in zip(implied.arrays.values(), explicit.arrays.values(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_objective_of_another_model_is_refused(data):
    with pytest.raises(ReplyError):
        train(make(), data, TrainConfig(), LocalObjective(linear=make("linear").arrays()))


def test_zero_steps_return_the_weights_received(data):
    model = make()
    start = model.arrays()
    for none in ({"local_epochs": 0}, {"local_steps": 0}):
        config = unchecked(TrainConfig(), **none)
        outcome = train(model, data, config)
        assert (outcome.num_steps, outcome.loss) == (0, 0.0)
        assert all((outcome.arrays[n] == a).all() for n, a in start.items())


def test_local_steps_go_through_as_many_epochs_as_needed(data):
    whole = train(make(), data, TrainConfig(batch_size=16, local_epochs=2))
    steps = train(make(), data, TrainConfig(batch_size=16, local_epochs=1, local_steps=8))
    assert all((steps.arrays[n] == a).all() for n, a in whole.arrays.items())
    assert steps.loss == whole.loss


def test_loss_is_the_example_weighted_mean_of_the_last_epoch(data):
    model = make()
    expected = F.cross_entropy(model.module(data.inputs), data.targets).item()
    outcome = train(model, data, unchecked(TrainConfig(batch_size=7, local_epochs=2), lr=0.0))
    assert outcome.loss == pytest.approx(expected, rel=1e-5)


def test_dropout_is_deterministic_and_leaves_the_global_generator_alone(data):
    before = torch.get_rng_state()
    one, same, other = (
        train(make(dropout=0.5), data, TrainConfig(lr=0.1), seed=seed) for seed in (1, 1, 2)
    )
    assert torch.equal(torch.get_rng_state(), before)
    assert all((same.arrays[n] == a).all() for n, a in one.arrays.items())
    assert any((other.arrays[n] != a).any() for n, a in one.arrays.items())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimizer": "adm"}, "did you mean 'adam'"),
        ({"batch_size": 0}, "train.batch_size .* got 0"),
        ({"local_epochs": 1.5}, "train.local_epochs .* got 1.5"),
        ({"lr": -1.0}, "train.lr .* got -1.0"),
        ({"lr": float("nan")}, "train.lr .* got nan"),
        ({"loss": "mse"}, "train.loss 'mse' does not exist here"),
        ({"loss": "focal:x"}, "expected a name such as focal"),
        ({"loss": "cross_entropy:2"}, "expected a name such as focal"),
        ({"loss": "label_smoothing:1"}, "must be below 1"),
        ({"class_weight": "balancd"}, "did you mean 'balanced'"),
    ],
)
def test_wrong_training_settings_are_config_errors(data, changes, message):
    with pytest.raises(ConfigError, match=message):
        train(make(), data, TrainConfig(**changes))


def test_balanced_weights_make_site_means_add_up_to_the_pooled_loss():
    counts = [10, 20, 0]
    loss = classification_loss(TrainConfig(class_weight="balanced"), counts)
    outputs, targets = torch.randn(30, 3), torch.tensor([0] * 10 + [1] * 20)
    weights = torch.tensor([30 / (3 * 10), 30 / (3 * 20), 0.0])
    parts = (slice(0, 12), slice(12, 30))
    pooled = sum(loss(outputs[p], targets[p]).item() * len(targets[p]) / 30 for p in parts)
    rows = F.cross_entropy(outputs, targets, weight=weights, reduction="none")
    assert pooled == pytest.approx(rows.mean().item(), rel=1e-5)


def test_focal_and_smoothed_losses():
    outputs, targets = torch.randn(9, 3), torch.randint(0, 3, (9,))
    own = torch.softmax(outputs, 1)[torch.arange(9), targets]
    focal = classification_loss(TrainConfig(loss="focal"), [])(outputs, targets)
    assert focal.item() == pytest.approx((-((1 - own) ** 2) * own.log()).mean().item(), rel=1e-4)
    smooth = classification_loss(TrainConfig(loss="label_smoothing:0.2"), [])(outputs, targets)
    expected = F.cross_entropy(outputs, targets, label_smoothing=0.2)
    assert smooth.item() == expected.item()


def test_regression_losses():
    outputs, targets = torch.randn(9, 1), torch.randn(9)
    difference = outputs[:, 0] - targets
    losses = {name: regression_loss(TrainConfig(loss=name)) for name in ("auto", "mae", "huber:.5")}
    assert losses["auto"](outputs, targets).item() == pytest.approx((difference**2).mean().item())
    assert losses["mae"](outputs, targets).item() == pytest.approx(difference.abs().mean().item())
    huber = F.huber_loss(outputs[:, 0], targets, delta=0.5)
    assert losses["huber:.5"](outputs, targets).item() == huber.item()
    with pytest.raises(ConfigError, match="class_weight is for classification"):
        regression_loss(TrainConfig(class_weight="balanced"))
