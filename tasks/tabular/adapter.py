"""The two tabular tasks, as the federation sees them (``contract.Task``)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from fl_common.errors import SchemaError
from fl_common.words import suggest
from tasks.contract import (
    HOLDOUT,
    DataSource,
    Fitted,
    LocalObjective,
    LocalOutcome,
    Model,
    ModelSpec,
    SiteData,
    TrainConfig,
)
from tasks.metrics import (
    classification_stats,
    finalise_classification,
    finalise_regression,
    regression_stats,
    task_metrics,
)
from tasks.metrics.extra import ExtraMetrics
from tasks.networks.losses import Loss, calibrated, classification_loss, regression_loss
from tasks.networks.threads import small_operations
from tasks.scores import ScoreCard, Scores, TaskMetrics
from tasks.stats import Stats
from tasks.tabular.boosting import NAME as TREES
from tasks.tabular.boosting import TreeModel, num_new_trees
from tasks.tabular.choices import check_choices
from tasks.tabular.data import TabularData, read_site
from tasks.tabular.encode import Encoder
from tasks.tabular.evaluation import (
    Scorer,
    empty_scopes,
    evaluate_scopes,
    outputs,
    score_card,
)
from tasks.tabular.export import export_site
from tasks.tabular.files import open_table
from tasks.tabular.model_factory import build_any
from tasks.tabular.models import TabularModel
from tasks.tabular.preprocess import fit_rows, prepare
from tasks.tabular.rows import feature_rows
from tasks.tabular.schema import TabularSchema
from tasks.tabular.training import train_model
from tasks.tabular.tree_training import train_trees


class TabularTask(ABC):
    """What both tasks share; see ``contract.Task`` for each method.

    Parameters
    ----------
    schema : mapping
        Plain values of a use case; keys as in ``TabularSchema``.

    Raises
    ------
    ConfigError
        If the schema does not fit the task.
    """

    _is_classification: bool
    trains_privately = True

    @property
    def calibrates_logits(self) -> bool:
        """Whether ``LocalObjective.calibration`` has a meaning here."""
        return self._is_classification

    def __init__(self, schema: Mapping[str, Any]) -> None:
        self._extra, own = ExtraMetrics.split_from(schema)
        self.schema = TabularSchema.from_mapping(own, classification=self._is_classification)

    @property
    def metrics(self) -> TaskMetrics:
        """What the task measures."""
        kind = "classification" if self._is_classification else "regression"
        return self._extra.beside(task_metrics(kind, self.schema.classes))

    def check(self, spec: ModelSpec, config: TrainConfig) -> None:
        """Check model, optimiser and loss before any site is asked."""
        check_choices(spec, config, self.schema)

    def read(self, source: DataSource, split_seed: int) -> TabularData:
        """Read and split one site's CSV, Parquet or named table."""
        return read_site(source, split_seed, self.schema)

    def fit(self, data: SiteData, min_group_size: int) -> Stats:
        """Return the summands of ``preprocess.fit_rows``."""
        return fit_rows(cast(TabularData, data).train, self.schema, min_group_size)

    def prepare(self, stats: Stats) -> Fitted:
        """Finalise scaler, medians, vocabularies and class counts."""
        return prepare(stats, self.schema)

    def new_trees(self, spec: ModelSpec) -> int:
        """Return how many trees one local training adds to a model; 0 for one with weights."""
        return num_new_trees(spec, len(self.schema.classes)) if spec.name == TREES else 0

    def build(self, spec: ModelSpec, fitted: Fitted, seed: int) -> TabularModel | TreeModel:
        """Make a ``linear``, ``logistic``, ``mlp`` or ``xgboost`` model."""
        return build_any(spec, Encoder(fitted), seed)

    def train(
        self,
        model: Model,
        data: SiteData,
        config: TrainConfig,
        objective: LocalObjective,
        seed: int,
    ) -> LocalOutcome:
        """Train in place on the site's training rows."""
        tensors = cast(TabularData, data).tensors(cast(Scorer, model).encoder, "train")
        if isinstance(model, TreeModel):
            return train_trees(model, tensors, config, objective=objective, seed=seed)
        network = cast(TabularModel, model)
        loss = self._loss(config, network)
        if objective.calibration and self.calibrates_logits:
            classes = network.encoder.num_outputs
            loss = calibrated(loss, tensors[1], classes, objective.calibration)
        with small_operations():
            return train_model(network, tensors, loss, config, objective=objective, seed=seed)

    def evaluate(self, model: Model, data: SiteData, split: str = HOLDOUT) -> Stats:
        """Return the summands of every scope on a split's rows."""
        network, site = cast(Scorer, model), cast(TabularData, data)

        def row_stats(targets: NDArray[Any], raw: NDArray[Any]) -> Stats:
            return self._row_stats(network, targets, raw)

        with small_operations():
            return evaluate_scopes(network, site, split, self.schema, row_stats)

    def empty_stats(self, model: Model) -> Stats:
        """Return all-zero summands of every scope that a reply may hold."""
        network = cast(Scorer, model)
        rows = self._row_stats(
            network, np.zeros(0, dtype=np.int64), np.zeros((0, network.encoder.num_outputs))
        )
        return empty_scopes(rows, self.schema, len(network.encoder.columns))

    def finalise(self, stats: Stats, fitted: Fitted) -> ScoreCard:
        """Turn pooled summands into scores; pure."""
        columns = list(fitted["columns"])
        return score_card(stats, self.schema, columns, lambda part: self._scores(part, fitted))

    def predict(self, model: Model, rows: Path) -> pd.DataFrame:
        """Predict a CSV or Parquet file of rows; the target column is not needed.

        With ``scaler: per_site`` nobody can tell whose rows these are, so they are standardised
        by the pooled statistics of the fit exchange: each row's prediction is its own, but it
        can differ from the one that its site computes. Missing values are imputed, also with
        ``drop_incomplete``.

        Returns
        -------
        DataFrame, one row per row of the file
            ``prediction``, and for classification ``proba_<class>`` per class.

        Raises
        ------
        SchemaError
            If a column that the model needs is absent.
        """
        network = cast(Scorer, model)
        encoder = network.encoder
        table = open_table(str(rows), self.schema.missing_values, self.schema.is_categorical)
        names = list(table.frame.columns)
        for column in encoder.columns:
            if column not in names:
                near = suggest(column, names)
                raise SchemaError(f"{rows}, row 1: column '{column}' is missing{near}")
        inputs = encoder.encode(feature_rows(table, self.schema, encoder.columns), str(rows))
        return self._predictions(network, outputs(network, torch.from_numpy(inputs)))

    def export(self, source: DataSource, split_seed: int, folder: Path) -> dict[str, str]:
        """Write the site's rows as two CSV files below ``folder``."""
        return export_site(source, split_seed, self.schema, folder)

    @abstractmethod
    def _loss(self, config: TrainConfig, model: TabularModel) -> Loss: ...

    @abstractmethod
    def _row_stats(self, model: Scorer, targets: NDArray[Any], raw: NDArray[Any]) -> Stats: ...

    @abstractmethod
    def _scores(self, stats: Stats, fitted: Fitted) -> Scores: ...

    @abstractmethod
    def _predictions(self, model: Scorer, raw: NDArray[Any]) -> pd.DataFrame: ...


