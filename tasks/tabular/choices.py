"""Try a use case's model and training settings on a made-up column, before any site is asked."""

from __future__ import annotations

from typing import Any

from tasks.contract import ModelSpec, TrainConfig
from tasks.networks.losses import classification_loss, regression_loss
from tasks.tabular.boosting import NAME as TREES
from tasks.tabular.encode import Encoder
from tasks.tabular.model_factory import build_any
from tasks.tabular.schema import TabularSchema
from tasks.tabular.training import check_config
from tasks.tabular.tree_training import check_loss


def check_choices(spec: ModelSpec, train: TrainConfig, schema: TabularSchema) -> None:
    """Check model, optimiser and loss.

    Raises
    ------
    ConfigError
        If one of them, or one of their parameters, does not exist or fit.
    """
    check_config(train)
    if schema.classes:
        classification_loss(train, [1] * len(schema.classes))
    else:
        regression_loss(train)
    if spec.name == TREES:
        check_loss(train.loss, len(schema.classes))
    build_any(spec, Encoder(_one_column(schema)), 0)


def _one_column(schema: TabularSchema) -> dict[str, Any]:
    fitted: dict[str, Any] = {
        "num_sites": 1,
        "num_rows": 2,
        "imputation": schema.imputation,
        "scaler": schema.scaler,
        "one_hot": schema.one_hot,
        "columns": ["x"],
        "numeric": {"x": {"mean": 0.0, "scale": 1.0, "median": 0.0, "count": 2}},
        "categorical": {},
    }
    if schema.classes:
        classes = list(schema.classes)
        return fitted | {"classes": classes, "class_counts": [1] * len(classes)}
    return fitted | {"target": {"mean": 0.0, "scale": 1.0}, "target_scaling": True}
