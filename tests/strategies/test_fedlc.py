"""FedLC on the real tabular task: its equation, and what it keeps a site from unlearning."""

import numpy as np
import pandas as pd
import pytest
import torch

from fl_common.errors import ConfigError
from fl_server.config.compose import compose_overrides
from fl_server.runtimes.execution import execute
from fl_server.runtimes.simulation import InProcessGrid
from strategies.fedlc import FedLC
from tasks.contract import DataSource, LocalObjective, ModelSpec, TrainConfig
from tasks.networks.losses import calibrated, classification_loss
from tasks.registry import load_task
from tasks.stats import Stats

CLASSES = [f"c{k}" for k in range(6)]


def write_site(path, rows, shares, seed):
    rng = np.random.default_rng(seed)
    centres = 1.2 * np.random.default_rng(100).normal(size=(6, 5))
    labels = rng.choice(6, rows, p=shares)
    table = pd.DataFrame(centres[labels] + rng.normal(size=(rows, 5)), columns=list("abcde"))
    table["y"] = [CLASSES[label] for label in labels]
    table.to_csv(path, index=False)
    return path


def test_loss_is_equation_6():
    """-log exp(f_y - tau n_y^-1/4) / sum_c exp(f_c - tau n_c^-1/4), in plain numpy."""
    rng = np.random.default_rng(0)
    site = torch.tensor([0, 0, 0, 1, 2, 2])  # class 3 is absent
    logits, truth, tau = rng.normal(size=(5, 4)), np.array([0, 1, 2, 2, 0]), 0.7
    shifted = logits - tau * np.array([3, 1, 2, 1e-8]) ** -0.25
    rows = np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(5), truth]
    plain = classification_loss(TrainConfig(), [3, 1, 2, 0])
    ours = calibrated(plain, site, 4, tau)(torch.tensor(logits), torch.tensor(truth))
    assert ours.item() == pytest.approx(rows.mean(), rel=1e-6)


def test_site_does_not_unlearn_a_class_that_it_lacks(tmp_path):
    task = load_task("tabular_classification", {"target": "y", "classes": CLASSES})
    whole = write_site(tmp_path / "all.csv", 600, np.full(6, 1 / 6), 1)
    part = write_site(tmp_path / "part.csv", 200, [0.25, 0.25, 0.25, 0.25, 0, 0], 2)
    sites = [task.read(DataSource(p.stem, str(p)), 0) for p in (whole, part)]
    fitted = task.prepare(Stats.total(task.fit(site, 1) for site in sites))
    model = task.build(ModelSpec("mlp", {"hidden": [16]}), fitted, 0)
    start = task.train(model, sites[0], TrainConfig(local_epochs=30), LocalObjective(), 0).arrays
    recall = {}
    for tau in (0.0, 1.0):
        model.load(start)
        objective = LocalObjective(calibration=tau)
        task.train(model, sites[1], TrainConfig(local_epochs=30), objective, 1)
        scores = task.finalise(task.evaluate(model, sites[0]), fitted).overall.values
        recall[tau] = (scores["recall_c4"] + scores["recall_c5"]) / 2
    assert recall[1.0] > recall[0.0] + 0.3


def _accuracy(folder, paths, *overrides):
    config = compose_overrides(
        [
            "usecase=tabular_classification",
            "usecase.target=y",
            f"usecase.classes=[{','.join(CLASSES)}]",
            f"data.sites=[{','.join(map(str, paths))}]",
            "model.params.hidden=[32]",
            "rounds=1",
            "train.optimizer=sgd",
            "train.lr=0.1",
            "train.local_epochs=20",
            "train.batch_size=16",
            "board.url=null",
            *overrides,
        ],
        folder,
    )
    outcome = execute(InProcessGrid(config.site_data), config)
    return outcome.rounds[-1].card.overall.values["accuracy"]


def test_beats_fedavg_under_label_skew(tmp_path):
    """Each site has two frequent classes; after long local training the mean is better."""
    gains = []
    for seed in range(3):
        paths = []
        for k in range(3):
            shares = np.full(6, 0.025)
            shares[2 * k : 2 * k + 2] = 0.45
            paths.append(write_site(tmp_path / f"{seed}_{k}.csv", 150, shares, 10 * seed + k))
        ours = _accuracy(tmp_path / f"lc{seed}", paths, "strategy=fedlc", "strategy.tau=3")
        gains.append(ours - _accuracy(tmp_path / f"avg{seed}", paths, "strategy=fedavg"))
    assert np.mean(gains) > 0.02
    assert min(gains) > -0.01


def test_tau_must_not_be_negative():
    with pytest.raises(ConfigError, match=r"strategy\.tau"):
        FedLC(tau=-1.0)
