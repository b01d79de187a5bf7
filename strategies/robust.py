"""What the robust rules share: flat updates, distances, replies that are enough."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, Message
from numpy.typing import NDArray

from fl_common.errors import ReplyError
from strategies.wire.messages import ARRAYS
from strategies.wire.records import record_of, unpack_arrays
from tasks.contract import Arrays


def models_of(replies: Sequence[Message]) -> list[Arrays]:
    """Decode each reply's model."""
    return [unpack_arrays(record_of(reply.content, ARRAYS, ArrayRecord)) for reply in replies]


def squared_distances(models: Sequence[Arrays]) -> NDArray[np.float64]:
    """Return pairwise squared l2 distances, shape (n, n), float64, infinite on the diagonal.

    The models are centred first. Flower's ``compute_distances`` expands |x|^2 + |y|^2 - 2xy in
    float32 around the origin, where the distances of nearly equal models (every late round)
    drown in rounding, may turn negative, and a model is no longer its own nearest neighbour.
    """
    flat = np.stack([_flat(model) for model in models])  # (n, d)
    flat -= flat.mean(axis=0)
    norms = np.square(flat).sum(axis=1)
    distances = np.maximum(norms[:, None] + norms[None, :] - 2.0 * flat @ flat.T, 0.0)
    np.fill_diagonal(distances, np.inf)
    return np.asarray(distances)


def krum_scores(distances: NDArray[np.float64], num_malicious: int) -> NDArray[np.float64]:
    """Return each model's sum of distances to its n - f - 2 nearest others (at least one).

    Parameters
    ----------
    distances : array, shape (n, n)
        Infinite on the diagonal.
    """
    closest = max(1, len(distances) - num_malicious - 2)
    scores: NDArray[np.float64] = np.sort(distances, axis=1)[:, :closest].sum(axis=1)
    return scores


def tolerated(num_replies: int, wanted: int | None, per_malicious: int, rule: str) -> int:
    """Return f: as configured, or as many as n replies allow (n >= ``per_malicious`` f + 3).

    Raises
    ------
    ReplyError
        If there are too few replies for f.
    """
    if num_replies < 3:
        raise ReplyError(f"{rule} needs at least 3 replies, got {num_replies}")
    if wanted is None:
        return (num_replies - 3) // per_malicious
    needed = per_malicious * wanted + 3
    if num_replies < needed:
        raise ReplyError(
            f"{rule} with num_malicious_nodes={wanted} needs at least {needed} replies, got "
            f"{num_replies}; invite more sites or lower strategy.num_malicious_nodes"
        )
    return wanted


def plain_mean(models: Sequence[Arrays]) -> Arrays:
    """Return the unweighted mean, in the models' dtypes."""
    return {name: _mean([model[name] for model in models]) for name in models[0]}


def _flat(model: Arrays) -> NDArray[np.float64]:
    return np.concatenate([np.ravel(a).astype(np.float64) for a in model.values()])


def _mean(arrays: Sequence[NDArray[Any]]) -> NDArray[Any]:
    return np.asarray(np.mean(np.stack(arrays), axis=0, dtype=np.float64)).astype(arrays[0].dtype)
