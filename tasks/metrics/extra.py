"""Any torchmetrics metric whose states add up, as extra summands.

Most torchmetrics metrics either sum their states over processes, and so fit the one rule of this
framework, or keep every row's prediction in a list (``cat``), which must never leave a site. This
module takes the former and refuses the latter.
"""

from __future__ import annotations

import importlib
import json
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fl_common.errors import ConfigError, DataError, ReplyError
from fl_common.plugins import find_plugin, plugin_names
from fl_common.words import suggest
from tasks.metrics.metric_value import NO_ROWS, collect
from tasks.scores import DIRECTIONS, MetricInfo, Scores, TaskMetrics
from tasks.stats import Stats

if TYPE_CHECKING:
    from torchmetrics import Metric

KEY = "extra_metrics"
PACKAGES = ("torchmetrics.classification", "torchmetrics.regression")
"""The only packages a metric may come from: they need no downloads and run no foreign code."""


@dataclass(frozen=True)
class TorchmetricStats:
    """A torchmetrics metric by import path, checked to be a sum.

    Parameters
    ----------
    name : str
        Name of the score; no ``/``.
    target : str
        For instance ``torchmetrics.classification.MulticlassHingeLoss``, or the name of an
        installed plugin's (``fedleague.metrics``: a metric's class, or a function that makes one).
    kwargs : mapping of str to plain JSON values
        Constructor arguments.

    Raises
    ------
    ConfigError
        If the class is neither in `PACKAGES` nor a plugin's, rejects its arguments, is
        multi-label, or has a state that is a list or is not reduced by sum from zero.
    """

    name: str
    target: str
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.name or "/" in self.name:
            raise ConfigError(f"extra metric name '{self.name}' must be non-empty, without '/'")
        try:
            json.dumps(dict(self.kwargs))
        except TypeError as error:
            raise ConfigError(f"extra metric '{self.name}': kwargs must be plain values") from error
        self.build()

    @property
    def direction(self) -> str | None:
        """Which way is better, where the metric says so (``higher_is_better``)."""
        higher = self.build().higher_is_better
        return None if higher is None else "max" if higher else "min"

    def build(self) -> Metric:
        """Make a fresh metric in float64 and check every state."""
        from torch import float64
        from torchmetrics import Metric

        factory = self._factory()
        try:
            with warnings.catch_warnings():
                # Metrics that buffer rows warn about memory; they are refused below.
                warnings.simplefilter("ignore", UserWarning)
                metric = factory(**self.kwargs)
        except (TypeError, ValueError, ModuleNotFoundError) as error:
            raise ConfigError(f"extra metric '{self.name}': {self.target}: {error}") from error
        if not isinstance(metric, Metric):
            raise ConfigError(
                f"extra metric '{self.name}': '{self.target}' makes no torchmetrics.Metric"
            )
        metric.set_dtype(float64)
        require_sums(self.name, metric)
        return metric

    def _factory(self) -> Callable[..., Any]:
        """Return what makes the metric: a plugin's, or a class of torchmetrics."""
        if (plugin := find_plugin("metrics", self.target)) is not None:
            made: Callable[..., Any] = plugin.load()
            return made
        package, _, attribute = self.target.rpartition(".")
        if package not in PACKAGES:
            near = suggest(self.target, plugin_names("metrics")) if not package else ""
            raise ConfigError(
                f"extra metric '{self.name}': '{self.target}' is not in {' or '.join(PACKAGES)}, "
                f"and no installed plugin adds it{near}"
            )
        from torchmetrics import Metric

        factory = getattr(importlib.import_module(package), attribute, None)
        if not isinstance(factory, type) or not issubclass(factory, Metric):
            raise ConfigError(f"extra metric '{self.name}': no metric '{self.target}'")
        return factory


