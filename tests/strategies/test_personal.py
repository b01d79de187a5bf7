"""FedPer and Ditto on quadratics; which layers stay local; what is evaluated."""

import numpy as np
import pytest
from quadratic_task import (
    GRADIENT_DESCENT,
    Quadratic,
    QuadraticModel,
    assert_iterates,
    descend,
    minima,
    random_sites,
)

from fl_common.errors import ConfigError
from fl_server.runtimes.simulation import InProcessGrid
from strategies.ditto import Ditto
from strategies.fedavg import FedAvg
from strategies.fedper import FedPer
from strategies.personal import select_layers
from strategies.requirements import check_layers
from strategies.wire.messages import ARRAYS
from strategies.wire.records import unpack_arrays
from tasks.contract import TrainConfig

PARTS = {"body": 3, "head": 1}


def shifted_sites():
    """One optimum for the body, another for the head at each site (a label shift)."""
    rng = np.random.default_rng(1)
    basis = rng.normal(size=(4, 4))
    matrix, body = basis @ basis.T / 4 + np.eye(4), rng.normal(size=3)
    return [Quadratic(matrix, np.append(body, 4.0 * k), rows=8 + k) for k in range(5)]


def _reference_arivazhagan(sites, rounds):
    """Algorithms 1 and 2: only the base is averaged; each site trains on from its own head."""
    total = sum(site.rows for site in sites)
    base, heads, iterates = np.zeros(3), [np.zeros(1) for _ in sites], [np.zeros(4)]
    for _ in range(rounds):
        trained = [descend(s, np.concatenate([base, h])) for s, h in zip(sites, heads, strict=True)]
        heads = [w[3:] for w in trained]
        base = sum(s.rows / total * w[:3] for s, w in zip(sites, trained, strict=True))
        iterates.append(np.append(base, 0.0))  # the server's head keeps its initial value
    loss = sum(
        s.rows / total * s.loss(np.concatenate([base, h]))
        for s, h in zip(sites, heads, strict=True)
    )
    return iterates, loss


def test_fedper_is_the_papers_and_is_scored_with_each_sites_head(federation):
    sites = shifted_sites()
    history = federation(FedPer(**minima()), sites, rounds=6, parts=PARTS)
    iterates, loss = _reference_arivazhagan(sites, 6)
    assert_iterates(history, iterates)
    assert history.scores[-1] == pytest.approx(loss)


def _reference_ditto(sites, rounds, lam):
    total = sum(site.rows for site in sites)
    w, own, iterates = np.zeros(4), [np.zeros(4) for _ in sites], [np.zeros(4)]
    for _ in range(rounds):
        for k, site in enumerate(sites):
            v = own[k]
            for _ in range(GRADIENT_DESCENT.local_steps):
                v = v - GRADIENT_DESCENT.lr * (site.gradient(v) + lam * (v - w))
            own[k] = v
        w = sum(s.rows / total * descend(s, w) for s in sites)
        iterates.append(w)
    loss = sum(s.rows / total * s.loss(v) for s, v in zip(sites, own, strict=True))
    return iterates, loss


def test_ditto_is_the_papers_and_is_scored_with_each_sites_model(federation):
    sites = shifted_sites()
    history = federation(Ditto(lam=0.5, **minima()), sites, rounds=6, parts=PARTS)
    iterates, loss = _reference_ditto(sites, 6, 0.5)
    assert_iterates(history, iterates)
    assert history.scores[-1] == pytest.approx(loss)


@pytest.mark.parametrize("make", [FedPer, Ditto])
def test_beats_fedavg_on_label_shifted_sites(federation, make):
    sites = shifted_sites()
    ours = federation(make(**minima()), sites, rounds=30, parts=PARTS).scores
    plain = federation(FedAvg(**minima()), sites, rounds=30, parts=PARTS).scores
    assert ours[-1] < 0.1 * plain[-1]
    assert ours[0] == plain[0]  # the baseline is the model as submitted


def test_strong_ditto_stays_at_the_global_model(federation):
    train = TrainConfig(lr=0.001, local_steps=20)
    sites = shifted_sites()
    strong = federation(Ditto(lam=500.0, **minima()), sites, rounds=5, train=train)
    plain = federation(FedAvg(**minima()), sites, rounds=5, train=train)
    # The personal models follow the weights received, one round behind the new global ones.
    assert plain.scores[-1] < strong.scores[-1] < plain.scores[-3]


def test_local_layers_never_leave(federation):
    left = []

    class Listens(InProcessGrid):
        def _deliver(self, message):
            reply = super()._deliver(message)
            if message.metadata.message_type == "train":
                left.append(unpack_arrays(reply.content[ARRAYS])["head"])
            return reply

    sites = shifted_sites()
    _, config, _ = federation.loop(FedPer(**minima()), sites, parts=PARTS)
    federation(FedPer(**minima()), sites, parts=PARTS, grid=Listens(config.site_data))
    assert len(left) == 25
    assert all((head == 0.0).all() for head in left)


def test_select_layers_by_kind_and_by_name():
    model = QuadraticModel({"a.w": 2, "a.b": 1, "norm": 1, "head": 1})
    names = model.arrays()
    assert select_layers(model, names, "kind:norm") == ["norm"]
    assert select_layers(model, names, "kind:norm, kind:head") == ["norm", "head"]
    assert select_layers(model, names, "a.*") == ["a.w", "a.b"]
    with pytest.raises(ConfigError, match=r"no weight.*a\.w \(body\)"):
        select_layers(model, names, "b.*")
    with pytest.raises(ConfigError, match="every weight"):
        select_layers(model, names, "*")


def test_model_without_kinds_asks_for_patterns():
    class Plain:
        def arrays(self):
            return {"w": np.zeros(1), "b": np.zeros(1)}

    assert select_layers(Plain(), ["w", "b"], "b") == ["b"]
    with pytest.raises(ConfigError, match="by pattern"):
        check_layers(FedPer(), Plain())
    check_layers(FedAvg(), Plain())


def test_unsampled_site_is_scored_with_the_global_model(federation):
    sites = random_sites()
    history = federation(
        FedPer(fraction_train=0.2, **minima()), sites, rounds=1, parts=PARTS, train=TrainConfig()
    )
    trained = [s.site for s in history.records[1].sites if s.phase == "train"]
    assert len(trained) == 1
