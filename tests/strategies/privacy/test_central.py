from __future__ import annotations

import math

import numpy as np
import pytest
from flwr.app import ConfigRecord
from flwr.serverapp import strategy as flower
from safetensors.numpy import load_file

from fl_common.errors import ConfigError
from fl_server.runtimes.simulation import InProcessGrid
from strategies.fedadam import FedAdam
from strategies.fedavg import FedAvg
from strategies.privacy.accounting import epsilon_of
from strategies.privacy.central import CentralDp, ClippedSum, noise_stddevs
from strategies.privacy.modes import CentralAdaptive, CentralFixed
from strategies.snapshot import restore, snapshot
from strategies.wire.messages import ARRAYS
from strategies.wire.records import pack_arrays, unpack_arrays

pytest.importorskip("opacus")
SENT = {"w": np.ones((4, 3), np.float32), "b": np.zeros(3, np.float32), "n": np.array(7)}


def moved(rng, norm):
    """Return SENT moved by ``norm``."""
    step = {name: rng.normal(size=SENT[name].shape) for name in ("w", "b")}
    length = math.sqrt(sum((s**2).sum() for s in step.values()))
    arrays = {n: (SENT[n] + s * norm / length).astype(np.float32) for n, s in step.items()}
    return arrays | {"n": np.array(9)}


def distance(left, right):
    return math.sqrt(sum(float(((left[n] - right[n]) ** 2).sum()) for n in ("w", "b")))


def aggregate(strategy, replies, number=1):
    strategy.sent_record = pack_arrays(SENT)
    record, metrics = strategy.aggregate_train(number, iter(replies))
    return unpack_arrays(record), metrics


def test_one_site_moves_the_mean_at_most_the_bound(reply):
    """However large the site, its data or its claimed rows."""
    rng = np.random.default_rng(0)
    others = [moved(rng, 5.0) for _ in range(4)]
    mode = CentralFixed(noise_multiplier=0.0, clipping_norm=2.0)

    def mean(last, examples):
        replies = [reply(a) for a in others] + [reply(last, examples)]
        return aggregate(CentralDp(FedAvg(), mode), replies)[0]

    absent = mean(SENT, 10)
    for norm, examples in ((0.5, 10), (3.0, 10), (1e6, 10**6)):
        shift = distance(mean(moved(rng, norm), examples), absent)
        assert shift <= 2.0 / 5 + 1e-5
    assert shift == pytest.approx(2.0 / 5, rel=1e-3)


def test_flowers_wrapper_exceeds_the_bound_and_trips_over_zero(reply):
    """Why it is not used: a large site moves the mean by nearly C, an idle one ends the round."""
    rng = np.random.default_rng(0)
    plain = {n: SENT[n] for n in ("w", "b")}
    wrapped = flower.DifferentialPrivacyServerSideFixedClipping(flower.FedAvg(), 0.0, 2.0, 5)
    wrapped.current_arrays = pack_arrays(plain)

    def model(norm):
        return {n: moved(rng, norm)[n] for n in plain}

    replies = [reply(model(0.1)) for _ in range(4)] + [reply(model(9.0), 1000)]
    record, _ = wrapped.aggregate_train(1, replies)
    assert distance(unpack_arrays(record), SENT) > 3 * 2.0 / 5
    with pytest.raises(ZeroDivisionError):
        wrapped.aggregate_train(1, [reply(plain)])


@pytest.mark.parametrize("count", [3, 8])
def test_noise_has_the_stated_deviation_at_any_number_of_replies(reply, count):
    sent = {"w": np.zeros((200, 200), np.float32)}
    rng = np.random.default_rng(0)
    models = [{"w": rng.normal(size=(200, 200)).astype(np.float32)} for _ in range(count)]
    exact = ClippedSum(sent, 2.0)
    for model in models:
        exact.add(model)
    strategy = CentralDp(FedAvg(), CentralFixed(1.5, 2.0, noise_seed=1))
    strategy.sent_record = pack_arrays(sent)
    record, _ = strategy.aggregate_train(1, [reply(model) for model in models])
    noise = unpack_arrays(record)["w"] - exact.noised_mean(rng, 0.0)["w"]
    assert noise.std() == pytest.approx(1.5 * 2.0 / count, rel=0.02)
    assert abs(noise.mean()) < 0.02 * 1.5 * 2.0


def test_noise_is_not_drawn_from_the_seed_that_sites_know(reply):
    rng = np.random.default_rng(0)
    replies = [moved(rng, 1.0) for _ in range(3)]
    first, second = (
        aggregate(CentralDp(FedAvg(), CentralFixed()), [reply(a) for a in replies])[0]
        for _ in range(2)
    )
    assert (first["w"] != second["w"]).all()


