"""The workload: scikit-learn's digits, dealt out to many clients; every side reads the same files.

Each client trains and is scored on its own rows, at least two of the 1,797: with more than 898
clients the first rows are dealt out a second time. All rows of a client are one batch, so there
is no batch order in which the sides could differ.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from torch import nn

LEARNING_RATE = 0.5
BATCH_SIZE = 1797
HIDDEN = 64
SEED = 0


def write_partition(folder: Path, num_clients: int) -> None:
    """Deal the rows out: the same table as ``partition.npz`` and as ``table.csv``."""
    bunch = load_digits()
    order = np.random.default_rng(SEED).permutation(len(bunch.target))
    order = np.resize(order, max(len(order), 2 * num_clients))
    inputs = (bunch.data / 16.0).astype(np.float32)[order]
    targets = bunch.target[order]
    cuts = np.array_split(np.arange(len(targets)), num_clients)
    bounds = np.array([0, *np.cumsum([len(cut) for cut in cuts])])
    np.savez(folder / "partition.npz", inputs=inputs, targets=targets, bounds=bounds)
    frame = pd.DataFrame(inputs, columns=[f"pixel_{i:02d}" for i in range(64)])
    frame["digit"] = [f"d{target}" for target in targets]
    frame["client"] = [name(client) for client, cut in enumerate(cuts) for _ in cut]
    frame.to_csv(folder / "table.csv", index=False)


def name(client: int) -> str:
    """Name a client; names sort like numbers."""
    return f"client_{client:05d}"


def write_weights(folder: Path) -> None:
    """Write the weights from which every side starts."""
    torch.manual_seed(SEED)
    np.savez(folder / "weights.npz", **{k: v.numpy() for k, v in network().state_dict().items()})


def read_weights(folder: Path) -> dict[str, NDArray[np.float32]]:
    """Return the starting weights."""
    with np.load(folder / "weights.npz") as file:
        return {name: file[name] for name in file.files}


def network() -> nn.Module:
    """Make the 64-64-10 perceptron."""
    return nn.Sequential(nn.Linear(64, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 10))


class Partition:
    """Rows of every client, as tensors."""

    def __init__(self, folder: Path) -> None:
        with np.load(folder / "partition.npz") as file:
            self.inputs = torch.from_numpy(file["inputs"])
            self.targets = torch.from_numpy(file["targets"])
            self.bounds = file["bounds"].tolist()

    def __len__(self) -> int:
        return len(self.bounds) - 1

    def rows(self, client: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return inputs (n, 64) and targets (n,) of one client."""
        part = slice(self.bounds[client], self.bounds[client + 1])
        return self.inputs[part], self.targets[part]


def train_epoch(model: nn.Module, inputs: torch.Tensor, targets: torch.Tensor) -> None:
    """One epoch of SGD: one step, because a client's rows are one batch."""
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE)
    model.train()
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(inputs), targets).backward()
    optimizer.step()


def num_correct(model: nn.Module, inputs: torch.Tensor, targets: torch.Tensor) -> int:
    """Count the rows whose digit is predicted."""
    model.eval()
    with torch.no_grad():
        return int((model(inputs).argmax(dim=1) == targets).sum())
