"""Federated YOLO over three sites with real boxes beside central training on the pooled pictures.

    python benchmarks/detection.py --rounds 20 --size 256

Both sides see the same pictures (BCCD, needs ../shared/data/bccd or FEDLEAGUE_DATA), the same
random initial weights, batch size, optimiser, learning rate and augmentation, and take the same
number of gradient steps: the sites' together are the central run's. Scores are those of the last
round on the three sites' held-out pictures; no round and no learning rate is picked by score.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from measure import QUIET, run_side, save, show, write_report

SIDES = ("federated", "central", "client")
SITES = 3
COLUMNS = (
    ("side", "training"),
    ("steps", "gradient steps"),
    ("map50", "mAP50"),
    ("map", "mAP50-95"),
    ("mean_iou", "mean IoU"),
    ("seconds", "seconds"),
    ("peak_mb", "peak MB"),
)


def main() -> None:
    """Run every side, each in a process of its own and on one core, and print the table."""
    arguments = parse_arguments()
    if arguments.side:
        measure_side(arguments)
        return
    options = {
        key: getattr(arguments, key) for key in ("rounds", "epochs", "size", "batch", "seed", "lr")
    }
    with ThreadPoolExecutor(2) as pool:  # each side computes on one core
        sides = pool.map(lambda side: run_side(__file__, side, options), SIDES)
        rows = [{**options, **row} for row in sides]
    show("YOLO11n on blood cells, three sites", COLUMNS, rows[:2])
    if rows[1]["map50"]:
        ratio = rows[0]["map50"] / rows[1]["map50"]
        print(f"federated mAP50 is {ratio:.1%} of central")
    print(f"one client, image_size 320, batch 16: peak RSS {rows[2]['peak_rss_mb']:,.0f} MB")
    print(f"results: {save('detection', rows, arguments.out)}")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=2, help="local epochs in each round")
    parser.add_argument("--size", type=int, default=256, help="side of the square, pixels")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--lr", type=float, default=0.001)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="folder of the JSON file")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--report", help=argparse.SUPPRESS)
    return parser.parse_args()


def measure_side(arguments: argparse.Namespace) -> None:
    import torch

    torch.set_num_threads(1)
    started = time.perf_counter()
    measure = {"federated": federated, "central": central, "client": client}[arguments.side]
    values = measure(arguments)
    write_report(arguments.report, {**values, "seconds": time.perf_counter() - started})


def overrides(arguments: argparse.Namespace) -> list[str]:
    return [
        "usecase=blood_cells",
        f"usecase.image_size={arguments.size}",
        f"data.num_sites={SITES}",
        f"rounds={arguments.rounds}",
        f"seed={arguments.seed}",
        f"train.batch_size={arguments.batch}",
        f"train.local_epochs={arguments.epochs}",
        f"train.lr={arguments.lr}",
        "model.params.config=yolo11n.yaml",
        "model.params.augment.flip_vertical=0.5",
        "board.url=null",
    ]


def federated(arguments: argparse.Namespace) -> dict[str, Any]:
    """Run fl-server as a user would."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        command = [sys.executable, "-m", "fl_server.cli", *overrides(arguments)]
        subprocess.run([*command, f"hydra.run.dir={run}"], check=True, env=os.environ | QUIET)
        result = json.loads((run / "result.json").read_text())
    curve = [entry["metrics"]["map50"] for entry in result["rounds"]]
    scores = result["rounds"][-1]["metrics"]
    steps = arguments.rounds * sum(steps_a_round(arguments))
    return {"steps": steps, "curve": curve, **chosen(scores)}


def steps_a_round(arguments: argparse.Namespace) -> list[int]:
    _, sites, _, _ = pooled(arguments)
    return [arguments.epochs * -(-site.num_train // arguments.batch) for site in sites]


def pooled(arguments: argparse.Namespace) -> tuple[Any, list[Any], Any, Any]:
    """Return the task, the sites' data, the fitted preprocessing and the configuration."""
    from fl_server.config.compose import compose_overrides
    from tasks.contract import DataSource, Partition
    from tasks.registry import load_task
    from tasks.stats import Stats

    config = compose_overrides(overrides(arguments))
    task = load_task(config.usecase.task, config.schema)
    sites = []
    for site in config.site_data:
        data = dict(site["data"])
        partition = Partition(**data.pop("partition"))
        source = DataSource(site["name"], partition=partition, **data)
        sites.append(task.read(source, config.split_seed))
    fitted = task.prepare(Stats.total(task.fit(site, 1) for site in sites))
    return task, sites, fitted, config


def central(arguments: argparse.Namespace) -> dict[str, Any]:
    """Train without interruption on all sites' pictures, then evaluate on all held-out ones."""
    from dataclasses import replace

    from tasks.contract import LocalObjective
    from tasks.object_detection.data import DetectionData

    task, sites, fitted, config = pooled(arguments)
    train = [item for site in sites for item in site.train]
    holdout = [item for site in sites for item in site.holdout]
    data = DetectionData("all", train, holdout, [])
    steps = arguments.rounds * sum(steps_a_round(arguments))
    model = task.build(config.model, fitted, config.seed)
    settings = replace(config.train, local_steps=steps)
    outcome = task.train(model, data, settings, LocalObjective(), config.seed)
    scores = task.finalise(task.evaluate(model, data), fitted).overall.values
    return {"steps": outcome.num_steps, **chosen(scores)}


def client(arguments: argparse.Namespace) -> dict[str, Any]:
    """Train and evaluate at one site as the use case ships, and report the process's memory."""
    from dataclasses import replace

    from tasks.contract import LocalObjective

    arguments.size, arguments.batch = 320, 16
    task, sites, fitted, config = pooled(arguments)
    model = task.build(config.model, fitted, config.seed)
    settings = replace(config.train, local_epochs=1)
    outcome = task.train(model, sites[0], settings, LocalObjective(), 0)
    task.evaluate(model, sites[0])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"steps": outcome.num_steps, "size": 320, "batch": 16, "peak_rss_mb": peak}


def chosen(scores: dict[str, float]) -> dict[str, float]:
    names = ("map50", "map", "mean_iou", "ap50_RBC", "ap50_WBC", "ap50_Platelets")
    return {name: scores[name] for name in names}


if __name__ == "__main__":
    main()
