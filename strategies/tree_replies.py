"""Models that grow on the wire: the one exception from "shapes are as they were sent".

Server and site ask the same question of a reply, each with its own copy of the model.
"""

from __future__ import annotations

from flwr.app import ArrayRecord
from flwr.serverapp import strategy as flower
from flwr.serverapp.strategy import Strategy

from fl_common.errors import ConfigError, ReplyError
from strategies.requirements import requirements_of
from strategies.wire.records import unpack_arrays
from tasks.contract import Arrays
from tasks.trees.variable_size import VariableSizeModel

HEADER_BYTES = 1024


def check_tree_reply(
    record: ArrayRecord, sent: Arrays, model: VariableSizeModel, *, whole: bool | None = None
) -> None:
    """Check the arrays of a training reply; its size first, its content last.

    Parameters
    ----------
    whole : bool or None
        Whether the reply continues ``sent`` or holds what is new only; None: either.

    Raises
    ------
    ReplyError
        Saying what is wrong.
    """
    if wrong := record.keys() ^ sent.keys():
        raise ReplyError(f"weights {sorted(wrong)} are missing or were not asked for")
    most = model.most_bytes(sent)
    for name, array in record.items():
        if array.dtype != "uint8" or len(array.shape) != 1:
            raise ReplyError(f"weight '{name}' is {array.dtype}{list(array.shape)}, no bytes")
        if len(array.data) > most + HEADER_BYTES:
            raise ReplyError(
                f"weight '{name}' is oversized: {len(array.data):,} bytes, at most {most:,}"
            )
    model.check_reply(unpack_arrays(record, copy=False), sent, whole=whole)


def replies_whole(strategy: Strategy) -> bool:
    """Say whether a tree strategy's replies continue the booster that was sent."""
    return requirements_of(strategy).trees == "whole"


def check_variable_size(
    strategy: Strategy,
    *,
    num_trees: int,
    model: str,
    hidden: bool = False,
    compresses: bool = False,
    max_update_norm: float | None = None,
) -> None:
    """Refuse trees with a strategy for weights, weights with one for trees, and what trees lack.

    Parameters
    ----------
    num_trees : int
        Trees that one reply adds; 0 where the run's model is no ``VariableSizeModel``.
    model : str
        Its name.
    hidden, compresses : bool
        Whether updates are masked or noised, or encoded smaller than they are.

    Raises
    ------
    ConfigError
        Saying why, and what to change.
    """
    name, trees = type(strategy).__name__, requirements_of(strategy).trees is not None
    if trees and not num_trees:
        raise ConfigError(
            f"{name} joins trees, and model={model} has weights; set model=xgboost, or strategy="
            "fedavg"
        )
    if not num_trees:
        return
    if not trees:
        raise ConfigError(
            f"{name} combines weights of one shape, and model={model} has trees, which do not "
            "add up; set strategy=xgb_bagging or xgb_cyclic"
        )
    if type(strategy) is flower.FedXgbBagging and num_trees > 1:
        raise ConfigError(
            f"Flower's FedXgbBagging keeps one of the {num_trees} new trees of a reply; "
            "set strategy=xgb_bagging"
        )
    if hidden:
        raise ConfigError(
            f"model={model} sends trees, which can be neither masked nor clipped and noised as "
            "updates are; set privacy=none, or model=mlp"
        )
    if compresses:
        raise ConfigError(
            f"model={model} sends trees as text, of which no bit may be lost; set compression=fp32"
        )
    if max_update_norm is not None:
        raise ConfigError(
            f"model={model} sends trees, which have no l2 norm; set sites.max_update_norm=null"
        )
