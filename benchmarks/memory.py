"""Server memory while 200 replies of a 47 MB model are aggregated: ours beside stock FedAvg.

    python benchmarks/memory.py --replies 200 --megabytes 47

Replies arrive one by one, as from sites: each is made when the strategy asks for it. Peak memory
is the process's own high-water mark, less what it was with one reply in hand. `--stock-replies`
bounds the peer, which keeps every reply and would need 9.4 GB for 200.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.supercore.task_identity import TaskIdentity
from measure import run_side, save, show, write_report

SIDES = {"fedleague": "strategies.fedavg.FedAvg", "stock": "flwr.serverapp.strategy.FedAvg"}
COLUMNS = (
    ("side", "FedAvg"),
    ("replies", "replies"),
    ("model_mb", "model MB"),
    ("extra_mb", "extra peak MB"),
    ("extra_models", "in models"),
    ("seconds", "seconds"),
    ("mean", "a mean weight"),
)
NUM_ARRAYS = 12


def main() -> None:
    """Run both strategies, each in a process of its own, and print the table."""
    arguments = parse_arguments()
    if arguments.side:
        measure_side(arguments)
        return
    rows = []
    for side, strategy in SIDES.items():
        if side == "stock" and not arguments.peer:
            continue
        replies = arguments.replies
        if side == "stock":
            replies = min(replies, arguments.stock_replies)
        options = {"replies": replies, "megabytes": arguments.megabytes}
        rows.append({**run_side(__file__, side, options), "strategy": strategy})
    show(f"aggregating replies of {arguments.megabytes:g} MB", COLUMNS, rows)
    print(f"results: {save('memory', rows, arguments.out)}")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--replies", type=int, default=200)
    parser.add_argument("--stock-replies", type=int, default=60)
    parser.add_argument("--megabytes", type=float, default=47.0)
    parser.add_argument("--peer", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--out", type=Path, help="folder of the JSON file")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--report", help=argparse.SUPPRESS)
    return parser.parse_args()


def measure_side(arguments: argparse.Namespace) -> None:
    """Aggregate in this process and report the memory above its start."""
    from flwr.serverapp import strategy as flower

    from strategies.fedavg import FedAvg

    TaskIdentity.run_id = TaskIdentity.node_id = TaskIdentity.task_id = 1
    strategy = FedAvg() if arguments.side == "fedleague" else flower.FedAvg()
    size = int(arguments.megabytes * 1e6 / 4 / NUM_ARRAYS)
    make_reply(0, size)
    before = peak_megabytes()  # with one reply in hand, which nobody can do without
    started = time.perf_counter()
    arrays, _ = strategy.aggregate_train(1, replies(arguments.replies, size))
    seconds = time.perf_counter() - started
    extra = peak_megabytes() - before
    assert arrays is not None
    values = {
        "replies": arguments.replies,
        "model_mb": arguments.megabytes,
        "extra_mb": extra,
        "extra_models": extra / arguments.megabytes,
        "seconds": seconds,
        "mean": float(arrays["layer_0"].numpy()[0]),
    }
    write_report(arguments.report, values)


def replies(count: int, size: int) -> Iterator[Message]:
    """Make training replies one by one, and keep none."""
    for index in range(count):
        yield make_reply(index, size)


def make_reply(index: int, size: int) -> Message:
    """Make a reply whose weights are its index modulo 7."""
    weights = np.full(size, index % 7, dtype=np.float32)
    arrays = ArrayRecord({f"layer_{k}": Array(weights) for k in range(NUM_ARRAYS)})
    metrics = MetricRecord({"num-examples": 10, "train-loss": 1.0})
    asked = Message(RecordDict(), 2 + index, "train")
    asked.metadata.__dict__["_message_id"] = str(index + 1)
    return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=asked)


def peak_megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


if __name__ == "__main__":
    main()