@dataclass(frozen=True)
class ExtraMetrics:
    """A use case's ``extra_metrics``, beside the metrics of its task.

    Parameters
    ----------
    specs : tuple of TorchmetricStats
    directions : mapping of str to {"max", "min", "zero"}
        Of the metrics whose direction is declared, or known to torchmetrics.
    """

    specs: tuple[TorchmetricStats, ...] = ()
    directions: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def split_from(cls, schema: Mapping[str, Any]) -> tuple[ExtraMetrics, dict[str, Any]]:
        """Read a schema's ``extra_metrics``; return it and the rest of the schema.

        Each is ``name: {_target_: METRIC, direction: max, ...}``; ``direction`` may be left out
        where torchmetrics knows it, and what else there is are the metric's arguments.

        Raises
        ------
        ConfigError
            If an entry is no such mapping, or its metric cannot be made or is no sum.
        """
        rest = {key: value for key, value in schema.items() if key != KEY}
        asked = schema.get(KEY) or {}
        if not isinstance(asked, Mapping):
            raise ConfigError(f"usecase.{KEY} is {asked!r}; write {{name: {{_target_: METRIC}}}}")
        specs, directions = [], {}
        for name, given in asked.items():
            if not isinstance(given, Mapping) or not isinstance(given.get("_target_"), str):
                raise ConfigError(
                    f"usecase.{KEY}.{name} is {given!r}; write {{_target_: "
                    "torchmetrics.classification.MulticlassHingeLoss, num_classes: 3}"
                )
            kwargs = {k: v for k, v in given.items() if k not in ("_target_", "direction")}
            spec = TorchmetricStats(str(name), given["_target_"], kwargs)
            direction = given.get("direction") or spec.direction
            if direction is not None and direction not in DIRECTIONS:
                raise ConfigError(
                    f"usecase.{KEY}.{name}.direction is {direction!r}; expected "
                    f"{', '.join(DIRECTIONS)}"
                )
            specs.append(spec)
            if direction is not None:
                directions[spec.name] = str(direction)
        return cls(tuple(specs), directions), rest

    def beside(self, own: TaskMetrics) -> TaskMetrics:
        """Return the task's metrics and these, which a run's table shows too.

        Raises
        ------
        ConfigError
            If a name is the task's already.
        """
        known = {info.name for info in own.infos}
        for spec in self.specs:
            if spec.name in known:
                raise ConfigError(
                    f"usecase.{KEY}.{spec.name}: the task has a metric of this name; choose another"
                )
        infos = tuple(
            MetricInfo(spec.name, self.directions.get(spec.name), summary=spec.target)
            for spec in self.specs
        )
        names = tuple(spec.name for spec in self.specs)
        return replace(own, infos=(*own.infos, *infos), headline=(*own.headline, *names))

    def stats(self, targets: NDArray[Any], outputs: NDArray[Any]) -> Stats:
        """Return the summands of all of them on some rows."""
        return Stats.total(extra_stats(spec, targets, outputs) for spec in self.specs)

    def scores(self, own: Scores, stats: Stats) -> Scores:
        """Finalise all of them once, beside the task's own scores."""
        for spec in self.specs:
            more = finalise_extra(spec, stats)
            own = replace(
                own,
                values=own.values | more.values,
                absent=own.absent | more.absent,
                arrays=own.arrays | more.arrays,
            )
        return own


def require_sums(name: str, metric: Metric) -> None:
    """Require that every state of a metric adds up over sites.

    Raises
    ------
    ConfigError
        If it is multi-label, has no state, or a state that is a list or not a sum from zero.
    """
    from torch import Tensor
    from torchmetrics.utilities.data import dim_zero_sum

    kind = type(metric).__name__
    if kind.startswith("Multilabel"):
        raise ConfigError(f"extra metric '{name}': multi-label metrics do not fit")
    if not metric._defaults:
        raise ConfigError(f"extra metric '{name}': {kind} has no state of its own")
    for state, default in metric._defaults.items():
        starts_at_zero = isinstance(default, Tensor) and not default.any()
        if not starts_at_zero or metric._reductions[state] is not dim_zero_sum:
            raise ConfigError(
                f"extra metric '{name}': state '{state}' of {kind} is not a plain sum; "
                "it may hold single rows' predictions, which must not leave a site. "
                "Give binned arguments (thresholds=...) or choose another metric"
            )


def extra_stats(
    spec: TorchmetricStats, targets: NDArray[Any], probabilities: NDArray[Any]
) -> Stats:
    """Return the metric's states on some rows, as summands named ``extra/<name>/<state>``.

    Parameters
    ----------
    spec : TorchmetricStats
    targets : array, shape (n,), int64 class indices or float targets
    probabilities : array, float, shape (n, c), or shape (n,) predictions of a regression
        A binary metric (``Binary...``) is given the column of class 1.

    Raises
    ------
    DataError
        If the metric rejects these rows.
    """
    import torch

    metric = spec.build()
    outputs = np.asarray(probabilities, dtype=np.float64)
    if type(metric).__name__.startswith("Binary") and outputs.ndim == 2:
        outputs = outputs[:, -1]
    if len(outputs):
        try:
            metric.update(
                torch.from_numpy(np.ascontiguousarray(outputs)),
                torch.from_numpy(np.ascontiguousarray(targets)),
            )
        except (RuntimeError, ValueError, IndexError) as error:
            raise DataError(f"extra metric '{spec.name}' rejects the rows: {error}") from error
    states = {name: getattr(metric, name).numpy() for name in metric._defaults}
    states["rows"] = np.array(len(outputs))
    return Stats(states).under(f"extra/{spec.name}")


def finalise_extra(spec: TorchmetricStats, stats: Stats) -> Scores:
    """Load the pooled states into the metric and compute it once.

    Returns
    -------
    Scores
        A scalar in ``values``, anything else as nested lists in ``arrays``; absent if there are no
        rows or the result is not finite.

    Raises
    ------
    ReplyError
        If a state is missing or has another shape than the metric's.
    """
    import torch

    metric = spec.build()
    pooled = stats.below(f"extra/{spec.name}")
    if int(pooled.get("rows", np.array(0))) == 0:
        return collect({spec.name: NO_ROWS})
    for name in metric._defaults:
        array, shape = pooled.get(name), tuple(getattr(metric, name).shape)
        if array is None or array.shape != shape:
            got = "nothing" if array is None else str(array.shape)
            raise ReplyError(f"summand 'extra/{spec.name}/{name}': expected {shape}, got {got}")
        setattr(metric, name, torch.from_numpy(np.array(array)))
    metric._update_count = 1  # otherwise compute() warns that nothing was added
    result = _plain(metric.compute())
    if isinstance(result, float):
        return collect({spec.name: result})
    return Scores(arrays={spec.name: result})


def _plain(result: Any) -> Any:
    if isinstance(result, Mapping):
        return {str(key): _plain(value) for key, value in result.items()}
    if isinstance(result, list | tuple):
        return [_plain(value) for value in result]
    return float(result) if result.ndim == 0 else result.tolist()
