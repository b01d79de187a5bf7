"""Every metric's name, direction and range.

The leaderboard ranks by direction: ``max`` (higher is better), ``min``, or ``zero`` (closest to
zero: a mean bias of -9 must not beat one of 0.1).

>>> metric_info("mbe").direction
'zero'
>>> metric_info("recall_malignant", ["benign", "malignant"]).summary
"share of the rows of 'malignant' that were predicted as 'malignant'"
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from fl_common.errors import ConfigError
from tasks.scores import MetricInfo, TaskMetrics

_INF = math.inf
_OVERALL = (
    MetricInfo("accuracy", "max", 0, 1, "share of rows predicted correctly"),
    MetricInfo("balanced_accuracy", "max", 0, 1, "mean recall over the classes that have rows"),
    MetricInfo("precision_macro", "max", 0, 1, "mean precision over classes"),
    MetricInfo("recall_macro", "max", 0, 1, "mean recall over classes"),
    MetricInfo("f1_macro", "max", 0, 1, "mean F1 over classes"),
    MetricInfo("precision_micro", "max", 0, 1, "precision over all decisions; equals accuracy"),
    MetricInfo("recall_micro", "max", 0, 1, "recall over all decisions; equals accuracy"),
    MetricInfo("f1_micro", "max", 0, 1, "F1 over all decisions; equals accuracy"),
    MetricInfo("precision_weighted", "max", 0, 1, "mean precision weighted by rows per class"),
    MetricInfo("recall_weighted", "max", 0, 1, "mean recall weighted by rows per class"),
    MetricInfo("f1_weighted", "max", 0, 1, "mean F1 weighted by rows per class"),
    MetricInfo("specificity_macro", "max", 0, 1, "mean specificity over classes"),
    MetricInfo("npv_macro", "max", 0, 1, "mean negative predictive value over classes"),
    MetricInfo("fbeta05_macro", "max", 0, 1, "mean F0.5 over classes (favours precision)"),
    MetricInfo("fbeta2_macro", "max", 0, 1, "mean F2 over classes (favours recall)"),
    MetricInfo("mcc", "max", -1, 1, "Matthews correlation of truth and prediction"),
    MetricInfo("cohen_kappa", "max", -1, 1, "agreement beyond chance"),
    MetricInfo("qwk", "max", -1, 1, "agreement beyond chance, weighted by squared class distance"),
    MetricInfo("jaccard_macro", "max", 0, 1, "mean intersection over union over classes"),
    MetricInfo("hamming", "min", 0, 1, "share of rows predicted wrongly"),
    MetricInfo("log_loss", "min", 0, _INF, "mean negative log-likelihood of the truth, in nats"),
    MetricInfo("brier", "min", 0, 2, "mean squared error of the probabilities (binary: 0 to 1)"),
    MetricInfo("auc_roc", "max", 0, 1, "area under the ROC curve, one-vs-rest mean (binned)"),
    MetricInfo("auc_pr", "max", 0, 1, "average precision, one-vs-rest mean (binned)"),
    MetricInfo("gini", "max", -1, 1, "2 * auc_roc - 1 (binned)"),
    MetricInfo("top3_accuracy", "max", 0, 1, "share of rows with the truth among the best three"),
    MetricInfo("top5_accuracy", "max", 0, 1, "share of rows with the truth among the best five"),
)
_PER_CLASS = {
    "precision": "share of the rows predicted as {0} that are {0}",
    "recall": "share of the rows of {0} that were predicted as {0}",
    "f1": "F1 of {0} against the rest",
    "specificity": "share of the rows not of {0} that were not predicted as {0}",
    "npv": "share of the rows not predicted as {0} that are not {0}",
    "fbeta05": "F0.5 of {0} against the rest (favours precision)",
    "fbeta2": "F2 of {0} against the rest (favours recall)",
    "jaccard": "intersection over union of {0}",
}
_REGRESSION = (
    MetricInfo("mae", "min", 0, _INF, "mean absolute error, in target units"),
    MetricInfo("mse", "min", 0, _INF, "mean squared error, in squared target units"),
    MetricInfo("rmse", "min", 0, _INF, "root mean squared error, in target units"),
    MetricInfo("r2", "max", -_INF, 1, "share of the target's variance that is explained"),
    MetricInfo("explained_variance", "max", -_INF, 1, "as r2, but forgiving a constant bias"),
    MetricInfo("mbe", "zero", -_INF, _INF, "mean of prediction minus target, in target units"),
    MetricInfo("mape", "min", 0, _INF, "mean absolute error relative to the target (1 = 100 %)"),
    MetricInfo("smape", "min", 0, 200, "symmetric mean absolute percentage error, in per cent"),
    MetricInfo("rmsle", "min", 0, _INF, "root mean squared error of log(1 + value)"),
    MetricInfo("median_absolute_error", "min", 0, _INF, "median absolute error (binned)"),
    MetricInfo("max_error", "min", 0, _INF, "largest absolute error, rounded up to its bin"),
)
_DETECTION = (
    MetricInfo("map", "max", 0, 1, "mean average precision over IoU .5:.05:.95 (binned)"),
    MetricInfo("map50", "max", 0, 1, "mean average precision at IoU .5 (binned)"),
    MetricInfo("map75", "max", 0, 1, "mean average precision at IoU .75 (binned)"),
    MetricInfo("ar1", "max", 0, 1, "mean recall over IoU .5:.05:.95 with one detection an image"),
    MetricInfo("ar10", "max", 0, 1, "mean recall over IoU .5:.05:.95 with 10 detections an image"),
    MetricInfo("ar100", "max", 0, 1, "mean recall over IoU .5:.05:.95 with 100 detections"),
    MetricInfo("precision", "max", 0, 1, "share of the detections that are right, at IoU .5"),
    MetricInfo("recall", "max", 0, 1, "share of the objects that are found, at IoU .5"),
    MetricInfo("f1", "max", 0, 1, "F1 of detections against objects, at IoU .5"),
    MetricInfo("mean_iou", "max", 0, 1, "mean overlap over all objects; a missed one counts 0"),
    MetricInfo("mean_giou", "max", -1, 1, "mean generalised overlap; a missed object counts -1"),
)
_DETECTION_PER_CLASS = {
    "ap": "average precision of {0} over IoU .5:.05:.95 (binned)",
    "ap50": "average precision of {0} at IoU .5 (binned)",
    "precision": "share of the detections of {0} that are right, at IoU .5",
    "recall": "share of the objects of {0} that are found, at IoU .5",
    "f1": "F1 of detections of {0} against its objects, at IoU .5",
    "iou": "mean overlap over all objects of {0}; a missed one counts 0",
}

_SEGMENTATION = (
    MetricInfo("miou", "max", 0, 1, "mean over classes of intersection over union, in pixels"),
    MetricInfo("dice_macro", "max", 0, 1, "mean Dice coefficient over classes"),
    MetricInfo("pixel_accuracy", "max", 0, 1, "share of pixels predicted correctly"),
    MetricInfo("boundary_f1_macro", "max", 0, 1, "mean over classes of the F1 of boundary pixels"),
)
_SEGMENTATION_PER_CLASS = {
    "iou": "intersection over union of {0}, in pixels",
    "dice": "Dice coefficient of {0}",
    "boundary_f1": "F1 of the boundary pixels of {0}, within a tolerance",
}


def task_metrics(kind: str, classes: Sequence[str] = ()) -> TaskMetrics:
    """Return what a kind of task measures.

    Parameters
    ----------
    kind : {"classification", "regression", "detection", "segmentation"}
    classes : sequence of str
        Class names, for the per-class metrics; a regression has none.

    Raises
    ------
    ConfigError
        If ``kind`` does not exist, a class is named twice, or a class name makes two metrics share
        a name (a class called ``macro``).
    """
    if kind not in _KINDS:
        raise ConfigError(f"unknown kind '{kind}': use one of {', '.join(_KINDS)}")
    overall, per_class, shown = _KINDS[kind]
    infos = {info.name: info for info in overall}
    for stem, summary in per_class.items():
        for label in classes:
            name = f"{stem}_{label}"
            if name in infos:
                raise ConfigError(
                    f"class '{label}' makes metric '{name}' ambiguous: rename the class or list "
                    "it once"
                )
            infos[name] = MetricInfo(name, "max", 0, 1, summary.format(f"'{label}'"))
    return replace(shown, infos=tuple(infos.values()))


def metric_names(kind: str, classes: Sequence[str] = ()) -> list[str]:
    """Return every metric that a kind of task produces; see ``task_metrics``."""
    return [info.name for info in task_metrics(kind, classes).infos]


def metric_info(name: str, classes: Sequence[str] = ()) -> MetricInfo:
    """Return a shipped metric's direction, range and summary, whichever task produces it.

    Parameters
    ----------
    name : str
    classes : sequence of str
        Class names; per-class metrics such as ``recall_<class>`` are known only with them.

    Raises
    ------
    ConfigError
        If no task produces such a metric; the message names the nearest ones.
    """
    every = [info for kind in _KINDS for info in task_metrics(kind, classes).infos]
    try:
        return TaskMetrics(tuple(every)).info(name)
    except ConfigError as error:
        stems = {stem for _, per_class, _ in _KINDS.values() for stem in per_class}
        if not classes and name.partition("_")[0] in stems:
            raise ConfigError(f"{error} (per-class metrics need the use case's classes)") from None
        raise


_KINDS: dict[str, tuple[tuple[MetricInfo, ...], dict[str, str], TaskMetrics]] = {
    "segmentation": (
        _SEGMENTATION,
        _SEGMENTATION_PER_CLASS,
        TaskMetrics(
            headline=("miou", "dice_macro", "pixel_accuracy", "boundary_f1_macro"),
            per_class="iou",
        ),
    ),
    "detection": (
        _DETECTION,
        _DETECTION_PER_CLASS,
        TaskMetrics(
            headline=("map", "map50", "map75", "ar100", "f1", "mean_iou"),
            per_class="ap50",
            counts=("images", "boxes"),
        ),
    ),
    "regression": (
        _REGRESSION,
        {},
        TaskMetrics(headline=("mae", "rmse", "r2", "mbe", "median_absolute_error")),
    ),
    "classification": (
        _OVERALL,
        _PER_CLASS,
        TaskMetrics(
            headline=("accuracy", "balanced_accuracy", "f1_macro", "auc_roc", "log_loss"),
            per_class="f1",
        ),
    ),
}
"""Of each kind: its metrics, those of each class, and what a run's table shows."""
