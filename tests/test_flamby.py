"""FLamby's Fed-Heart-Disease: the published preparation exactly, the published scores nearly."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

from fl_server.config.compose import compose_overrides
from tasks.stats import Stats
from tasks.tabular.encode import Encoder

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture
def flamby(heart_disease, monkeypatch):
    """The benchmark as a module; its own folder is on the path only here."""
    monkeypatch.setattr(sys, "path", [*sys.path, str(BENCHMARKS)])
    spec = importlib.util.spec_from_file_location("flamby_heart", BENCHMARKS / "flamby_heart.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def prepared(flamby, tmp_path):
    config = compose_overrides(["+experiment=flamby_heart", "board.url=null"], tmp_path)
    task, sites = flamby.read_sites(config)
    return sites, task.prepare(Stats.total(task.fit(site, 5) for site in sites))


def test_rows_and_inputs_are_the_published_ones(prepared):
    sites, fitted = prepared
    assert [site.name for site in sites] == ["cleveland", "hungarian", "switzerland", "va"]
    assert [s.num_train + s.num_holdout for s in sites] == [303, 261, 46, 130]
    assert [(s.num_train, s.num_holdout) for s in sites] == [
        (199, 104),
        (172, 89),
        (30, 16),
        (85, 45),
    ]
    encoder = Encoder(fitted)
    assert len(encoder.feature_names) == 13
    assert {"cp=2", "cp=3", "cp=4", "restecg=1", "restecg=2"} < set(encoder.feature_names)


def test_the_split_does_not_depend_on_the_seed(flamby, prepared, tmp_path):
    config = compose_overrides(["+experiment=flamby_heart", "seed=4"], tmp_path)
    for one, other in zip(prepared[0], flamby.read_sites(config)[1], strict=True):
        np.testing.assert_array_equal(one.train.numeric, other.train.numeric)


def test_every_input_of_every_hospital_is_standardised_by_its_own_training_rows(prepared):
    sites, fitted = prepared
    for site in sites:
        inputs = site.tensors(Encoder(fitted), "train").inputs.numpy()
        np.testing.assert_allclose(inputs.mean(axis=0), 0, atol=1e-5)
        spread = inputs.std(axis=0)
        assert all(s == pytest.approx(1, abs=1e-4) or s == 0 for s in spread.tolist())
        assert (spread == 0).sum() == (site.name == "switzerland")  # chol is 0 for everyone there


def test_experiment_is_fedavg_as_published(heart_disease, tmp_path):
    config = compose_overrides(["+experiment=flamby_heart"], tmp_path)
    train = config.train
    assert (train.optimizer, train.lr, train.batch_size, train.local_steps) == ("sgd", 1e-3, 4, 100)
    assert (config.rounds, config.strategy_name, config.model.name) == (15, "fedavg", "logistic")


@pytest.mark.slow
@pytest.mark.parametrize("method", ["pooled", "fedavg", "fedyogi"])
def test_one_seed_is_near_the_published_mean(flamby, method, capsys):
    found = flamby.accuracies(method)[-1]
    capsys.readouterr()
    assert found == pytest.approx(flamby.PUBLISHED[method][-1], abs=0.03)
