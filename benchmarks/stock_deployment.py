"""A tiny federation as a user of stock Flower writes it, for SuperLink and SuperNodes."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

server = ServerApp()
client = ClientApp()


@client.train()
def train(message: Message, context: Context) -> Message:
    """Send the weights back, one added: what is measured is everything but learning."""
    weights = message.content["arrays"].to_numpy_ndarrays()
    metrics = MetricRecord({"num-examples": 10})
    arrays = ArrayRecord([w + 1.0 for w in weights])
    return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)


@client.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    metrics = MetricRecord({"accuracy": 1.0, "num-examples": 10})
    return Message(RecordDict({"metrics": metrics}), reply_to=message)


class TimedFedAvg(FedAvg):
    """Stock FedAvg that notes when each round begins."""

    def __init__(self) -> None:
        super().__init__(min_available_nodes=2)
        self.started: list[float] = []

    def configure_train(self, *args, **kwargs):  # type: ignore[no-untyped-def]
        messages = super().configure_train(*args, **kwargs)
        self.started.append(time.monotonic())
        return messages


@server.main()
def main(grid: Grid, context: Context) -> None:
    strategy = TimedFedAvg()
    rounds = int(context.run_config["rounds"])
    weights = ArrayRecord([np.zeros((10, 10), np.float32), np.zeros(10, np.float32)])
    strategy.start(grid, weights, num_rounds=rounds)
    times = [*strategy.started, time.monotonic()]
    seconds = np.diff(times).tolist()
    Path(str(context.run_config["report"])).write_text(json.dumps({"rounds": seconds}))
