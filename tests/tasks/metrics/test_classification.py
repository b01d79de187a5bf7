"""Pooled classification metrics equal scikit-learn on the concatenated rows."""

import itertools
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from fl_common.errors import ConfigError, DataError, DivergedError, ReplyError
from tasks.metrics import classification_stats, finalise_classification, metric_names
from tasks.metrics.histograms import num_score_bins
from tasks.stats import Stats

EXACT = 1e-9
BINNED = {"auc_roc", "auc_pr", "gini"}


def _names(num_classes):
    return [f"c{k}" for k in range(num_classes)]


def _reference_sklearn(truth, scores):
    """Every metric that scikit-learn defines here; ours that are absent are checked elsewhere."""
    c = scores.shape[1]
    labels, predicted = list(range(c)), scores.argmax(axis=1)
    out = {
        "accuracy": sk.accuracy_score(truth, predicted),
        "balanced_accuracy": sk.balanced_accuracy_score(truth, predicted),
        "mcc": sk.matthews_corrcoef(truth, predicted),
        "cohen_kappa": sk.cohen_kappa_score(truth, predicted, labels=labels),
        "qwk": sk.cohen_kappa_score(truth, predicted, labels=labels, weights="quadratic"),
        "hamming": sk.hamming_loss(truth, predicted),
        "log_loss": sk.log_loss(truth, scores, labels=labels),
        "brier": sk.brier_score_loss(truth, scores, labels=labels),
        "jaccard_macro": sk.jaccard_score(truth, predicted, average="macro"),
    }
    for k in (3, 5):
        if c > k:
            out[f"top{k}_accuracy"] = sk.top_k_accuracy_score(truth, scores, k=k, labels=labels)
    for average in ("macro", "micro", "weighted"):
        out[f"precision_{average}"] = sk.precision_score(truth, predicted, average=average)
        out[f"recall_{average}"] = sk.recall_score(truth, predicted, average=average)
        out[f"f1_{average}"] = sk.f1_score(truth, predicted, average=average)
    for name, beta in (("fbeta05", 0.5), ("fbeta2", 2.0)):
        out[f"{name}_macro"] = sk.fbeta_score(truth, predicted, beta=beta, average="macro")
    return (
        out
        | _reference_sklearn_per_class(truth, predicted, c)
        | _reference_macros(truth, predicted)
    )


def _reference_sklearn_per_class(truth, predicted, c):
    out = {}
    for k, name in enumerate(_names(c)):
        own, chosen = truth == k, predicted == k
        out[f"precision_{name}"] = sk.precision_score(own, chosen)
        out[f"recall_{name}"] = sk.recall_score(own, chosen)
        out[f"f1_{name}"] = sk.f1_score(own, chosen)
        out[f"fbeta05_{name}"] = sk.fbeta_score(own, chosen, beta=0.5)
        out[f"fbeta2_{name}"] = sk.fbeta_score(own, chosen, beta=2)
        out[f"jaccard_{name}"] = sk.jaccard_score(own, chosen)
        out[f"specificity_{name}"] = sk.recall_score(own, chosen, pos_label=0)
        out[f"npv_{name}"] = sk.precision_score(own, chosen, pos_label=0)
    return out


def _reference_macros(truth, predicted):
    occurring = np.union1d(truth, predicted)
    pairs = [(truth == k, predicted == k) for k in occurring]
    return {
        "specificity_macro": np.mean([sk.recall_score(a, b, pos_label=0) for a, b in pairs]),
        "npv_macro": np.mean([sk.precision_score(a, b, pos_label=0) for a, b in pairs]),
    }


def _reference_sklearn_curves(truth, scores):
    if scores.shape[1] == 2:
        positive = scores[:, 1]
        return {
            "auc_roc": sk.roc_auc_score(truth, positive),
            "gini": 2 * sk.roc_auc_score(truth, positive) - 1,
            "auc_pr": sk.average_precision_score(truth, positive),
        }
    area = sk.roc_auc_score(truth, scores, multi_class="ovr", average="macro")
    return {
        "auc_roc": area,
        "gini": 2 * area - 1,
        "auc_pr": sk.average_precision_score(truth, scores, average="macro"),
    }


