"""The digits federation as a user of stock Flower writes it: FedAvg, a torch ClientApp, Ray."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path

import torch
from digits import Partition, network, num_correct, read_weights, train_epoch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

FOLDER = "BENCHMARK_FOLDER"
app = ClientApp()


@lru_cache
def partition() -> Partition:
    return Partition(Path(os.environ[FOLDER]))


@lru_cache
def model() -> torch.nn.Module:
    return network()


@app.train()
def train(message: Message, context: Context) -> Message:
    inputs, targets = partition().rows(int(context.node_config["partition-id"]))
    model().load_state_dict(message.content["arrays"].to_torch_state_dict())
    train_epoch(model(), inputs, targets)
    content = RecordDict(
        {
            "arrays": ArrayRecord(model().state_dict()),
            "metrics": MetricRecord({"num-examples": len(targets)}),
        }
    )
    return Message(content, reply_to=message)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    inputs, targets = partition().rows(int(context.node_config["partition-id"]))
    model().load_state_dict(message.content["arrays"].to_torch_state_dict())
    accuracy = num_correct(model(), inputs, targets) / len(targets)
    metrics = MetricRecord({"accuracy": accuracy, "num-examples": len(targets)})
    return Message(RecordDict({"metrics": metrics}), reply_to=message)


def run(folder: Path, num_clients: int, num_rounds: int) -> float:
    """Run on Flower's Ray engine, one core a client; return the accuracy of the last round."""
    from flwr.simulation import run_simulation

    os.environ[FOLDER] = str(folder)
    server = ServerApp()
    accuracies: list[float] = []

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        # Flower takes its share of the nodes that have registered so far: wait for all of them.
        strategy = FedAvg(
            min_train_nodes=num_clients,
            min_evaluate_nodes=num_clients,
            min_available_nodes=num_clients,
        )
        weights = {name: torch.from_numpy(w) for name, w in read_weights(folder).items()}
        result = strategy.start(grid, ArrayRecord(weights), num_rounds=num_rounds)
        accuracies.append(float(result.evaluate_metrics_clientapp[num_rounds]["accuracy"]))

    run_simulation(
        server,
        app,
        num_supernodes=num_clients,
        backend_config={"client_resources": {"num_cpus": 1, "num_gpus": 0.0}},
    )
    return accuracies[0]
