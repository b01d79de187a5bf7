"""Median, trimmed mean, Krum, Multi-Krum and Bulyan: their rules, and sites that lie."""

import math

import numpy as np
import pytest
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from quadratic_task import attacked, minima, pooled_optimum, random_sites

from fl_common.errors import ReplyError
from strategies.bulyan import Bulyan, around_median
from strategies.bulyan import select as select_bulyan
from strategies.fedavg import FedAvg
from strategies.fedmedian import FedMedian
from strategies.krum import Krum, MultiKrum, select
from strategies.robust import krum_scores, squared_distances, tolerated
from strategies.trimmed_mean import TrimmedMean, num_trimmed, trimmed
from strategies.wire.messages import ARRAYS, METRICS
from strategies.wire.records import pack_arrays, unpack_arrays
from tasks.contract import TrainConfig

ROBUST = {
    "median": lambda: FedMedian(**minima()),
    "trimmed_mean": lambda: TrimmedMean(beta=0.2, **minima()),
    "krum": lambda: Krum(2, **minima()),
    "multikrum": lambda: MultiKrum(2, **minima()),
    "bulyan": lambda: Bulyan(num_malicious_nodes=2, **minima()),
}


class Reply:
    """What a strategy sees of a reply, without Flower's processes."""

    def __init__(self, arrays, rows=10):
        metrics = MetricRecord({"num-examples": rows, "train-loss": 0.5})
        self.content = RecordDict({ARRAYS: pack_arrays(arrays), METRICS: metrics})

    def has_error(self):
        return False


def _models(count, size=6, seed=0, dtype=np.float64):
    rng = np.random.default_rng(seed)
    return [{"w": rng.normal(size=size).astype(dtype)} for _ in range(count)]


def _reference_krum_scores(models, f):
    """Section 4 of Blanchard et al. by two loops."""
    scores = []
    for i, left in enumerate(models):
        distances = [
            float(np.sum((left["w"] - right["w"]) ** 2)) for j, right in enumerate(models) if j != i
        ]
        scores.append(sum(sorted(distances)[: len(models) - f - 2]))
    return scores


# Sites near each other, the case for which these rules are proven; then 20 % of them lie.
HONEST = random_sites(11, rows=10, seed=3, spread=0.1)
HONEST = [type(s)(HONEST[0].matrix, HONEST[0].optimum + 0.05 * i, 10) for i, s in enumerate(HONEST)]
TRAIN = TrainConfig(lr=0.2, local_steps=3)


def _distance(federation, strategy):
    sites = attacked(HONEST)
    honest = [site for site in sites if site.attack == 1.0]
    assert len(sites) - len(honest) == 2
    history = federation(strategy, sites, rounds=25, train=TRAIN, may_fail=True)
    return np.linalg.norm(history.models[-1] - pooled_optimum(honest))


@pytest.mark.parametrize("name", ROBUST)
def test_survives_sign_flipping_sites(federation, name):
    assert _distance(federation, ROBUST[name]()) < 0.6


def test_fedavg_does_not_survive_them(federation):
    assert _distance(federation, FedAvg(**minima())) > 10


def test_krum_scores_are_the_papers():
    models = _models(9)
    scores = krum_scores(squared_distances(models), 2)
    np.testing.assert_allclose(scores, _reference_krum_scores(models, 2), rtol=1e-9)
    assert select(models, 2, 3) == list(np.argsort(_reference_krum_scores(models, 2))[:3])


def test_distances_of_nearly_equal_models_keep_their_digits():
    """Flower's expansion around the origin, in float32, loses them."""
    from flwr.serverapp.strategy.multikrum import compute_distances

    base = np.full(1000, 3.0, dtype=np.float32)
    models = [{"w": base + np.float32(1e-4) * k} for k in range(5)]
    true = np.array(
        [[np.sum((a["w"].astype(float) - b["w"]) ** 2) for b in models] for a in models]
    )
    ours = squared_distances(models)
    off = ~np.eye(5, dtype=bool)
    np.testing.assert_allclose(ours[off], true[off], rtol=1e-6)
    flowers = compute_distances([pack_arrays(model) for model in models])
    assert np.max(np.abs(flowers - true)[off] / true[off]) > 0.5


