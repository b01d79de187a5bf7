"""The seam between a kind of learning and the federation.

A task adapter (one package per task below ``tasks/``) turns a site's private files into summands
and back into scores. Nothing here knows Flower, and no torch type crosses this seam: models are
arrays by name, so an adapter may be backed by PyTorch, scikit-learn or XGBoost alike.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator

from fl_common.validation import (
    Count,
    Fraction,
    NonNegative,
    Positive,
    Text,
    Whole,
    checked,
)
from tasks.scores import ScoreCard, TaskMetrics
from tasks.stats import Stats

Array = NDArray[Any]
Arrays = dict[str, NDArray[Any]]
TRAIN, VALIDATION, HOLDOUT = "train", "validation", "holdout"
"""A site's splits: one trains, one chooses (early stopping, the best round), one only scores."""
Fitted = Mapping[str, Any]
"""Finalised preprocessing as plain JSON values; made by ``Task.prepare`` on the server."""


@checked("data.partition")
class Partition:
    """How one shared table is cut into sites; the same seed gives the same cut everywhere.

    Parameters
    ----------
    kind : {"iid", "dirichlet", "size", "column"}
        Uniform; label-skewed by Dirichlet(alpha); size-skewed by Dirichlet(alpha); or by the
        values of ``column``.
    num_sites, index : int
        Number of sites, and which of them this is (0-based).
    """

    kind: Text
    num_sites: Count
    index: Whole
    seed: Whole = 0
    alpha: Positive = 0.5
    column: Text | None = None


@checked("data")
class DataSource:
    """Where one site's rows are; written by the site (or by a simulation), never by a message.

    Parameters
    ----------
    name : str
        The site's name.
    train : str
        A CSV or Parquet path, or ``dataset:NAME`` for a bundled or generated table.
    holdout : str or None
        A second file; without it ``holdout_fraction`` of ``train`` is held out.
    holdout_fraction : float, in (0, 1)
    validation : str or None
        A further file, whose rows choose between rounds.
    validation_fraction : float, in (0, 1), or None
        Without such a file, this part of the training rows that are left once the holdout is cut,
        so that the holdout is the same rows whatever it is; None: no row chooses.
    split_seed : int or None
        Pins the split; ``None`` takes the run's.
    partition : Partition or None
        Which part of a shared table belongs to this site.
    on_invalid : {"refuse", "drop"} or None
        What a bad picture or label does; ``None`` takes the use case's.
    """

    renamed: ClassVar[Mapping[str, str]] = {"on_bad": "on_invalid"}

    name: Text
    train: Text
    holdout: Text | None = None
    holdout_fraction: Fraction = 0.2
    validation: Text | None = None
    validation_fraction: Fraction | None = None
    split_seed: Whole | None = None
    partition: Partition | None = None
    on_invalid: Literal["refuse", "drop"] | None = None


@checked("model")
class ModelSpec:
    """A named architecture and its hyper-parameters."""

    name: Text
    params: Annotated[Mapping[str, Any], BeforeValidator(lambda v: {} if v is None else v)] = field(
        default_factory=dict
    )


@checked("train.dp")
class DpSgd:
    """Per-example clipping and noise in local training.

    Parameters
    ----------
    noise_multiplier : float, >= 0
        Standard deviation of the noise on a batch's summed gradients, in units of the norm.
    max_grad_norm : float, > 0
        Largest l2 norm of one example's gradient.
    delta : float, in (0, 1)
        Of the epsilon that a site reports.
    """

    noise_multiplier: NonNegative
    max_grad_norm: Positive
    delta: Fraction