def _draw(seed, num_rows, num_classes, style):
    """Random truth and probabilities: dirichlet, saturated, rounded (ties) or informative."""
    rng = np.random.default_rng(seed)
    truth = rng.choice(num_classes, size=num_rows, p=rng.dirichlet(np.ones(num_classes)))
    logits = rng.normal(size=(num_rows, num_classes))
    logits[np.arange(num_rows), truth] += rng.uniform(0, 3)
    if style == "saturated":
        logits *= 60
    scores = np.exp(logits - logits.max(axis=1, keepdims=True))
    if style == "rounded":
        scores = np.ceil(scores * 4)
    if style == "certain":
        scores = (logits == logits.max(axis=1, keepdims=True)).astype(float)
    return truth, scores / scores.sum(axis=1, keepdims=True)


def _split(seed, truth, scores, num_sites):
    """Deal rows to sites unevenly: some have none, some one class only."""
    rng = np.random.default_rng(seed)
    owner = rng.choice(num_sites, size=len(truth), p=rng.dirichlet(np.full(num_sites, 0.4)))
    if len(truth):
        owner[truth == truth[0]] = 0
    return [classification_stats(truth[owner == s], scores[owner == s]) for s in range(num_sites)]


@settings(max_examples=120, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    num_rows=st.integers(1, 120),
    num_classes=st.integers(2, 6),
    num_sites=st.sampled_from([2, 4, 7]),
    style=st.sampled_from(["soft", "saturated", "rounded", "certain"]),
)
def test_pooled_metrics_equal_sklearn_on_concatenated_rows(
    seed, num_rows, num_classes, num_sites, style
):
    truth, scores = _draw(seed, num_rows, num_classes, style)
    pooled = Stats.total(_split(seed, truth, scores, num_sites))
    result = finalise_classification(pooled, _names(num_classes))

    assert result.values.keys() | result.absent.keys() == set(
        metric_names("classification", _names(num_classes))
    )
    assert not result.values.keys() & result.absent.keys()
    assert (
        result.arrays["confusion_matrix"]
        == sk.confusion_matrix(
            truth, scores.argmax(axis=1), labels=list(range(num_classes))
        ).tolist()
    )
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        expected = _reference_sklearn(truth, scores)
    for name in result.values.keys() - BINNED:
        assert result.values[name] == pytest.approx(expected[name], abs=EXACT), name
    if len(np.unique(truth)) == num_classes:
        for name, exact in _reference_sklearn_curves(truth, scores).items():
            assert abs(result.values[name] - exact) <= result.bounds[name] + 1e-12, name
    else:
        assert "auc_roc" in result.absent


@pytest.mark.parametrize(("num_classes", "limit"), [(2, 0.003), (4, 0.006), (10, 0.03)])
def test_bounds_are_small_and_errors_smaller_on_realistic_scores(num_classes, limit):
    truth, scores = _draw(3, 4000, num_classes, "soft")
    result = finalise_classification(classification_stats(truth, scores), _names(num_classes))
    for name, exact in _reference_sklearn_curves(truth, scores).items():
        scale = 2 if name == "gini" else 1
        assert abs(result.values[name] - exact) <= result.bounds[name] <= scale * limit, name
        assert abs(result.values[name] - exact) < 1e-3, name


def test_auc_is_exact_when_scores_are_zero_and_one():
    truth, scores = _draw(5, 300, 2, "certain")
    result = finalise_classification(classification_stats(truth, scores), _names(2))
    assert result.bounds == {"auc_roc": 0.0, "gini": 0.0, "auc_pr": 0.0}
    for name, exact in _reference_sklearn_curves(truth, scores).items():
        assert result.values[name] == pytest.approx(exact, abs=EXACT)


def test_merge_is_associative_has_a_zero_and_ignores_order():
    truth, scores = _draw(1, 90, 4, "soft")
    parts = _split(1, truth, scores, 4)
    empty = classification_stats(truth[:0], scores[:0])
    whole = classification_stats(truth, scores)
    left = parts[0].merge(parts[1]).merge(parts[2]).merge(parts[3])
    right = parts[0].merge(parts[1].merge(parts[2].merge(parts[3])))
    for other in (left, right, Stats().merge(left), empty.merge(left), left.merge(empty)):
        for name in whole:
            np.testing.assert_allclose(other[name], whole[name], rtol=1e-13)
    for order in itertools.permutations(parts):
        merged = Stats.total(order)
        for name in ("confusion", "true_rank", "score_histogram"):
            np.testing.assert_array_equal(merged[name], whole[name])
    assert all(empty[n].shape == whole[n].shape and not empty[n].any() for n in whole)


def test_chunks_equal_one_pass(monkeypatch):
    truth, scores = _draw(8, 500, 3, "soft")
    whole = classification_stats(truth, scores)
    monkeypatch.setattr("tasks.metrics.classification.CELLS_PER_CHUNK", 100)
    for name, array in classification_stats(truth, scores).items():
        np.testing.assert_allclose(array, whole[name], rtol=1e-13)