def test_noise_comes_before_the_servers_own_step(reply):
    """FedAdam moves every weight by about eta: noise after its step would swamp or miss that."""
    rng = np.random.default_rng(0)
    ones = dict.fromkeys(("min_train_nodes", "min_evaluate_nodes", "min_available_nodes"), 1)
    inner = FedAdam(eta=0.01, tau=1e-3, **ones)
    strategy = CentralDp(inner, CentralFixed(noise_multiplier=1.0, clipping_norm=10.0))
    sent = {n: SENT[n] for n in ("w", "b")}
    grid = InProcessGrid([{"name": "a", "data": {"train": "a.csv"}}])
    list(strategy.configure_train(1, pack_arrays(sent), ConfigRecord(), grid))
    record, _ = strategy.aggregate_train(
        1, [reply({n: moved(rng, 1.0)[n] for n in sent}) for _ in range(3)]
    )
    step = np.abs(unpack_arrays(record)["w"] - sent["w"])
    assert step.max() <= 0.01 * 0.1 / math.sqrt(1 - 0.99) * 1.01


def test_an_update_of_zero_and_integer_weights_pass(reply):
    mean, metrics = aggregate(
        CentralDp(FedAvg(), CentralFixed(noise_multiplier=0.0)), [reply(SENT), reply(SENT)]
    )
    for name, array in SENT.items():
        np.testing.assert_array_equal(mean[name], array)
    assert metrics["num-examples"] == 20


@pytest.mark.parametrize("quantile", [0.2, 0.5, 0.8])
def test_adaptive_clipping_follows_the_quantile(reply, quantile):
    """Norms uniform in 1..9 (Andrew et al., figure 1): C settles at their quantile."""
    rng = np.random.default_rng(3)
    norms = np.linspace(1.0, 9.0, 40)
    mode = CentralAdaptive(
        noise_multiplier=0.5, target_quantile=quantile, count_stddev=2.0, noise_seed=4
    )
    strategy = CentralDp(FedAvg(), mode)
    path = []
    for number in range(120):
        aggregate(strategy, [reply(moved(rng, norm)) for norm in norms], number)
        path.append(strategy.clipping_norm)
    assert np.mean(path[-30:]) == pytest.approx(np.quantile(norms, quantile), abs=0.6)


def test_flowers_adaptive_clipping_runs_away_from_the_quantile(reply):
    """Why it is not used: from below the smallest norm, C falls although every update is cut."""
    rng = np.random.default_rng(3)
    stock = flower.DifferentialPrivacyServerSideAdaptiveClipping(flower.FedAvg(), 0.0, 10)
    plain = {n: SENT[n] for n in ("w", "b")}
    stock.current_arrays = pack_arrays(plain)
    ours = CentralDp(FedAvg(), CentralAdaptive(noise_multiplier=0.0))
    for number in range(10):
        replies = [reply({n: moved(rng, 5.0)[n] for n in plain}) for _ in range(10)]
        stock.aggregate_train(number, replies)
        aggregate(ours, [reply(moved(rng, 5.0)) for _ in range(10)], number)
    assert stock.clipping_norm < 0.1 < ours.clipping_norm


def test_adaptive_noise_is_as_private_as_one_release():
    mode = CentralAdaptive(noise_multiplier=1.2, count_stddev=3.0)
    updates, count = noise_stddevs(mode, 40)
    assert updates**-2 + (2 * count) ** -2 == pytest.approx(1.2**-2)
    assert noise_stddevs(CentralAdaptive(noise_multiplier=1.0), 4)[0] == pytest.approx(1.1547, 1e-3)
    with pytest.raises(ConfigError, match="count_stddev"):
        CentralAdaptive(noise_multiplier=1.0, count_stddev=0.4)


@pytest.mark.parametrize("norm", [0.5, 2.0])
def test_one_sites_contribution_is_bounded_in_both_sums(norm):
    """Removing it, of m sites that stay m, moves the updates by C at most and the count by 1/2."""
    rng = np.random.default_rng(0)
    without, whole = ClippedSum(SENT, 1.0), ClippedSum(SENT, 1.0)
    for _ in range(3):
        update = moved(rng, 0.7)
        without.add(update)
        whole.add(update)
    whole.add(moved(rng, norm))
    assert abs(whole.below - without.below) == 0.5
    without.num_updates = whole.num_updates  # m is public: the same on both sides
    means = (total.noised_mean(rng, 0.0) for total in (whole, without))
    assert 4 * distance(*means) == pytest.approx(min(norm, 1.0), rel=1e-5)
    shares = [total.noised_share_below(rng, 0.0) for total in (whole, without)]
    assert 4 * abs(shares[0] - shares[1]) == pytest.approx(0.5)