def test_multikrum_averages_evenly_whatever_rows_a_site_claims():
    models = _models(5, seed=1)
    replies = [Reply(model, rows=10 ** (k + 1)) for k, model in enumerate(models)]
    record, _ = MultiKrum(1, 3).aggregate_train(1, replies)
    chosen = select(models, 1, 3)
    expected = np.mean([models[k]["w"] for k in chosen], axis=0)
    np.testing.assert_allclose(unpack_arrays(record)["w"], expected)


def _reference_bulyan(models, f):
    """El Mhamdi et al.: Krum again and again, then the values around the median."""
    rest, chosen = list(models), []
    for _ in range(len(models) - 2 * f):
        scores = []
        for i, left in enumerate(rest):
            d = sorted(np.sum((left["w"] - r["w"]) ** 2) for j, r in enumerate(rest) if j != i)
            scores.append(sum(d[: max(1, len(rest) - f - 2)]))
        chosen.append(rest.pop(int(np.argmin(scores))))
    result = []
    for values in np.stack([m["w"] for m in chosen]).T:
        median = sorted(values)[(len(values) - 1) // 2]
        near = sorted(values, key=lambda v: abs(v - median))[: len(chosen) - 2 * f]
        result.append(np.mean(near))
    return np.array(result)


@pytest.mark.parametrize(("count", "f"), [(7, 1), (11, 2), (12, 2), (5, 0)])
def test_bulyan_is_the_papers(count, f):
    models = _models(count, seed=count)
    record, _ = Bulyan(num_malicious_nodes=f).aggregate_train(1, [Reply(m) for m in models])
    np.testing.assert_allclose(unpack_arrays(record)["w"], _reference_bulyan(models, f))
    assert len(select_bulyan(models, f)) == count - 2 * f


def test_around_median_ignores_the_far_values():
    values = [np.array([v]) for v in (0.0, 1.0, 2.0, 100.0, -100.0)]
    np.testing.assert_allclose(around_median(values, 3), [1.0])


@pytest.mark.parametrize(
    ("count", "beta", "cut"), [(4, 0.2, 1), (5, 0.2, 1), (10, 0.2, 2), (100, 0.29, 29), (5, 0.0, 0)]
)
def test_trimmed_share_is_rounded_up(count, beta, cut):
    assert num_trimmed(count, beta) == cut


def test_trimmed_mean_is_the_mean_of_the_middle():
    values = [np.array([v, -v]) for v in (5.0, 1.0, 2.0, 3.0, 1000.0)]
    np.testing.assert_allclose(trimmed(values, 1), [10 / 3, -10 / 3])
    with pytest.raises(ReplyError, match="leaves none"):
        num_trimmed(2, 0.4)


def test_median_is_the_coordinate_median():
    models = _models(5)
    expected = np.median([m["w"] for m in models], axis=0)
    record, _ = FedMedian().aggregate_train(1, [Reply(m) for m in models])
    np.testing.assert_array_equal(unpack_arrays(record)["w"], expected)


def test_too_few_replies_fail_the_round_with_the_number_needed():
    assert tolerated(4, None, 2, "krum") == 0
    assert tolerated(5, None, 2, "krum") == 1
    with pytest.raises(ReplyError, match="needs at least 7 replies, got 5"):
        Krum(2).aggregate_train(1, [Reply(m) for m in _models(5)])
    with pytest.raises(ReplyError, match="needs at least 7 replies, got 6"):
        Bulyan(num_malicious_nodes=1).aggregate_train(1, [Reply(m) for m in _models(6)])
    with pytest.raises(ReplyError, match="at least 3"):
        tolerated(2, None, 2, "krum")


@pytest.mark.parametrize("name", ROBUST)
def test_no_reply_is_no_model(name):
    assert ROBUST[name]().aggregate_train(1, []) == (None, None)


@pytest.mark.parametrize("name", ROBUST)
def test_result_keeps_the_dtype(name):
    replies = [Reply(model) for model in _models(11, dtype=np.float32)]
    record, metrics = ROBUST[name]().aggregate_train(1, replies)
    assert isinstance(record, ArrayRecord)
    assert unpack_arrays(record)["w"].dtype == np.float32
    assert math.isclose(metrics["train-loss"], 0.5)
    assert not isinstance(replies[0], Message)