ONE_HOT = np.eye(3)
UNDEFINED = {
    "one class in truth": (
        [0, 0], ONE_HOT[[0, 1]],
        {"auc_roc", "auc_pr", "gini", "mcc", "recall_b", "recall_c", "specificity_a",
         "specificity_macro", "precision_c", "f1_c"},
    ),
    "one class predicted": (
        [0, 1, 2], ONE_HOT[[0, 0, 0]], {"mcc", "precision_b", "precision_c", "npv_a"},
    ),
    "one class in both": (
        [1, 1], ONE_HOT[[1, 1]],
        {"mcc", "cohen_kappa", "qwk", "npv_b", "npv_macro", "specificity_macro", "auc_roc"},
    ),
    "class unseen": ([0, 1], ONE_HOT[[0, 1]], {"jaccard_c", "fbeta05_c", "fbeta2_c", "auc_pr"}),
    "three classes": ([0, 1, 2], ONE_HOT, {"top3_accuracy", "top5_accuracy"}),
}  # fmt: skip


@pytest.mark.parametrize("case", UNDEFINED)
def test_undefined_metric_is_absent_with_a_reason(case):
    truth, scores, absent = UNDEFINED[case]
    result = finalise_classification(classification_stats(np.array(truth), scores), "abc")
    assert absent <= result.absent.keys()
    assert all(result.absent.values())
    assert not result.bounds.keys() - result.values.keys()
    assert np.isfinite(list(result.values.values())).all()


@pytest.mark.parametrize("stats", [Stats(), classification_stats(np.zeros(0), np.zeros((0, 3)))])
def test_everything_is_absent_without_rows(stats):
    result = finalise_classification(stats, "abc")
    assert not result.values
    assert result.absent.keys() == set(metric_names("classification", "abc"))


def test_binary_average_precision_needs_positives_only():
    scores = np.array([[0.2, 0.8], [0.6, 0.4]])
    assert finalise_classification(classification_stats([1, 1], scores), "ab").values[
        "auc_pr"
    ] == pytest.approx(1.0)
    assert "auc_pr" in finalise_classification(classification_stats([0, 0], scores), "ab").absent


def test_saturated_wrong_probabilities_give_sklearns_clipped_log_loss():
    truth, scores = np.array([0, 1]), np.array([[0.0, 1.0], [0.0, 1.0]])
    result = finalise_classification(classification_stats(truth, scores), "ab")
    assert result.values["log_loss"] == pytest.approx(sk.log_loss(truth, scores), rel=1e-12)
    assert result.values["brier"] == sk.brier_score_loss(truth, scores[:, 1])


@pytest.mark.parametrize(
    ("truth", "scores", "error"),
    [
        ([0], [[np.nan, 1.0]], DivergedError),
        ([0], [[np.inf, 0.0]], DivergedError),
        ([0], [[0.4, 0.4]], ConfigError),
        ([0], [[-0.5, 1.5]], ConfigError),
        ([0], [[1.0]], ConfigError),
        ([2], [[0.5, 0.5]], DataError),
        ([-1], [[0.5, 0.5]], DataError),
        ([0.5], [[0.5, 0.5]], DataError),
        ([0, 1], [[0.5, 0.5]], DataError),
    ],
)
def test_invalid_input_is_refused(truth, scores, error):
    with pytest.raises(error):
        classification_stats(np.array(truth), np.array(scores))


def test_summand_of_other_class_count_is_refused():
    stats = classification_stats(np.array([0]), np.array([[0.5, 0.5]]))
    with pytest.raises(ReplyError, match="confusion"):
        finalise_classification(stats, "abc")


def test_float32_probabilities_are_accepted_up_to_rounding():
    scores = np.array([[1.0000001, 0.0], [0.3, 0.7]], dtype=np.float32)
    result = finalise_classification(classification_stats(np.array([0, 1]), scores), "ab")
    assert result.values["auc_roc"] == 1.0


@pytest.mark.parametrize("num_classes", [2, 3, 10, 100])
def test_reply_stays_small_on_the_wire(num_classes):
    stats = classification_stats(np.zeros(0), np.zeros((0, num_classes)))
    num_bytes = sum(array.nbytes for array in stats.values())
    assert num_bytes < (60_000 if num_classes <= 10 else 200_000)
    assert stats["score_histogram"].shape[-1] == num_score_bins(num_classes)