@checked("train")
class TrainConfig:
    """Local training, the same for every site.

    Parameters
    ----------
    optimizer : {"sgd", "adam", "adamw", "rmsprop"}
    local_steps : int or None
        Stop after this many mini-batches instead of ``local_epochs`` passes.
    loss : str
        Named loss of the task (``cross_entropy``, ``mse``, ``mae``, ``huber``...), or ``auto``.
    class_weight : {"none", "balanced"}
        ``balanced`` weighs each class by n / (num_classes * n_class) over *all* sites.
    grad_clip : float or None
        Maximum l2 norm of a mini-batch's gradient.
    dp : DpSgd or None
        Train with differential privacy; only for a task and a model whose ``trains_privately``
        is true.
    """

    optimizer: Text = "sgd"
    lr: Positive = 0.1
    momentum: NonNegative = 0.0
    weight_decay: NonNegative = 0.0
    batch_size: Count = 32
    local_epochs: Count = 1
    local_steps: Count | None = None
    loss: Text = "auto"
    class_weight: Text = "none"
    grad_clip: Positive | None = None
    dp: DpSgd | None = None

    def private_steps(self, num_examples: int) -> tuple[float, int]:
        """Return the sampling rate q and the number of steps of one private training; both public.

        An epoch is as many steps as it takes to draw ``num_examples`` in expectation.
        """
        batch = min(self.batch_size, num_examples)
        steps = self.local_epochs * math.ceil(num_examples / batch)
        return batch / num_examples, steps if self.local_steps is None else self.local_steps


@dataclass(frozen=True)
class LocalObjective:
    """What a strategy adds to the local loss.

    The gradient of weight ``w`` becomes ``grad + linear + proximal_mu * (w - anchor)``: FedProx
    sets ``proximal_mu`` (anchor: the weights received), SCAFFOLD ``linear``, FedDyn both.

    Parameters
    ----------
    calibration : float, >= 0
        FedLC: the logit of class c is lowered by this times n_c^(-1/4) in the loss, n_c the
        site's own training rows of the class. Only for a task whose ``calibrates_logits`` is
        true.
    """

    proximal_mu: float = 0.0
    anchor: Arrays | None = None
    linear: Arrays | None = None
    calibration: float = 0.0


@dataclass(frozen=True)
class LocalOutcome:
    """Result of local training.

    Parameters
    ----------
    arrays : dict of str to array
        The weights after training, same names, shapes and dtypes as received.
    num_examples : int
        Training rows of the site (not row visits).
    num_steps : int
        Optimiser steps taken.
    loss : float
        Example-weighted mean training loss over the last epoch.
    """

    arrays: Arrays
    num_examples: int
    num_steps: int
    loss: float


class SiteData(Protocol):
    """One site's rows, read and split; opaque outside its adapter.

    Data with a method ``subgroup_rows(split)``, which counts a split's rows in each declared
    subgroup, let a site's policy hold back the small ones only; of any other none leaves.
    """

    @property
    def num_train(self) -> int:
        """Number of training rows."""

    @property
    def num_validation(self) -> int:
        """Number of rows that choose between rounds; 0 where the site has none."""

    @property
    def num_holdout(self) -> int:
        """Number of held-out rows."""

    @property
    def notes(self) -> list[str]:
        """What the site's operator should know (one class only, constant column...)."""


class Model(Protocol):
    """A model with its fitted preprocessing; one instance is reused across messages."""

    def arrays(self) -> Arrays:
        """Return the weights by name (copies)."""

    def load(self, arrays: Arrays) -> None:
        """Set the weights.

        Raises
        ------
        ReplyError
            If a name, shape or dtype differs.
        """


@runtime_checkable
class LayeredModel(Protocol):
    """A model that says what its layers are; strategies that keep layers local ask."""

    def layer_kinds(self) -> Mapping[str, str]:
        """Return each weight's kind: ``norm``, ``head`` (the last layer) or ``body``."""


