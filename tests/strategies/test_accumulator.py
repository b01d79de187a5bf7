import itertools

import numpy as np
import pytest

from fl_common.errors import ReplyError
from strategies.accumulator import WeightedMean


def _models(count, dtype=np.float32, seed=0):
    rng = np.random.default_rng(seed)
    return [
        {"w": rng.normal(size=(3, 4)).astype(dtype), "b": np.asarray(rng.normal(), dtype=dtype)}
        for _ in range(count)
    ]


def _mean(models, weights):
    fold = WeightedMean()
    for model, weight in zip(models, weights, strict=True):
        fold.add(model, weight)
    return fold.result()


@pytest.mark.parametrize("weight", [1, 3, 12_345, 2**28 + 1])
def test_one_model_comes_back_bit_for_bit(weight):
    (model,) = _models(1)
    mean = _mean([model], [weight])
    for name, array in model.items():
        assert mean[name].dtype == array.dtype
        assert mean[name].shape == array.shape
        np.testing.assert_array_equal(mean[name], array)


def test_order_of_arrival_leaves_no_trace():
    models, weights = _models(4), [3, 100, 17, 8]
    expected = _mean(models, weights)
    for order in itertools.permutations(range(4)):
        mean = _mean([models[k] for k in order], [weights[k] for k in order])
        for name in expected:
            np.testing.assert_array_equal(mean[name], expected[name])


def test_mean_is_numpys():
    models, weights = _models(5, np.float64), [1.0, 2.5, 3.0, 0.5, 9.0]
    mean = _mean(models, weights)
    expected = np.average([model["w"] for model in models], axis=0, weights=weights)
    np.testing.assert_allclose(mean["w"], expected, rtol=1e-14)


def test_integers_are_rounded_and_keep_their_dtype():
    mean = _mean([{"n": np.array([1, 2])}, {"n": np.array([2, 5])}], [1, 2])
    assert mean["n"].dtype == np.int64
    np.testing.assert_array_equal(mean["n"], [2, 4])


def test_nothing_added_is_none():
    assert WeightedMean().result() is None


@pytest.mark.parametrize("weight", [0, -1, float("nan")])
def test_weight_must_be_positive(weight):
    with pytest.raises(ReplyError, match="positive"):
        WeightedMean().add(_models(1)[0], weight)


def test_other_names_or_shapes_are_refused_and_change_nothing():
    first = _models(1)[0]
    fold = WeightedMean()
    fold.add(first, 2)
    with pytest.raises(ReplyError, match="'c'"):
        fold.add({**first, "c": np.zeros(1)}, 1)
    with pytest.raises(ReplyError, match="'w' is"):
        fold.add({**first, "w": np.zeros((4, 3), np.float32)}, 1)
    np.testing.assert_array_equal(fold.result()["w"], first["w"])
    assert (fold.weight, fold.num_replies) == (2, 1)


def test_models_are_not_kept():
    first, second = _models(2)
    fold = WeightedMean()
    fold.add(first, 1)
    first["w"][:] = 1e9
    fold.add(second, 1)
    assert np.abs(fold.result()["w"]).max() < 1e3
