"""Gradient-boosted trees by XGBoost, behind the same seam as the networks.

Chen, Guestrin: "XGBoost: A Scalable Tree Boosting System", KDD 2016 (arXiv:1603.02754). The model
is one array, ``"0"``: the booster as JSON bytes, as Flower's XGBoost strategies exchange it. An
empty array is a model without trees, which predicts the training rows' class shares (two
classes), every class alike (more), or the mean.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from fl_common.errors import ConfigError, ReplyError
from fl_common.words import suggest
from tasks.contract import Arrays, ModelSpec
from tasks.tabular.data import Tensors
from tasks.tabular.encode import Encoder
from tasks.trees import booster_json as boosters
from tasks.trees.booster_validation import BoosterSpec, check_booster

if TYPE_CHECKING:
    from xgboost import Booster

NAME, KEY = "xgboost", "0"
MAX_BYTES = 2**26
"""Most bytes of a booster."""
_NODE_BYTES, _TREE_BYTES = 240, 2048
"""More than XGBoost or Flower write for a node, and for a tree or a head beside its nodes."""
_FLOAT32_MAX = float(np.finfo(np.float32).max)


class TreeModel:
    """A booster with its preprocessing (``variable_size.VariableSizeModel``).

    Parameters
    ----------
    params : mapping
        XGBoost's own, and ``num_local_round``: boosting rounds of one local training.
    """

    def __init__(self, encoder: Encoder, params: Mapping[str, Any]) -> None:
        self.encoder = encoder
        self.num_local_round = int(params["num_local_round"])
        classes = len(encoder.classes)
        objective, base = "reg:squarederror", _mean(encoder)
        if classes:
            objective, base = ("binary:logistic", _share(encoder))
        if classes > 2:
            objective, base = ("multi:softprob", 0.0)
        self.form = BoosterSpec(
            objective=objective,
            num_features=len(encoder.feature_names),
            num_groups=classes if classes > 2 else 1,
            base_score=base,
            max_nodes=2 ** (int(params["max_depth"]) + 1) - 1,
        )
        self.params = {key: value for key, value in params.items() if key != "num_local_round"}
        self.params |= {"objective": objective, "base_score": base, "tree_method": "hist"}
        self.params |= {"nthread": 1, "verbosity": 0}
        if classes > 2:
            self.params["num_class"] = classes
        self._array: NDArray[np.uint8] = np.zeros(0, dtype=np.uint8)
        self._loaded: Booster | None = None
        self._checked = b""

    def arrays(self) -> Arrays:
        """Return the booster's bytes (a copy, shape (bytes,), uint8)."""
        return {KEY: self._array.copy()}

    def load(self, arrays: Arrays) -> None:
        """Set the booster.

        Raises
        ------
        ReplyError
            If it is none of this model's form.
        """
        array = _only(arrays)
        if array.tobytes() == self._array.tobytes():
            return
        if array.nbytes > MAX_BYTES:
            raise ReplyError(f"the booster has {array.nbytes:,} bytes, more than {MAX_BYTES:,}")
        text = array.tobytes()
        if text != self._checked:  # in a simulation every site receives the same
            document = boosters.parse(array)
            if document is not None:
                check_booster(document, self.form)
        self._array, self._loaded, self._checked = array.copy(), None, text

    def most_bytes(self, sent: Arrays) -> int:
        """Return how large a reply to ``sent`` may be."""
        trees = self.num_local_round * self.form.num_groups
        tree = _TREE_BYTES + _NODE_BYTES * self.form.max_nodes
        # Flower's JSON has spaces, XGBoost's has not
        return min(2 * _only(sent).nbytes + _TREE_BYTES + trees * tree, MAX_BYTES)

    def check_reply(self, reply: Arrays, sent: Arrays, *, whole: bool | None = None) -> None:
        """Check a site's booster: this model's form, and no more new trees than were asked for.

        Raises
        ------
        ReplyError
            Saying what is wrong with it.
        """
        document = boosters.parse(_only(reply))
        if document is None:
            raise ReplyError("the reply holds no tree")
        count = check_booster(document, self.form)
        asked = self.num_local_round * self.form.num_groups
        if whole is not True and count == asked:
            return
        before = boosters.trees_of(boosters.parse(_only(sent)))
        if whole is False or count != len(before) + asked:
            wanted = asked if whole is False else f"{len(before)} and {asked} new"
            raise ReplyError(f"the reply holds {count} trees, asked for were {wanted} ones")
        if boosters.trees_of(document)[: len(before)] != before:
            raise ReplyError("the reply changes trees of earlier rounds")

    def outputs(self, inputs: torch.Tensor) -> NDArray[np.float32]:
        """Return logits, shape (n, classes), or predictions, shape (n, 1), float32."""
        margin = self._margin(_plain(inputs))
        if len(self.encoder.classes) == 2:
            return np.stack([np.zeros_like(margin), margin], axis=1)
        return margin.reshape(len(margin), -1)

    def attributions(self, inputs: torch.Tensor) -> NDArray[np.float64]:
        """Sum |TreeSHAP| of the predicted class (or the prediction) per feature, shape (d,).

        Lundberg et al.: "From local explanations to global understanding with explainable AI for
        trees", Nature Machine Intelligence 2, 2020.
        """
        booster = self._booster()
        if booster is None or not len(inputs):
            return np.zeros(self.form.num_features)
        from xgboost import DMatrix

        rows = DMatrix(_plain(inputs), nthread=1)
        parts = np.asarray(booster.predict(rows, pred_contribs=True), dtype=np.float64)
        if parts.ndim == 3:
            winner = self.outputs(inputs).argmax(axis=1)
            parts = parts[np.arange(len(parts)), winner]
        return np.asarray(np.abs(parts[:, :-1]).sum(axis=0))

    def boost(self, data: Tensors, weights: NDArray[np.float64], seed: int) -> None:
        """Add ``num_local_round`` rounds of trees.

        Parameters
        ----------
        weights : array, shape (n,), float64
        """
        import xgboost

        inputs, targets = _plain(data.inputs), data.targets.numpy()
        rows = xgboost.DMatrix(inputs, label=targets, weight=weights, nthread=1)
        booster = xgboost.train(
            {**self.params, "seed": seed % 2**31},
            rows,
            num_boost_round=self.num_local_round,
            xgb_model=bytearray(self._array.tobytes()) if self._array.size else None,
        )
        raw = bytes(booster.save_raw(raw_format="json"))
        self._array, self._loaded = np.frombuffer(raw, dtype=np.uint8), booster

    def _booster(self) -> Booster | None:
        if self._loaded is None and self._array.size:
            from xgboost import Booster

            self._loaded = Booster({"nthread": 1, "verbosity": 0})
            self._loaded.load_model(bytearray(self._array.tobytes()))
        return self._loaded

    def _margin(self, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return raw scores, shape (n,), or (n, classes) from three classes on."""
        booster, groups = self._booster(), self.form.num_groups
        shape = (len(inputs), groups) if groups > 1 else (len(inputs),)
        if booster is None or not len(inputs):
            base = self.form.base_score
            logit = math.log(base / (1 - base)) if len(self.encoder.classes) == 2 else base
            return np.full(shape, logit, dtype=np.float32)
        from xgboost import DMatrix

        margin = booster.predict(DMatrix(inputs, nthread=1), output_margin=True)
        return np.asarray(margin, dtype=np.float32).reshape(shape)


def build_trees(spec: ModelSpec, encoder: Encoder) -> TreeModel:
    """Return a model without trees.

    Raises
    ------
    ConfigError
        If XGBoost is not installed, or a parameter does not exist or fit.
    """
    for key in spec.params:
        if key not in _PARAMS:
            raise ConfigError(
                f"model '{NAME}' has no parameter '{key}'{suggest(str(key), _PARAMS)}"
            )
    params = {key: spec.params.get(key, default) for key, (default, _, _) in _PARAMS.items()}
    for key, (default, accepts, wanted) in _PARAMS.items():
        value = params[key]
        kinds = (int,) if isinstance(default, int) else (int, float)
        if type(value) not in kinds or not accepts(value):
            raise ConfigError(f"model.params.{key} is {value!r}; expected {wanted}")
    if find_spec("xgboost") is None:
        raise ConfigError("model=xgboost needs XGBoost: pip install 'fedleague[xgboost]'")
    return TreeModel(encoder, params)


def num_new_trees(spec: ModelSpec, classes: int) -> int:
    """Return how many trees a local training adds: one per round, or per round and class."""
    rounds = int(spec.params.get("num_local_round", _PARAMS["num_local_round"][0]))
    return rounds * (classes if classes > 2 else 1)


def _only(arrays: Arrays) -> NDArray[np.uint8]:
    array = arrays.get(KEY)
    if array is None or len(arrays) > 1:
        raise ReplyError(f"the model is named {sorted(arrays)}, expected ['{KEY}']")
    if array.dtype != np.uint8 or array.ndim != 1:
        raise ReplyError(f"the booster is {array.dtype}{list(array.shape)}, expected uint8 bytes")
    return array


def _plain(inputs: torch.Tensor) -> NDArray[np.float32]:
    """Return the inputs with what is beyond float32 at its end; trees only compare."""
    return np.asarray(np.clip(inputs.numpy(), -_FLOAT32_MAX, _FLOAT32_MAX))


def _share(encoder: Encoder) -> float:
    counts = encoder.class_counts
    return min(max(counts[1] / max(1, sum(counts)), 1e-6), 1 - 1e-6)


def _mean(encoder: Encoder) -> float:
    return float(encoder.scale_target(np.array([encoder.target_units[0]]))[0])


_Accepts = Callable[[Any], bool]
_PARAMS: dict[str, tuple[int | float, _Accepts, str]] = {
    "max_depth": (3, lambda v: 1 <= v <= 12, "a whole number from 1 to 12"),
    "eta": (0.1, lambda v: 0 < v <= 1, "above 0 and up to 1"),
    "subsample": (1.0, lambda v: 0 < v <= 1, "above 0 and up to 1"),
    "colsample_bytree": (1.0, lambda v: 0 < v <= 1, "above 0 and up to 1"),
    "min_child_weight": (1.0, lambda v: 0 <= v < math.inf, "a number, at least 0"),
    "lambda": (1.0, lambda v: 0 <= v < math.inf, "a number, at least 0"),
    "num_local_round": (1, lambda v: 1 <= v <= 100, "a whole number from 1 to 100"),
}
"""Default, range, and the range in words."""
