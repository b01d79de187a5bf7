from types import SimpleNamespace

import numpy as np
import pytest
import torch

from fl_common.errors import ConfigError
from tasks.contract import ModelSpec
from tasks.tabular.models import build_model

ENCODER = SimpleNamespace(feature_names=list("abcde"), num_outputs=3)


def build(name, seed=0, **params):
    return build_model(ModelSpec(name, params), ENCODER, seed)


def test_architectures_have_the_expected_shapes():
    shapes = [a.shape for a in build("mlp", hidden=[4, 2]).arrays().values()]
    assert shapes == [(4, 5), (4,), (2, 4), (2,), (3, 2), (3,)]
    assert [a.shape for a in build("linear").arrays().values()] == [(3, 5), (3,)]
    assert [a.shape for a in build("mlp", hidden=[]).arrays().values()] == [(3, 5), (3,)]
    assert len(build("mlp", hidden=7, layer_norm=True, dropout=0.1).arrays()) == 6


def test_building_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    build("mlp", seed=9)
    assert torch.equal(torch.get_rng_state(), before)


def test_initial_weights_have_the_distribution_of_pytorch():
    ours = build("mlp", hidden=[2000]).arrays()["0.weight"]
    theirs = torch.nn.Linear(5, 2000).weight.detach().numpy()
    assert abs(ours).max() <= 5**-0.5
    assert ours.std() == pytest.approx(theirs.std(), rel=0.05)


def test_zero_initialisation():
    assert not any(a.any() for a in build("linear", init="zeros").arrays().values())


def test_dropout_is_off_outside_training():
    model = build("mlp", dropout=0.9)
    inputs = torch.ones(2, 5)
    with torch.no_grad():
        np.testing.assert_array_equal(model.module(inputs), model.module(inputs))


@pytest.mark.parametrize(
    ("name", "params", "message"),
    [
        ("mpl", {}, "model 'mpl' does not exist; did you mean 'mlp'"),
        ("mlp", {"hiden": [3]}, "no parameter 'hiden'; did you mean 'hidden'"),
        ("linear", {"hidden": [3]}, "model 'linear' has no parameter 'hidden'"),
        ("linear", {"init": "zero"}, "did you mean 'zeros'"),
        ("mlp", {"hidden": [0]}, "expected widths from 1"),
        ("mlp", {"hidden": "64"}, "expected widths from 1"),
        ("mlp", {"hidden": [3.5]}, "expected widths from 1"),
        ("mlp", {"dropout": 1.0}, "expected from 0 to below 1"),
        ("mlp", {"activation": "rellu"}, "did you mean 'relu'"),
        ("mlp", {"layer_norm": "yes"}, "expected a bool"),
    ],
)
def test_wrong_specs_are_config_errors(name, params, message):
    with pytest.raises(ConfigError, match=message):
        build(name, **params)
