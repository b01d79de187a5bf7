"""What a booster from another machine must look like before native code may see it.

The text is XGBoost's own JSON, of which any part, in any site's reply, may be malicious. Every
part is known by name here, and every number of every node is looked at.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from fl_common.errors import ReplyError
from tasks.contract import Array
from tasks.trees.booster_json import Document

MAX_LEAF = 1e30
"""So that the sum of many leaves stays within float32."""
ROOT = 2**31 - 1
"""What XGBoost gives as the parent of a root."""
_TREE_FLOATS = ("base_weights", "loss_changes", "split_conditions", "sum_hessian")
_TREE_INTS = (
    "default_left",
    "left_children",
    "parents",
    "right_children",
    "split_indices",
    "split_type",
)
_CATEGORIES = ("categories", "categories_nodes", "categories_segments", "categories_sizes")
_TREE = {*_TREE_FLOATS, *_TREE_INTS, *_CATEGORIES, "id", "tree_param"}
_TREE_PARAM = {"num_deleted", "num_feature", "num_nodes", "size_leaf_vector"}
_LEARNER = {"attributes", "feature_names", "feature_types", "gradient_booster"} | {
    "learner_model_param",
    "objective",
}
_HEAD = {"base_score", "boost_from_average", "num_class", "num_feature", "num_target"}
_MODEL = {"gbtree_model_param", "iteration_indptr", "tree_info", "trees"}
_NUMBER = r"-?\d(?:\.\d{1,20})?(?:E-?\d{1,2})?"
_SCORES = re.compile(rf"{_NUMBER}|\[{_NUMBER}(?:,{_NUMBER}){{0,999}}\]")
_NO_CATEGORIES: Document = {"enc": [], "feature_segments": [], "sorted_idx": []}


@dataclass(frozen=True)
class BoosterSpec:
    """What every booster of a run has in common.

    Parameters
    ----------
    objective : str
    num_features : int
    num_groups : int
        Trees of one boosting round: one per class, or one.
    base_score : float
        What the booster predicts before its first tree.
    max_nodes : int
        Most nodes of a tree.
    """

    objective: str
    num_features: int
    num_groups: int
    base_score: float
    max_nodes: int


def check_booster(document: Document, form: BoosterSpec) -> int:
    """Check a booster from another machine; return its number of trees.

    Raises
    ------
    ReplyError
        Naming the tree and what is wrong with it.
    """
    learner: Any = document.get("learner")
    if document.keys() != {"learner", "version"} or not _is_mapping(learner, _LEARNER):
        raise ReplyError("the booster has other parts than XGBoost writes")
    if not _is_version(document["version"]):
        raise ReplyError("the booster's version is none of XGBoost's")
    _check_head(learner, form)
    booster = learner["gradient_booster"]
    if not _is_mapping(booster, {"model", "name"}) or booster["name"] != "gbtree":
        raise ReplyError("the booster is no gbtree")
    model = booster["model"]
    if not _is_mapping(model, _MODEL, {"cats"}) or not isinstance(model["trees"], list):
        raise ReplyError("the booster has other parts than XGBoost writes")
    if model.get("cats", _NO_CATEGORIES) != _NO_CATEGORIES:
        raise ReplyError("the booster has categories")
    count, groups = len(model["trees"]), form.num_groups
    expected = {"num_parallel_tree": "1", "num_trees": str(count)}
    if model["gbtree_model_param"] != expected or count % groups:
        raise ReplyError(f"the booster does not hold {groups} trees per boosting round")
    if not _is_list_of_int(model["tree_info"], [i % groups for i in range(count)]):
        raise ReplyError("the booster's trees are not in the order of the classes")
    if not _is_list_of_int(model["iteration_indptr"], list(range(0, count + 1, groups))):
        raise ReplyError("the booster's rounds do not add up to its trees")
    for index, tree in enumerate(model["trees"]):
        try:
            _check_tree(tree, index, form)
        except (ReplyError, OverflowError, ValueError) as error:
            raise ReplyError(f"tree {index} of the booster: {error}") from None
    return count


def _check_head(learner: Mapping[str, Any], form: BoosterSpec) -> None:
    named = any(learner[key] != [] for key in ("feature_names", "feature_types"))
    if learner["attributes"] != {} or named:
        raise ReplyError("the booster carries attributes or names of features")
    head, objective = learner["learner_model_param"], learner["objective"]
    if not _is_mapping(head, _HEAD) or not all(isinstance(v, str) for v in head.values()):
        raise ReplyError("the booster has other parts than XGBoost writes")
    classes = form.num_groups if form.num_groups > 1 else 0
    counts = (str(form.num_features), str(classes), "1")
    if (head["num_feature"], head["num_class"], head["num_target"]) != counts:
        raise ReplyError(
            f"the booster has {head['num_feature'][:20]} features and {head['num_class'][:20]} "
            f"classes, expected {counts[0]} and {counts[1]}"
        )
    known = [
        {"name": form.objective, "reg_loss_param": {"scale_pos_weight": "1"}},
        {"name": form.objective, "softmax_multiclass_param": {"num_class": str(classes)}},
    ]
    if objective not in known:
        raise ReplyError(f"the booster's objective is not {form.objective}")
    text = head["base_score"]
    if head["boost_from_average"] not in ("0", "1") or not _SCORES.fullmatch(text):
        raise ReplyError("the booster's base score is no number")
    scores = [float(score) for score in text.strip("[]").split(",")]
    vector = len(scores) in (1, form.num_groups)
    if not vector or not np.allclose(scores, form.base_score, rtol=1e-5, atol=1e-6):
        raise ReplyError(f"the booster does not start from {form.base_score:.6g}")


def _check_tree(tree: Any, index: int, form: BoosterSpec) -> None:
    if not _is_mapping(tree, _TREE) or not _is_mapping(tree["tree_param"], _TREE_PARAM):
        raise ReplyError("it has other parts than XGBoost writes")
    if not isinstance(tree["left_children"], list):
        raise ReplyError("it has no list of nodes")
    param, nodes = tree["tree_param"], len(tree["left_children"])
    if not 1 <= nodes <= form.max_nodes:
        raise ReplyError(f"it has {nodes} nodes, at most {form.max_nodes} are allowed")
    counts = {"num_nodes": nodes, "num_feature": form.num_features, "num_deleted": 0}
    wrong = {key: n for key, n in counts.items() if param[key] != str(n)}
    if wrong or param["size_leaf_vector"] not in ("0", "1"):
        raise ReplyError(f"its counts are not {counts}")
    if (
        type(tree["id"]) is not int
        or tree["id"] != index
        or any(tree[k] != [] for k in _CATEGORIES)
    ):
        raise ReplyError("it is out of order or splits by categories")
    ints = {key: _column(tree[key], nodes, int) for key in _TREE_INTS}
    floats = {key: _column(tree[key], nodes, float) for key in _TREE_FLOATS}
    leaf = _check_structure(ints, form.num_features)
    if not all(np.isfinite(_float32(column)).all() for column in floats.values()):
        raise ReplyError("it holds a value that is not finite")
    if np.abs(floats["split_conditions"][leaf]).max() > MAX_LEAF:
        raise ReplyError("a leaf's value is beyond all measure")


def _check_structure(tree: Mapping[str, Array], num_features: int) -> Array:
    """Require one tree: every node but the root is the child of one earlier node.

    Returns
    -------
    array, shape (nodes,), bool
        Which nodes are leaves.
    """
    left, right, parents = tree["left_children"], tree["right_children"], tree["parents"]
    leaf = left == -1
    inner = np.flatnonzero(~leaf)
    children, above = np.concatenate([left[inner], right[inner]]), np.tile(inner, 2)
    if not np.array_equal(right == -1, leaf) or parents[0] != ROOT:
        raise ReplyError("its nodes are not a tree")
    if not np.array_equal(np.sort(children), np.arange(1, len(left))):
        raise ReplyError("its nodes are not a tree")
    if (children <= above).any() or not np.array_equal(parents[children], above):
        raise ReplyError("its nodes are not a tree")
    splits = tree["split_indices"]
    if splits.min() < 0 or splits.max() >= num_features:
        raise ReplyError(f"it splits on a feature beyond {num_features}")
    if tree["split_type"].any() or not np.isin(tree["default_left"], (0, 1)).all():
        raise ReplyError("it splits by categories")
    return np.asarray(leaf)


def _column(value: Any, length: int, kind: type) -> Array:
    if not isinstance(value, list) or len(value) != length:
        raise ReplyError(f"a list has not one value for each of its {length} nodes")
    if not all(type(item) is kind for item in value):
        raise ReplyError("a list holds something else than numbers")
    return np.asarray(value, dtype=np.int64 if kind is int else np.float64)


def _float32(column: Array) -> Array:
    with np.errstate(over="ignore"):
        return np.asarray(column.astype(np.float32))


def _is_mapping(value: Any, keys: set[str], optional: set[str] = frozenset()) -> bool:  # type: ignore[assignment]
    return isinstance(value, dict) and value.keys() - optional == keys


def _is_list_of_int(value: Any, expected: list[int]) -> bool:
    """Compare strictly: in JSON, true and 1.0 are not 1."""
    return bool(value == expected) and all(type(item) is int for item in value)


def _is_version(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 3
        and all(type(item) is int and 0 <= item < 100 for item in value)
    )
