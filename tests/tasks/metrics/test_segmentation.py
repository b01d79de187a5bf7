"""Pooled segmentation metrics against scikit-learn and a slow boundary F1."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score, jaccard_score

from fl_common.errors import DataError, ReplyError
from tasks.metrics import (
    blank_segmentation,
    finalise_segmentation,
    metric_names,
    segmentation_stats,
    task_metrics,
)
from tasks.stats import Stats

CLASSES = ["a", "b", "c"]


def _blobs(rng, size=(23, 31)):
    coarse = rng.integers(0, 3, (size[0] // 4 + 1, size[1] // 4 + 1))
    return np.kron(coarse, np.ones((4, 4), int))[: size[0], : size[1]].astype(np.uint8)


@pytest.fixture
def pictures():
    rng = np.random.default_rng(0)
    found = []
    for _ in range(6):
        truth = _blobs(rng)
        predicted = np.where(rng.random(truth.shape) < 0.1, _blobs(rng), np.roll(truth, 1, 1))
        found.append(
            (np.where(rng.random(truth.shape) < 0.05, 255, truth).astype(np.uint8), predicted)
        )
    return found


def test_pooled_metrics_equal_scikit_learn_on_the_pooled_pixels(pictures):
    stats = [segmentation_stats(t, p, 3, 2) for t, p in pictures]
    scores = finalise_segmentation(Stats.total(stats), CLASSES)
    truth = np.concatenate([t.ravel() for t, _ in pictures])
    found = np.concatenate([p.ravel() for _, p in pictures])[truth != 255]
    truth = truth[truth != 255]
    assert scores.values["pixel_accuracy"] == accuracy_score(truth, found)
    for stem, reference in (("iou", jaccard_score), ("dice", f1_score)):
        own = [scores.values[f"{stem}_{c}"] for c in CLASSES]
        np.testing.assert_allclose(own, reference(truth, found, average=None))
    assert scores.values["miou"] == pytest.approx(jaccard_score(truth, found, average="macro"))
    assert scores.values["dice_macro"] == pytest.approx(f1_score(truth, found, average="macro"))
    assert scores.values.keys() == set(metric_names("segmentation", CLASSES))
    assert Stats.total(stats[::-1])["boundary"].tolist() == Stats.total(stats)["boundary"].tolist()


def _reference_slow_boundary(truth, predicted, label, tolerance):
    """Count boundary pixels one by one."""
    known = truth != 255

    def edge(mask):
        points = []
        for y, x in np.argwhere(mask & known):
            around = ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1))
            inside = [
                (i, j) for i, j in around if 0 <= i < mask.shape[0] and 0 <= j < mask.shape[1]
            ]
            if any(known[i, j] and not mask[i, j] for i, j in inside):
                points.append((y, x))
        return np.array(points).reshape(-1, 2)

    ours, theirs = edge(predicted == label), edge(truth == label)
    if not len(ours) or not len(theirs):
        return [len(ours), 0, len(theirs), 0]
    distance = ((ours[:, None] - theirs[None]) ** 2).sum(axis=2)
    near = distance <= tolerance**2
    return [len(ours), near.any(axis=1).sum(), len(theirs), near.any(axis=0).sum()]


@pytest.mark.parametrize("tolerance", [0, 1, 2, 5])
def test_boundary_counts_equal_a_count_one_by_one(pictures, tolerance):
    for truth, predicted in pictures[:3]:
        counts = segmentation_stats(truth, predicted, 3, tolerance)["boundary"]
        for label in range(3):
            expected = _reference_slow_boundary(truth, predicted, label, tolerance)
            assert counts[label].tolist() == expected


def test_undefined_metrics_are_absent_with_a_reason():
    truth = np.zeros((6, 6), np.uint8)
    scores = finalise_segmentation(segmentation_stats(truth, truth, 3, 2), CLASSES)
    assert scores.values["iou_a"] == scores.values["miou"] == 1.0
    assert "neither truth nor predictions" in scores.absent["iou_b"]
    assert "no boundary" in scores.absent["boundary_f1_a"]
    assert "boundary" in scores.absent["boundary_f1_macro"]
    for nothing in (Stats(), blank_segmentation(3)):
        none = finalise_segmentation(nothing, CLASSES)
        assert not none.values
        assert none.absent.keys() == set(metric_names("segmentation", CLASSES))


def test_a_missed_object_has_a_boundary_score_of_nought():
    truth = np.zeros((8, 8), np.uint8)
    truth[2:5, 2:5] = 1
    scores = finalise_segmentation(
        segmentation_stats(truth, np.zeros_like(truth), 2, 1), ["a", "b"]
    )
    assert scores.values["boundary_f1_b"] == scores.values["iou_b"] == 0.0


def test_wrong_masks_and_summands_are_refused():
    mask = np.zeros((4, 4), np.uint8)
    with pytest.raises(DataError, match="its prediction"):
        segmentation_stats(mask, mask[:2], 2, 1)
    with pytest.raises(DataError, match="outside"):
        segmentation_stats(mask + np.uint8(2), mask, 2, 1)
    with pytest.raises(ReplyError, match="confusion"):
        finalise_segmentation(segmentation_stats(mask, mask, 2, 1), CLASSES)


def test_every_metric_has_a_direction():
    for name in metric_names("segmentation", CLASSES):
        info = task_metrics("segmentation", CLASSES).info(name)
        assert (info.direction, info.lower, info.upper) == ("max", 0, 1)
        assert info.summary
