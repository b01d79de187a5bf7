"""FLamby's Fed-Heart-Disease table beside ours, from `+experiment=flamby_heart`.

    python benchmarks/flamby_heart.py --seeds 5

Accuracy per hospital, and over all held-out rows (their mean weighted by examples). A seed fixes
initial weights and batch order; the split is the published one for every seed.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from measure import save, show

from fl_server.config.compose import compose_overrides
from fl_server.config.run_config import RunConfig
from fl_server.runtimes.execution import execute
from fl_server.runtimes.simulation import InProcessGrid
from tasks.contract import DataSource, LocalObjective, Partition, child_seed
from tasks.registry import load_task
from tasks.stats import Stats
from tasks.tabular.adapter import TabularTask
from tasks.tabular.data import TabularData
from tasks.tabular.rows import Rows

HOSPITALS = ("cleveland", "hungarian", "switzerland", "va")
PUBLISHED = {
    "pooled": (0.783, 0.764, 0.750, 0.644, 0.750),
    "fedavg": (0.731, 0.719, 0.650, 0.640, 0.706),
    "scaffold": (0.727, 0.719, 0.650, 0.640, 0.704),
    "fedadam": (0.752, 0.746, 0.738, 0.667, 0.734),
    "fedyogi": (0.760, 0.753, 0.738, 0.676, 0.741),
}
ADAPTIVE = ["strategy.beta_2=0.999", "strategy.tau=1e-8"]
METHODS: dict[str, list[str]] = {
    "pooled": [],
    "fedavg": ["strategy=fedavg", "train.lr=0.001"],
    "scaffold": ["strategy=scaffold", "train.lr=0.001", "strategy.server_lr=1.0"],
    "fedadam": ["strategy=fedadam", "train.lr=0.01", "strategy.eta=0.01", *ADAPTIVE],
    "fedyogi": ["strategy=fedyogi", "train.lr=0.003162", "strategy.eta=0.01", *ADAPTIVE],
}
TITLES = {
    "pooled": "pooled",
    "fedavg": "FedAvg",
    "scaffold": "SCAFFOLD",
    "fedadam": "FedAdam",
    "fedyogi": "FedYogi",
}
SCALERS = {"per_site": "ours", "standard": "global scaler"}
POOLED_EPOCHS, POOLED_LR = 50, 0.001
COLUMNS = (("method", "method"), ("who", ""), *((h, h) for h in HOSPITALS), ("all", "all rows"))


def main() -> None:
    """Run every method with both scalers and print the table."""
    arguments = parse_arguments()
    rows: list[dict[str, Any]] = []
    for method in arguments.methods:
        rows.append({"method": TITLES[method], "who": "published", "mean": PUBLISHED[method]})
        for scaler, who in SCALERS.items():
            scores = [accuracies(method, scaler, seed) for seed in range(arguments.seeds)]
            rows.append({"method": TITLES[method], "who": who, **_spread(scores)})
    shown = [{**row, **_cells(row)} for row in rows]
    show(f"Fed-Heart-Disease, accuracy, {arguments.seeds} seeds", COLUMNS, shown)
    print(f"results: {save('flamby_heart', rows, arguments.out)}")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--out", type=Path, help="folder of the JSON file")
    return parser.parse_args()


def accuracies(method: str, scaler: str = "per_site", seed: int = 0) -> list[float]:
    """Return the final accuracy at each hospital and over all held-out rows."""
    with tempfile.TemporaryDirectory() as folder:
        overrides = ["+experiment=flamby_heart", *METHODS[method], "board.url=null"]
        overrides += [f"usecase.scaler={scaler}", f"seed={seed}"]
        config = compose_overrides(overrides, Path(folder) / "run")
        return pooled(config) if method == "pooled" else federated(config)


def federated(config: RunConfig) -> list[float]:
    """Run as `fl-server` does; each hospital is a declared subgroup."""
    with contextlib.redirect_stdout(io.StringIO()):
        card = execute(InProcessGrid(config.site_data), config).rounds[-1].card
    scopes = [*(card.subgroups[hospital] for hospital in HOSPITALS), card.overall]
    return [scores.values["accuracy"] for scores in scopes]


def pooled(config: RunConfig) -> list[float]:
    """Train on all rows in one place, scaled together; score each hospital in its own units.

    FLamby's recipe: Adam with 1e-3, 50 epochs. With the global scaler both are scaled together.
    """
    task, sites = read_sites(config)
    fitted = task.prepare(Stats.total(task.fit(site, 1) for site in sites))
    model = task.build(config.model, fitted, config.seed)
    together = TabularData("all", _joined([site.train for site in sites]), sites[0].holdout, [])
    train = replace(
        config.train, optimizer="adam", lr=POOLED_LR, local_epochs=POOLED_EPOCHS, local_steps=None
    )
    task.train(model, together, train, LocalObjective(), child_seed(config.seed, "pooled"))
    stats = [task.evaluate(model, site) for site in sites]
    cards = [task.finalise(part, fitted) for part in (*stats, Stats.total(stats))]
    return [card.overall.values["accuracy"] for card in cards]


def read_sites(config: RunConfig) -> tuple[TabularTask, list[TabularData]]:
    """Read every hospital as its site would."""
    task: Any = load_task(config.usecase.task, config.schema)
    sources = [
        DataSource(
            **{**entry["data"], "partition": Partition(**entry["data"]["partition"])},
            name=entry["name"],
        )
        for entry in config.site_data
    ]
    return task, [task.read(source, config.split_seed) for source in sources]


def _joined(parts: Sequence[Rows]) -> Rows:
    """Put rows of one shared table together again."""
    arrays = {
        name: np.concatenate([getattr(part, name) for part in parts])
        for name in ("numeric", "codes", "target", "groups")
    }
    return replace(parts[0], **arrays)


def _spread(scores: Sequence[Sequence[float]]) -> dict[str, list[float]]:
    """Return mean and standard deviation over the seeds, in the order of the columns."""
    table = np.array(scores)  # (seeds, hospitals + 1)
    spread = table.std(axis=0, ddof=1) if len(table) > 1 else np.zeros(table.shape[1])
    return {"mean": table.mean(axis=0).round(4).tolist(), "sd": spread.round(4).tolist()}


def _cells(row: Mapping[str, Any]) -> dict[str, str]:
    means = [f"{mean:.3f}" for mean in row["mean"]]
    spreads = [f"±{sd:.3f}" for sd in row["sd"]] if "sd" in row else [""] * len(means)
    return dict(
        zip((*HOSPITALS, "all"), map("".join, zip(means, spreads, strict=True)), strict=True)
    )


if __name__ == "__main__":
    main()
