"""The strategy shelf on two heterogeneous federations, and whether the papers' orderings hold.

    python benchmarks/strategies.py --rounds 20 --seeds 3
    python benchmarks/strategies.py --strategies fedavg scaffold --cases heart_disease

Every strategy has the same sites, split, starting weights, batch order and local work; only the
strategy's own settings differ. These are conf/strategy's, untuned, but for what a paper names for
its federation (``Case.own``). The model is linear; trees have their own (``TREES``).
"""

from __future__ import annotations

import argparse
import contextlib
import io
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from measure import save, show

from fl_common.errors import FedleagueError
from fl_server.config.compatibility import check_run
from fl_server.config.compose import compose_overrides
from fl_server.runtimes.execution import execute
from fl_server.runtimes.simulation import InProcessGrid

CONF = Path(__file__).parents[1] / "conf" / "strategy"
SETTLED = 5
"""A run's final score is its mean over this many last rounds."""


@dataclass(frozen=True)
class Case:
    """One federation: its overrides, the score to reach, settings that a paper names for it."""

    overrides: tuple[str, ...]
    target: float
    own: dict[str, tuple[str, ...]]


CASES = {
    # Li et al. 2020: ten users a round, mu = 1; half of its twenty epochs
    "synthetic_1_1": Case(
        ("usecase=synthetic", "sampling.fraction=0.34", "train.local_epochs=10"),
        0.70,
        {"fedprox": ("strategy.proximal_mu=1.0",)},
    ),
    "heart_disease": Case(("usecase=heart_disease",), 0.78, {}),
}
TREES = dict.fromkeys(("xgb_bagging", "xgb_cyclic"), ("model=xgboost",))
SENSELESS = {
    "fedbn": "a linear model has no normalisation layer",
    "fedper": "all of a linear model is its last layer",
}
# better, than, the claim
CLAIMS = (
    ("fedprox", "fedavg", "FedProx, under heterogeneity (Li et al. 2020)"),
    ("scaffold", "fedavg", "SCAFFOLD, under heterogeneity (Karimireddy et al. 2020)"),
    ("feddyn", "fedavg", "FedDyn, under heterogeneity (Acar et al. 2021)"),
    ("fednova", "fedavg", "FedNova, where sites take different numbers of steps (Wang 2020)"),
    ("fedavgm", "fedavg", "FedAvgM, under heterogeneity (Hsu et al. 2019)"),
    ("fedadam", "fedavg", "FedAdam (Reddi et al. 2021)"),
    ("fedyogi", "fedavg", "FedYogi (Reddi et al. 2021)"),
    ("fedadagrad", "fedavg", "FedAdagrad (Reddi et al. 2021)"),
    ("ditto", "fedavg", "Ditto's personal models (Li et al. 2021)"),
)
COLUMNS = (
    ("strategy", "strategy"),
    ("curve", "score by round"),
    ("final_shown", "final"),
    ("reached_shown", "rounds to target"),
    ("kb_up", "kB up"),
    ("seconds_shown", "seconds"),
)
BARS = "▁▂▃▄▅▆▇█"


def main() -> None:
    """Run the shelf on every case, print tables and verdicts, write the JSON."""
    arguments = parse_arguments()
    rows: list[dict[str, Any]] = []
    for case in arguments.cases:
        found = [measured(case, name, arguments) for name in arguments.strategies]
        lows = [min(row["scores"]) for row in found if row["scores"]]
        highs = [max(row["scores"]) for row in found if row["scores"]]
        shown = [_shown(row, min(lows), max(highs)) for row in found] if lows else found
        title = f"{case}, {arguments.rounds} rounds, {arguments.seeds} seeds"
        show(f"{title}, target {CASES[case].target}", COLUMNS, shown)
        for row in found:
            if row["reason"]:
                print(f"  {row['strategy']}: {row['reason']}")
        for verdict in verdicts(found):
            print(f"  {verdict}")
        rows += found
    print(f"results: {save('strategies', rows, arguments.out)}")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--strategies", nargs="+", choices=every_strategy(), default=shelf())
    parser.add_argument("--out", type=Path, help="folder of the JSON file")
    return parser.parse_args()


def every_strategy() -> list[str]:
    """Return the names in conf/strategy."""
    return sorted(path.stem for path in CONF.glob("*.yaml"))


