"""Boosted trees as XGBoost writes them in JSON: read, cut and joined as text.

Nothing here needs XGBoost, and nothing is ever unpickled. ``booster_validation`` checks what
comes from another machine.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

import numpy as np

from fl_common.errors import ReplyError
from tasks.contract import Array

Document = dict[str, Any]


def parse(array: Array) -> Document | None:
    """Read a booster; None for an empty array: no tree yet.

    Raises
    ------
    ReplyError
        If it is not one JSON object in ASCII, or repeats a key, so that another parser could read
        something else in it.
    """
    if not array.size:
        return None
    try:
        document = json.loads(
            array.tobytes().decode("ascii"), object_pairs_hook=_unique, parse_constant=_constant
        )
    except (ValueError, RecursionError) as error:
        raise ReplyError(f"the booster is no JSON: {str(error)[:80]}") from None
    if not isinstance(document, dict):
        raise ReplyError("the booster is no JSON object")
    return document


def to_array(document: Document) -> Array:
    """Write a booster, as ``xgboost.Booster.load_model`` reads it."""
    return from_bytes(json.dumps(document, separators=(",", ":")).encode())


def from_bytes(text: bytes) -> Array:
    """Return bytes as an array."""
    return np.frombuffer(text, dtype=np.uint8)


def trees_of(document: Document | None) -> list[Any]:
    """Return the trees of a checked booster."""
    return [] if document is None else list(_model(document)["trees"])


def added(after: Array, before: Array) -> Array:
    """Return ``after``, which continues ``before``, without the trees that both have."""
    document = parse(after)
    if document is None:
        return after
    old = len(trees_of(parse(before)))
    model = _model(document)
    _set_trees(model, model["trees"][old:], model["tree_info"][old:], _groups(document))
    return to_array(document)


def joined(base: Array, parts: Iterable[Array]) -> Array:
    """Append the trees of ``parts`` to ``base``, each as further boosting rounds.

    For one class and one new tree per part this is ``aggregate_bagging`` of Flower, which takes
    the first tree of a part only and books it for class 0: with several classes, or several local
    rounds, trees would be lost.
    """
    document = parse(base)
    for part in map(parse, parts):
        if part is None or document is None:
            document = document or part
            continue
        model, new = _model(document), _model(part)
        trees, info = model["trees"] + new["trees"], model["tree_info"] + new["tree_info"]
        _set_trees(model, trees, info, _groups(document))
    return base if document is None else to_array(document)


def scaled(array: Array, factor: float) -> Array:
    """Multiply every leaf of a booster, and so what its trees add to a prediction."""
    document = parse(array)
    if document is None or factor == 1.0:
        return array
    for tree in _model(document)["trees"]:
        for key in ("split_conditions", "base_weights"):
            values = zip(tree[key], tree["left_children"], strict=True)
            tree[key] = [_shortest(v * factor) if left == -1 else v for v, left in values]
    return to_array(document)


def _shortest(value: float) -> float:
    """Return the shortest number that float32 reads as this one."""
    return float(str(np.float32(value)))


def _model(document: Document) -> dict[str, Any]:
    model: dict[str, Any] = document["learner"]["gradient_booster"]["model"]
    return model


def _groups(document: Document) -> int:
    return max(int(document["learner"]["learner_model_param"]["num_class"]), 1)


def _set_trees(
    model: dict[str, Any], trees: Sequence[dict[str, Any]], info: list[int], groups: int
) -> None:
    model["trees"] = [{**tree, "id": index} for index, tree in enumerate(trees)]
    model["tree_info"] = info
    model["iteration_indptr"] = list(range(0, len(trees) + 1, groups))
    model["gbtree_model_param"]["num_trees"] = str(len(trees))


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key occurs twice")
    return found


def _constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")
