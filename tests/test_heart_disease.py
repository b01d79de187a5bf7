"""The four real UCI hospitals: what federating is worth, against each hospital on its own."""

from __future__ import annotations

import numpy as np
import pytest

from fl_server.config.compose import compose_overrides
from fl_server.runtimes.execution import execute
from fl_server.runtimes.simulation import InProcessGrid
from tasks.contract import DataSource, LocalObjective, Partition, child_seed
from tasks.registry import load_task
from tasks.stats import Stats


def _site(task, entry, split_seed):
    data = dict(entry["data"])
    part = Partition(**data.pop("partition"))
    return task.read(DataSource(name=entry["name"], partition=part, **data), split_seed)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_federated_beats_baseline_and_the_mean_local_model(heart_disease, tmp_path, seed, capsys):
    config = compose_overrides(
        ["usecase=heart_disease", f"seed={seed}", "board.url=null"], tmp_path / "run"
    )
    outcome = execute(InProcessGrid(config.site_data), config)
    capsys.readouterr()

    # every hospital alone: its own preprocessing, the same model, as many epochs in all
    task = load_task(config.usecase.task, config.schema)
    sites = [_site(task, entry, config.split_seed) for entry in config.site_data]
    local = []
    for entry, own in zip(config.site_data, sites, strict=True):
        fitted = task.prepare(task.fit(own, 5))
        model = task.build(config.model, fitted, config.seed)
        for number in range(1, config.rounds + 1):
            seed_ = child_seed(config.seed, "train", entry["name"], number)
            task.train(model, own, config.train, LocalObjective(), seed_)
        pooled = Stats.total(task.evaluate(model, site) for site in sites)
        local.append(task.finalise(pooled, fitted).overall.values["f1_macro"])

    baseline, final = outcome.rounds[0].score, outcome.rounds[-1].score
    with capsys.disabled():
        names = [entry["name"] for entry in config.site_data]
        alone = ", ".join(f"{n} {v:.3f}" for n, v in zip(names, local, strict=True))
        print(
            f"\nheart_disease seed {seed}: f1_macro on the pooled holdouts: baseline "
            f"{baseline:.3f}, federated {final:.3f}, local only {np.mean(local):.3f} ({alone})"
        )
    assert final > baseline
    assert final > np.mean(local)