class TabularClassification(TabularTask):
    """Two or more classes; cross-entropy by default."""

    _is_classification = True

    def _loss(self, config: TrainConfig, model: TabularModel) -> Loss:
        return classification_loss(config, model.encoder.class_counts)

    def _row_stats(self, model: Scorer, targets: NDArray[Any], raw: NDArray[Any]) -> Stats:
        probabilities = _softmax(raw)
        stats = classification_stats(targets, probabilities)
        return stats.merge(self._extra.stats(targets, probabilities))

    def _scores(self, stats: Stats, fitted: Fitted) -> Scores:
        return self._extra.scores(finalise_classification(stats, fitted["classes"]), stats)

    def _predictions(self, model: Scorer, raw: NDArray[Any]) -> pd.DataFrame:
        probabilities = _softmax(raw)
        names = np.array(model.encoder.classes, dtype=object)
        columns = {"prediction": names[probabilities.argmax(axis=1)]}
        return pd.DataFrame(
            columns | {f"proba_{name}": probabilities[:, i] for i, name in enumerate(names)}
        )


class TabularRegression(TabularTask):
    """One number per row; squared error by default."""

    _is_classification = False

    def _loss(self, config: TrainConfig, model: TabularModel) -> Loss:
        return regression_loss(config)

    def _row_stats(self, model: Scorer, targets: NDArray[Any], raw: NDArray[Any]) -> Stats:
        shift, scale = model.encoder.target_units
        predictions = model.encoder.unscale(raw[:, 0])
        stats = regression_stats(targets, predictions, scale=scale, shift=shift)
        return stats.merge(self._extra.stats(targets, predictions))

    def _scores(self, stats: Stats, fitted: Fitted) -> Scores:
        target = fitted["target"]
        scores = finalise_regression(stats, scale=target["scale"], shift=target["mean"])
        return self._extra.scores(scores, stats)

    def _predictions(self, model: Scorer, raw: NDArray[Any]) -> pd.DataFrame:
        return pd.DataFrame({"prediction": model.encoder.unscale(raw[:, 0])})


def _softmax(raw: NDArray[Any]) -> NDArray[np.float64]:
    """Return probabilities, shape (n, c), float64."""
    return torch.softmax(torch.from_numpy(raw).double(), dim=1).numpy()
