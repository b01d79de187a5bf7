"""Every model of the tabular tasks by name: networks and trees."""

from __future__ import annotations

from tasks.contract import ModelSpec
from tasks.tabular.boosting import NAME as TREES
from tasks.tabular.boosting import TreeModel, build_trees
from tasks.tabular.encode import Encoder
from tasks.tabular.models import TabularModel, build_model


def build_any(spec: ModelSpec, encoder: Encoder, seed: int) -> TabularModel | TreeModel:
    """Return a freshly initialised model, the same for the same seed.

    Raises
    ------
    ConfigError
        If the architecture or a parameter does not exist, or a value does not fit.
    """
    return build_trees(spec, encoder) if spec.name == TREES else build_model(spec, encoder, seed)