@pytest.mark.parametrize("mode", ["central_fixed", "central_adaptive"])
def test_resumed_run_is_the_whole_run_where_noise_has_a_seed(compose, run, tmp_path, mode):
    options = (f"privacy={mode}", "privacy.noise_seed=3")
    whole, _ = run(compose(*options, "rounds=4", folder="whole"))
    run(compose(*options, "rounds=2", folder="parts"))
    resumed, _ = run(compose(*options, "rounds=4", "resume=true", folder="parts"))
    assert [r.score for r in resumed.rounds] == [r.score for r in whole.rounds]
    ours, theirs = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "parts"))
    for name, array in ours.items():
        np.testing.assert_array_equal(array, theirs[name])


def test_seeded_noise_differs_from_release_to_release(reply):
    rng = np.random.default_rng(0)
    update = moved(rng, 1.0)
    strategy = CentralDp(FedAvg(), CentralFixed(noise_seed=3))
    first, second = (aggregate(strategy, [reply(update)])[0] for _ in range(2))
    assert (first["w"] != second["w"]).all()


def test_state_survives_a_resumption():
    strategy = CentralDp(FedAvg(), CentralAdaptive())
    strategy.clipping_norm, strategy.num_releases = 0.7, 3
    again = CentralDp(FedAvg(), CentralAdaptive())
    restore(again, *snapshot(strategy))
    assert again.clipping_norm == 0.7
    assert again.epsilon == pytest.approx(epsilon_of([(1.0, 1.0, 3)], 1e-5))


def test_replies_are_folded_as_they_arrive(reply):
    """Only one model is in memory: a reply is emptied before the next is asked for."""
    seen = []

    def stream():
        for _ in range(3):
            made = reply(SENT)
            yield made
            seen.append(len(made.content[ARRAYS]))

    aggregate(CentralDp(FedAvg(), CentralFixed()), stream())
    assert seen == [0, 0, 0]


@pytest.mark.parametrize("strategy", ["fedavg", "fedadam", "flwr_fedavgm", "feddyn"])
def test_run_reports_the_epsilon_of_each_round(compose, run, strategy):
    config = compose("privacy=central_fixed", "privacy.noise_multiplier=2", f"strategy={strategy}")
    outcome, result = run(config)
    expected = [epsilon_of([(2.0, 1.0, number)], 1e-5) for number in range(4)]
    assert [r.epsilon for r in outcome.rounds] == pytest.approx(expected)
    assert [r["epsilon"] for r in result["rounds"]] == pytest.approx(expected)
    assert all(record.status == "ok" for record in outcome.rounds)


def test_adaptive_run_keeps_its_norm_when_a_round_fails(compose, run, monkeypatch):
    outcome, _ = run(compose("privacy=central_adaptive", "sites.max_update_norm=1e-9"))
    assert [record.status for record in outcome.rounds[1:]] == ["failed"] * 3
    assert [record.epsilon for record in outcome.rounds] == [0.0] * 4


def test_without_privacy_no_epsilon_is_reported(compose, run):
    outcome, _ = run(compose("rounds=1"))
    assert [record.epsilon for record in outcome.rounds] == [None, None]


@pytest.mark.parametrize(
    ("strategy", "why"),
    [
        ("fedmedian", "each site's update"),
        ("krum", "each site's update"),
        ("multikrum", "each site's update"),
        ("bulyan", "each site's update"),
        ("trimmed_mean", "each site's update"),
        ("fednova", "each site's update"),
        ("cyclic", "each site's update"),
        ("scaffold", "without noise"),
    ],
)
def test_refuses_strategies_that_cannot_be_noised(compose, run, strategy, why):
    with pytest.raises(ConfigError, match=why):
        run(compose("privacy=central_fixed", f"strategy={strategy}", "train.optimizer=sgd"))


@pytest.mark.parametrize(
    "override",
    [
        "privacy.noise_multiplier=-1",
        "privacy.clipping_norm=0",
        "privacy.delta=1",
        "privacy.noise_seed=x",
        "+privacy.clip=1",
        "privacy._target_=builtins.dict",
    ],
)
def test_refuses_values_that_mean_nothing(compose, override):
    with pytest.raises(ConfigError, match="privacy"):
        compose("privacy=central_fixed", override)


def test_missing_opacus_is_named(compose, run, monkeypatch):
    monkeypatch.setattr("strategies.privacy.accounting.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"fedleague\[privacy\]"):
        run(compose("privacy=central_fixed"))
