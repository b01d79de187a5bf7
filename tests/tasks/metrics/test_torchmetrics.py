"""Our states equal torchmetrics' own; any other summable metric can be added."""

import numpy as np
import pytest
import torch
import torchmetrics.classification as tmc
import torchmetrics.regression as tmr

from fl_common.errors import ConfigError, DataError, ReplyError
from tasks.metrics import classification_stats, regression_stats
from tasks.metrics.extra import TorchmetricStats, extra_stats, finalise_extra
from tasks.metrics.histograms import score_edges
from tasks.metrics.regression import SUMS
from tasks.stats import Stats

CLASSIFICATION = "torchmetrics.classification."


def _draw(num_classes, num_rows=200):
    rng = np.random.default_rng(num_classes)
    scores = rng.dirichlet(np.full(num_classes, 0.3), num_rows)
    scores[:5] = np.eye(num_classes)[0]
    return rng.integers(0, num_classes, num_rows), scores


def test_confusion_equals_torchmetrics_state():
    truth, scores = _draw(4)
    metric = tmc.MulticlassConfusionMatrix(4)
    metric.update(torch.from_numpy(scores), torch.from_numpy(truth))
    stats = classification_stats(truth, scores)
    np.testing.assert_array_equal(stats["confusion"], metric.confmat.numpy())


@pytest.mark.parametrize("num_classes", [2, 5])
def test_histograms_accumulate_to_torchmetrics_threshold_state(num_classes):
    truth, scores = _draw(num_classes)
    thresholds = torch.from_numpy(score_edges(num_classes).copy())
    metric = (
        tmc.BinaryPrecisionRecallCurve(thresholds=thresholds)
        if num_classes == 2
        else tmc.MulticlassPrecisionRecallCurve(num_classes, thresholds=thresholds)
    )
    preds = scores[:, 1] if num_classes == 2 else scores
    metric.update(torch.from_numpy(preds), torch.from_numpy(truth))
    histogram = classification_stats(truth, scores)["score_histogram"]
    at_or_above = histogram[..., ::-1].cumsum(axis=-1)[..., ::-1][..., 1:]  # (c, 2, thresholds)
    theirs = np.moveaxis(metric.confmat.numpy()[..., 1], 0, -1)  # [t, c, truth, predicted 1]
    np.testing.assert_array_equal(at_or_above, theirs)


def test_regression_sums_equal_torchmetrics_states():
    rng = np.random.default_rng(0)
    truth, values = rng.normal(size=(2, 50))
    sums = dict(zip(SUMS, regression_stats(truth, values, scale=1.0)["sums"], strict=True))
    r2 = tmr.R2Score().set_dtype(torch.float64)
    r2.update(torch.from_numpy(values), torch.from_numpy(truth))
    assert sums["target"] == pytest.approx(float(r2.sum_error), rel=1e-9)
    assert sums["target_squared"] == pytest.approx(float(r2.sum_squared_error), rel=1e-9)
    assert sums["error_squared"] == pytest.approx(float(r2.residual), rel=1e-9)


@pytest.mark.parametrize(
    ("name", "kwargs"),
    [
        ("MulticlassHingeLoss", {"num_classes": 3}),
        ("MulticlassAUROC", {"num_classes": 3, "thresholds": 50}),
        ("MulticlassF1Score", {"num_classes": 3, "average": "macro"}),
        ("MulticlassConfusionMatrix", {"num_classes": 3}),
    ],
)
def test_extra_metric_from_merged_states_equals_its_value_on_all_rows(name, kwargs):
    truth, scores = _draw(3)
    spec = TorchmetricStats("extra", CLASSIFICATION + name, kwargs)
    sites = [slice(0, 0), slice(0, 7), slice(7, 120), slice(120, None)]
    pooled = Stats.total(extra_stats(spec, truth[s], scores[s]) for s in sites)
    metric = getattr(tmc, name)(**kwargs).set_dtype(torch.float64)
    metric.update(torch.from_numpy(scores), torch.from_numpy(truth))
    result = finalise_extra(spec, pooled)
    got = result.values.get("extra", result.arrays.get("extra"))
    np.testing.assert_allclose(got, metric.compute().numpy(), rtol=1e-6)


def test_extra_binary_and_regression_metrics():
    truth, scores = _draw(2)
    spec = TorchmetricStats("hinge", CLASSIFICATION + "BinaryHingeLoss")
    assert finalise_extra(spec, extra_stats(spec, truth, scores)).values["hinge"] > 0
    spec = TorchmetricStats("msle", "torchmetrics.regression.MeanSquaredLogError")
    stats = extra_stats(spec, np.array([1.0, 2.0]), np.array([1.0, 2.0]))
    assert finalise_extra(spec, stats).values == {"msle": 0.0}
    assert finalise_extra(spec, Stats()).absent.keys() == {"msle"}


@pytest.mark.parametrize(
    ("target", "kwargs", "message"),
    [
        (CLASSIFICATION + "MulticlassCalibrationError", {"num_classes": 3}, "not a plain sum"),
        (CLASSIFICATION + "MulticlassAUROC", {"num_classes": 3}, "not a plain sum"),
        ("torchmetrics.regression.PearsonCorrCoef", {}, "not a plain sum"),
        ("torchmetrics.regression.SpearmanCorrCoef", {}, "not a plain sum"),
        (CLASSIFICATION + "MultilabelAccuracy", {"num_labels": 3}, "multi-label"),
        (CLASSIFICATION + "MulticlassAccuracy", {"nope": 3}, "MulticlassAccuracy"),
        (CLASSIFICATION + "Nope", {}, "no metric"),
        ("os.path.join", {}, "is not in"),
        (CLASSIFICATION + "BinaryAUROC", {"thresholds": object()}, "plain values"),
    ],
)
def test_extra_metric_that_is_not_a_sum_is_refused(target, kwargs, message):
    with pytest.raises(ConfigError, match=message):
        TorchmetricStats("extra", target, kwargs)


def test_extra_rows_or_states_that_do_not_fit_are_refused():
    spec = TorchmetricStats("f1", CLASSIFICATION + "MulticlassF1Score", {"num_classes": 3})
    with pytest.raises(DataError, match="f1"):
        extra_stats(spec, np.array([7]), np.array([[0.2, 0.3, 0.5]]))
    with pytest.raises(ReplyError, match="extra/f1/"):
        finalise_extra(spec, Stats({"extra/f1/rows": np.array(1)}))
    with pytest.raises(ConfigError, match="non-empty"):
        TorchmetricStats("a/b", CLASSIFICATION + "BinaryF1Score")