class Task(Protocol):
    """One kind of learning, bound to a use case's schema."""

    def read(self, source: DataSource, split_seed: int) -> SiteData:
        """Read and split one site's files.

        Raises
        ------
        DataError
            If a file is missing, empty or unreadable, naming file, row and column.
        SchemaError
            If columns or classes differ from the use case.
        """

    def fit(self, data: SiteData, min_group_size: int) -> Stats:
        """Return the summands from which preprocessing is fitted (training rows only)."""

    def prepare(self, stats: Stats) -> Fitted:
        """Finalise preprocessing from the pooled summands.

        Raises
        ------
        SchemaError
            If the pooled data cannot be used (a column without any value, one class only).
        """

    def build(self, spec: ModelSpec, fitted: Fitted, seed: int) -> Model:
        """Make a freshly initialised model, the same for the same seed.

        Raises
        ------
        ConfigError
            If the architecture or one of its parameters does not exist.
        """

    def train(
        self,
        model: Model,
        data: SiteData,
        config: TrainConfig,
        objective: LocalObjective,
        seed: int,
    ) -> LocalOutcome:
        """Train ``model`` in place on the site's training rows.

        Raises
        ------
        DivergedError
            If the loss or a weight is not finite.
        """

    def evaluate(self, model: Model, data: SiteData, split: str = HOLDOUT) -> Stats:
        """Return the metric summands on one split of the site's rows.

        Parameters
        ----------
        split : {"holdout", "validation"}
            The other one's rows must not enter; a site's policy asks for no other name.
        """

    def empty_stats(self, model: Model) -> Stats:
        """Return all-zero metric summands: every name, shape and dtype that ``evaluate`` may send.

        The server checks replies against it, so that no site can spoil the sum for the others.
        """

    def finalise(self, stats: Stats, fitted: Fitted) -> ScoreCard:
        """Turn pooled metric summands into scores; pure."""

    def predict(self, model: Model, rows: Path) -> Any:
        """Return predictions for a file of rows or a folder of pictures.

        Returns
        -------
        DataFrame, or an object of its own
            Written as CSV; an object with ``to_text()`` as one file; one with ``write(out)`` writes
            what it has to say below ``out`` and returns a line for the user.
        """


# What a task may offer beyond ``Task``; each is used where a task has it. Beside these methods,
# four values may be set on a task: ``prediction_endings`` (of the files that ``predict`` writes,
# .csv and .parquet where absent, none for a folder); ``counts_per_row`` (how much one held-out row
# may add to a count of an evaluation; 1 where absent), ``trains_privately`` (local DP-SGD) and
# ``calibrates_logits`` (``LocalObjective.calibration``), both false where absent.


@runtime_checkable
class DeclaresMetrics(Protocol):
    """Says what it measures."""

    @property
    def metrics(self) -> TaskMetrics:
        """Return the metrics of this task, for the classes of its schema."""


def metrics_of(task: Task) -> TaskMetrics:
    """Return what a task declares of its metrics; nothing where it does not."""
    return task.metrics if isinstance(task, DeclaresMetrics) else TaskMetrics()


@runtime_checkable
class ChecksChoices(Protocol):
    """Checks what only the task understands, before any site is asked."""

    def check(self, spec: ModelSpec, config: TrainConfig) -> None:
        """Raise ConfigError on a model, optimiser or loss that does not exist or fit."""


@runtime_checkable
class StartsFromFile(Protocol):
    """Starts from weights of the organiser's that are not a whole model of ours."""

    def start(self, model: Model, spec: ModelSpec) -> None:
        """Load what ``spec`` names into ``model``; called by the server only."""


@runtime_checkable
class AddsTrees(Protocol):
    """Trains models that grow by trees."""

    def new_trees(self, spec: ModelSpec) -> int:
        """Return how many trees a site adds in a round; 0 for a model of another kind."""


@runtime_checkable
class DrawsPreviews(Protocol):
    """Draws a site's own rows, for the site's operator only."""

    def preview(self, data: SiteData, path: Path) -> Path:
        """Write a contact sheet to the PNG file ``path`` and return it."""


@runtime_checkable
class ExportsSites(Protocol):
    """Writes a named data set's site as files, to be deployed."""

    def export(self, source: DataSource, split_seed: int, folder: Path) -> dict[str, str]:
        """Write every split below ``folder``; return their places, as in ``site.yaml``."""


def child_seed(seed: int, *path: int | str) -> int:
    """Derive an independent 63-bit seed for ``path`` (round, site name, purpose).

    Uses numpy's ``SeedSequence``; strings enter by their UTF-8 bytes.
    """
    words: list[int] = [seed % 2**64]
    for part in path:
        words += [part % 2**64] if isinstance(part, int) else [len(part), *part.encode()]
    state = np.random.SeedSequence(words).generate_state(1, np.uint64)[0]
    return int(state >> np.uint64(1))