def shelf() -> list[str]:
    """Return our own strategies; Flower's (flwr_*) are the same rules again."""
    return [name for name in every_strategy() if not name.startswith("flwr_")]


def measured(case: str, strategy: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Run one strategy with every seed; a refusal is a row with its reason."""
    row = {"case": case, "strategy": strategy, "reason": SENSELESS.get(strategy, ""), "scores": []}
    if row["reason"]:
        return row
    try:
        runs = [run(case, strategy, seed, arguments.rounds) for seed in range(arguments.seeds)]
    except FedleagueError as error:
        return {**row, "reason": str(error)}
    curves = np.array([r["scores"] for r in runs])  # (seeds, rounds + 1)
    means = curves.mean(axis=0)
    reached = np.flatnonzero(means >= CASES[case].target)
    finals = curves[:, -SETTLED:].mean(axis=1)
    return {
        **row,
        "scores": means.round(4).tolist(),
        "final": round(float(finals.mean()), 4),
        "finals": finals.round(4).tolist(),
        "averages": curves[:, 1:].mean(axis=1).round(4).tolist(),
        "rounds_to_target": int(reached[0]) if len(reached) else None,
        "kb_up": int(np.mean([r["bytes_up"] for r in runs]) / 1000),
        "seconds": round(float(np.mean([r["seconds"] for r in runs])), 2),
        "failed_rounds": sum(r["failed"] for r in runs),
    }


def run(case: str, strategy: str, seed: int, rounds: int) -> dict[str, Any]:
    """Run one competition as `fl-server` does."""
    own = CASES[case].own.get(strategy, TREES.get(strategy, ()))
    overrides = [*CASES[case].overrides, f"strategy={strategy}", *own, f"seed={seed}"]
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        overrides += [f"rounds={rounds}", "board.url=null"]
        config = compose_overrides(overrides, Path(folder) / "run")
        check_run(config)
        started = time.perf_counter()
        records = execute(InProcessGrid(config.site_data), config).rounds
    return {
        "scores": [record.score for record in records],
        "bytes_up": sum(s.bytes_up for r in records for s in r.sites if s.phase == "train"),
        "seconds": time.perf_counter() - started,
        "failed": sum(record.status != "ok" for record in records),
    }


def verdicts(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Say which orderings hold: final score, and score averaged over rounds (speed)."""
    by_name = {row["strategy"]: row for row in rows if row["scores"]}
    lines = []
    for better, than, claim in CLAIMS:
        if better in by_name and than in by_name:
            a, b = by_name[better], by_name[than]
            final = _difference(a["finals"], b["finals"])
            speed = _difference(a["averages"], b["averages"])
            lines.append(f"{claim} better than FedAvg: at the end {final}, over rounds {speed}")
    return lines


def _difference(ours: Sequence[float], others: Sequence[float]) -> str:
    """Compare seed by seed: a difference below its standard error is none."""
    gaps = np.array(ours) - np.array(others)
    mean = float(gaps.mean())
    error = float(gaps.std(ddof=1) / len(gaps) ** 0.5) if len(gaps) > 1 else 0.0
    if abs(mean) <= max(error, 0.0005):
        return f"no difference ({mean:+.3f} ± {error:.3f})"
    return f"{'holds' if mean > 0 else 'does NOT hold'} ({mean:+.3f} ± {error:.3f})"


def _shown(row: dict[str, Any], low: float, high: float) -> dict[str, Any]:
    if not row["scores"]:
        return {**row, "curve": "(not run)"}
    spread = float(np.std(row["finals"], ddof=1)) if len(row["finals"]) > 1 else 0.0
    reached = row["rounds_to_target"]
    return {
        **row,
        "curve": sparkline(row["scores"], low, high),
        "final_shown": f"{row['final']:.3f}±{spread:.3f}",
        "seconds_shown": f"{row['seconds']:.1f}",
        "reached_shown": str(reached) if reached is not None else "never",
    }


def sparkline(scores: Sequence[float], low: float, high: float, width: int = 16) -> str:
    """Draw scores as ``width`` bars; the scale is the table's."""
    points = np.interp(np.linspace(0, len(scores) - 1, width), np.arange(len(scores)), scores)
    steps = (points - low) / max(high - low, 1e-9) * (len(BARS) - 1)
    return "".join(BARS[round(float(step))] for step in steps)


if __name__ == "__main__":
    main()
