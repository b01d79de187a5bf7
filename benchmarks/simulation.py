"""1,000 clients in one process, beside stock Flower's Ray engine and a plain loop.

    python benchmarks/simulation.py --clients 1000 --rounds 10

Same rows, same starting weights, same batches: the accuracies agree. Times are of whole runs
after imports: start of the engine, reading the clients' data, every round with its evaluation.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import digits
from measure import run_side, save, show, write_report

SIDES = {"fedleague": "fedleague, in process", "stock": "stock Flower, Ray", "loop": "plain loop"}
COLUMNS = (
    ("engine", "engine"),
    ("clients", "clients"),
    ("rounds", "rounds"),
    ("seconds", "seconds"),
    ("seconds_per_round", "s/round"),
    ("accuracy", "accuracy"),
    ("peak_mb", "peak MB"),
)


def main() -> None:
    """Run every side in a process of its own and print the table."""
    arguments = parse_arguments()
    if arguments.side:
        measure_side(arguments)
        return
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        digits.write_partition(Path(folder), arguments.clients)
        digits.write_weights(Path(folder))
        options = {"clients": arguments.clients, "rounds": arguments.rounds, "folder": folder}
        for side, engine in SIDES.items():
            if side == "stock" and not arguments.peer:
                continue
            repeats = 1 if side == "stock" else arguments.repeats
            runs = [run_side(__file__, side, options) for _ in range(repeats)]
            row = min(runs, key=lambda run: run["seconds"])
            per_round = row["seconds"] / max(arguments.rounds, 1)
            rows.append({**row, "engine": engine, "seconds_per_round": per_round})
    show(f"digits, {arguments.clients} clients x {arguments.rounds} rounds", COLUMNS, rows)
    print(f"results: {save('simulation', rows, arguments.out)}")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--peer", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--repeats", type=int, default=3, help="of ours and the loop; best counts")
    parser.add_argument("--out", type=Path, help="folder of the JSON file")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--report", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def measure_side(arguments: argparse.Namespace) -> None:
    """Run one side in this process and report its numbers."""
    run = {"fedleague": run_fedleague, "stock": run_stock, "loop": run_loop}[arguments.side]
    seconds, accuracy = run(arguments.folder, arguments.clients, arguments.rounds)
    counts = {"clients": arguments.clients, "rounds": arguments.rounds}
    write_report(arguments.report, {**counts, "seconds": seconds, "accuracy": accuracy})


def run_fedleague(folder: Path, clients: int, rounds: int) -> tuple[float, float]:
    """Run what `fl-server usecase=tabular_classification` runs, on one table cut into clients."""
    from safetensors.numpy import save_file

    from fl_server.config.compose import compose_overrides
    from fl_server.runtimes.launch import launch
    from tasks.contract import DataSource, Partition

    save_file(digits.read_weights(folder), folder / "weights.safetensors")
    table = str(folder / "table.csv")
    overrides = [
        "usecase=tabular_classification",
        "usecase.target=digit",
        f"usecase.classes=[{','.join(f'd{digit}' for digit in range(10))}]",
        "usecase.exclude=[client]",
        "usecase.scaler=none",
        "usecase.attributions=false",
        "usecase.score.name=accuracy",
        f"data.sites=[{{name: all, train: {table}}}]",
        f"model.params.hidden=[{digits.HIDDEN}]",
        "train.optimizer=sgd",
        f"train.lr={digits.LEARNING_RATE}",
        f"train.batch_size={digits.BATCH_SIZE}",
        "train.local_epochs=1",
        f"rounds={rounds}",
        f"initial_weights={folder / 'weights.safetensors'}",
        "board.url=null",
    ]
    held_out = shutil.copy(table, folder / "held_out.csv")  # the peers score the training rows
    started = time.perf_counter()
    config = compose_overrides(overrides, folder / "run")
    cut = {"kind": "column", "column": "client", "num_sites": clients}
    sites = tuple(
        DataSource(
            digits.name(client),
            table,
            holdout=str(held_out),
            partition=Partition(**cut, index=client),
        )
        for client in range(clients)
    )
    outcome = launch(replace(config, sources=sites))
    return time.perf_counter() - started, float(outcome.rounds[-1].score or 0.0)


def run_stock(folder: Path, clients: int, rounds: int) -> tuple[float, float]:
    """Run stock FedAvg on Flower's simulation engine."""
    import stock_simulation
    from flwr.simulation import run_simulation  # noqa: F401  (imports are not part of the time)

    started = time.perf_counter()
    accuracy = stock_simulation.run(folder, clients, rounds)
    return time.perf_counter() - started, accuracy


def run_loop(folder: Path, clients: int, rounds: int) -> tuple[float, float]:
    """Federated averaging without any framework: the lower bound."""
    import torch

    torch.set_num_threads(1)
    started = time.perf_counter()
    partition, model = digits.Partition(folder), digits.network()
    weights = {name: torch.from_numpy(w) for name, w in digits.read_weights(folder).items()}
    correct = 0
    for _ in range(rounds):
        total = {name: torch.zeros_like(w, dtype=torch.float64) for name, w in weights.items()}
        for client in range(clients):
            inputs, targets = partition.rows(client)
            model.load_state_dict(weights)
            digits.train_epoch(model, inputs, targets)
            for name, w in model.state_dict().items():
                total[name] += w.double() * len(targets)
        weights = {name: (t / len(partition.targets)).float() for name, t in total.items()}
        model.load_state_dict(weights)
        rows = (partition.rows(client) for client in range(clients))
        correct = sum(digits.num_correct(model, *pair) for pair in rows)
    return time.perf_counter() - started, correct / len(partition.targets)


if __name__ == "__main__":
    main()
