"""Pooled detection metrics against pycocotools, torchvision and counts by hand."""

from __future__ import annotations

import contextlib
import io
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fl_common.errors import ConfigError, DataError, DivergedError, ReplyError
from tasks.datasets.folder import data_root
from tasks.metrics import (
    Detections,
    detection_stats,
    finalise_detection,
    metric_info,
    metric_names,
    task_metrics,
)
from tasks.metrics.average_precision import (
    detection_edges,
    interpolated_precision,
    num_detection_bins,
)
from tasks.metrics.box_matching import greedy_match, matched_overlap, pairwise_iou
from tasks.stats import Stats

coco_module = pytest.importorskip("pycocotools.coco", reason="pycocotools is not installed")
cocoeval_module = pytest.importorskip("pycocotools.cocoeval")

CELLS = ("RBC", "WBC", "Platelets")
COCO_KEYS = {"map": 0, "map50": 1, "map75": 2, "ar1": 6, "ar10": 7, "ar100": 8}
EXACT = ("ar1", "ar10", "ar100")
AIM = 1e-3
ROUNDING = 1e-12


@dataclass
class Truth:
    boxes: Any
    labels: Any


def _truth(*rows):
    array = np.array(rows, dtype=np.float32).reshape(-1, 5)
    return Truth(array[:, :4], array[:, 4].astype(np.int64))


def _found(*rows):
    array = np.array(rows, dtype=np.float64).reshape(-1, 6)
    return Detections(array[:, :4], array[:, 4], array[:, 5].astype(np.int64))


def _reference_pycocotools(truths, founds, num_classes):
    annotations, results = [], []
    for image, (truth, found) in enumerate(zip(truths, founds, strict=True), 1):
        for box, label in zip(np.asarray(truth.boxes, float), truth.labels, strict=True):
            size = box[2:] - box[:2]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image,
                    "category_id": int(label) + 1,
                    "bbox": [*box[:2].tolist(), *size.tolist()],
                    "area": float(size.prod()),
                    "iscrowd": 0,
                }
            )
        rows = zip(np.asarray(found.boxes, float), found.scores, found.labels, strict=True)
        for box, score, label in rows:
            bbox = [*box[:2].tolist(), *(box[2:] - box[:2]).tolist()]
            category = int(label) + 1
            results.append(
                {"image_id": image, "category_id": category, "bbox": bbox, "score": float(score)}
            )
    with contextlib.redirect_stdout(io.StringIO()):
        coco = coco_module.COCO()
        coco.dataset = {
            "info": {},
            "images": [{"id": i + 1, "width": 1000, "height": 1000} for i in range(len(truths))],
            "categories": [{"id": c + 1, "name": str(c)} for c in range(num_classes)],
            "annotations": annotations,
        }
        coco.createIndex()
        detected = coco.loadRes(results) if results else coco_module.COCO()
        evaluation = cocoeval_module.COCOeval(coco, detected, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    scores = {key: float(evaluation.stats[place]) for key, place in COCO_KEYS.items()}
    precision = evaluation.eval["precision"]  # thresholds, recalls, classes, areas, limits
    for label in range(num_classes):
        scores[f"ap_{label}"] = float(precision[:, :, label, 0, -1].mean())
        scores[f"ap50_{label}"] = float(precision[0, :, label, 0, -1].mean())
    return scores


def _bccd_boxes():
    try:
        folder = data_root() / "bccd" / "BCCD" / "Annotations"
    except DataError as absent:
        pytest.skip(f"BCCD is not here: {absent}")
    if not folder.is_dir():
        pytest.skip(f"BCCD is not here: {folder}")
    pattern = re.compile(
        r"<name>(\w+)</name>.*?<xmin>(\d+)</xmin>\s*<ymin>(\d+)</ymin>\s*"
        r"<xmax>(\d+)</xmax>\s*<ymax>(\d+)</ymax>",
        re.DOTALL,
    )
    truths = []
    for path in sorted(Path(folder).glob("*.xml")):
        rows = [(*map(int, m[1:]), CELLS.index(m[0])) for m in pattern.findall(path.read_text())]
        truths.append(_truth(*(r for r in rows if r[2] > r[0] and r[3] > r[1])))
    return truths


def _imagined(truth, rng, noise, false_mean, sharpness=1.0):
    """Return detections that a model of some skill might make: jittered, missed, invented."""
    count = len(truth.labels)
    sides = np.tile(truth.boxes[:, 2:] - truth.boxes[:, :2], 2).astype(float)
    error = rng.exponential(noise, (count, 1))
    boxes = truth.boxes + rng.normal(size=(count, 4)) * sides * error
    logits = sharpness * (1.2 - 8 * error[:, 0]) + rng.normal(size=count) * 1.2
    labels = np.where(rng.random(count) < 0.05, rng.integers(0, 3, count), truth.labels)
    kept = rng.random(count) < 0.93
    number = rng.poisson(false_mean)
    corner, side = rng.uniform(0, 500, (number, 2)), rng.uniform(20, 120, (number, 2))
    boxes = np.concatenate([boxes[kept], np.concatenate([corner, corner + side], axis=1)])
    boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 1)
    logits = np.concatenate([logits[kept], rng.normal(-2.5, 1.5, number)])
    labels = np.concatenate([labels[kept], rng.integers(0, 3, number)])
    scores = (1 / (1 + np.exp(-logits))).astype(np.float32)
    return Detections(boxes.astype(np.float32), scores, labels)


def _pooled(truths, founds, num_sites, num_classes):
    sites = [
        detection_stats(truths[i::num_sites], founds[i::num_sites], num_classes)
        for i in range(num_sites)
    ]
    return Stats.total(sites)


def _assert_within_bounds(scores, reference, classes):
    renamed = {
        name.replace(f"_{index}", f"_{label}") if name.endswith(f"_{index}") else name: value
        for index, label in enumerate(classes)
        for name, value in reference.items()
        if name.endswith(f"_{index}") or index == 0
    }
    for name, value in renamed.items():
        if value < 0 or name.partition("_")[2].isdigit():  # pycocotools: -1 is undefined
            continue
        slack = ROUNDING if name in EXACT else scores.bounds[name] + ROUNDING
        assert abs(scores.values[name] - value) <= slack, (name, scores.values[name], value)


@pytest.mark.parametrize("num_sites", [2, 4, 7])
@pytest.mark.parametrize(
    ("noise", "false_mean", "sharpness"),
    [(0.05, 3, 1), (0.05, 8, 3), (0.1, 3, 1), (0.03, 2, 6), (0.15, 20, 1), (0.05, 100, 1)],
)
def test_pooled_scores_equal_pycocotools_on_real_boxes(num_sites, noise, false_mean, sharpness):
    rng = np.random.default_rng(3)
    truths = _bccd_boxes()
    founds = [_imagined(truth, rng, noise, false_mean, sharpness) for truth in truths]
    scores = finalise_detection(_pooled(truths, founds, num_sites, 3), CELLS)
    reference = _reference_pycocotools(truths, founds, 3)
    _assert_within_bounds(scores, reference, CELLS)
    for name in ("map", "map50", "map75"):
        assert abs(scores.values[name] - reference[name]) < AIM
        assert scores.bounds[name] < 2 * AIM


@st.composite
def _random_sets(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    num_classes = draw(st.integers(1, 4))
    grid = draw(st.sampled_from([4, 10, 1000]))  # small grids make equal overlaps
    levels = draw(st.sampled_from([3, 20, 10**6]))  # few levels make equal scores
    truths, founds = [], []
    for _ in range(draw(st.integers(1, 9))):
        truth, found = rng.integers(0, 8), rng.integers(0, 140 if levels == 3 else 25)

        def boxes(count):
            corner = rng.integers(0, grid, (count, 2))
            return np.concatenate([corner, corner + rng.integers(1, grid, (count, 2))], axis=1)

        truths.append(Truth(boxes(truth).astype(np.float32), rng.integers(0, num_classes, truth)))
        scores = rng.integers(0, levels + 1, found) / levels
        founds.append(Detections(boxes(found), scores, rng.integers(0, num_classes, found)))
    return truths, founds, num_classes, draw(st.integers(1, 4))


@settings(max_examples=120, deadline=None)
@given(_random_sets())
def test_pooled_scores_equal_pycocotools_on_random_boxes(case):
    truths, founds, num_classes, num_sites = case
    if not any(len(found.labels) for found in founds):
        return
    classes = [f"c{index}" for index in range(num_classes)]
    scores = finalise_detection(_pooled(truths, founds, num_sites, num_classes), classes)
    reference = _reference_pycocotools(truths, founds, num_classes)
    if reference["map"] < 0:
        assert "no ground-truth box" in scores.absent["map"]
        return
    _assert_within_bounds(scores, reference, classes)


def test_average_precision_is_exact_when_every_detection_has_its_own_bin():
    edges = detection_edges(1)
    rng = np.random.default_rng(0)
    cells = rng.permutation(np.arange(600, 1400))[:60]
    scores = (edges[cells] + edges[cells + 1]) / 2
    truths = [_truth(*((100 * i, 0, 100 * i + 50, 50, 0) for i in range(40)))]
    rows = [(100 * i, 0, 100 * i + 50 - i % 7, 50) for i in range(60)]
    found = Detections(np.array(rows), scores, np.zeros(60, np.int64))
    pooled = finalise_detection(detection_stats(truths, [found], 1), ["a"])
    reference = _reference_pycocotools(truths, [found], 1)
    assert pooled.bounds["map"] < ROUNDING
    assert pooled.values["map"] == pytest.approx(reference["map"], abs=1e-12)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 40), st.integers(2, 12))
def test_bounds_hold_for_every_order_within_the_bins(seed, num_truth, bins):
    rng = np.random.default_rng(seed)
    hits = rng.multinomial(rng.integers(0, num_truth + 1), np.ones(bins) / bins)[None]
    misses = rng.integers(0, 6, (1, bins))
    value, lower, upper = (part[0] for part in interpolated_precision(hits, misses, num_truth))
    assert lower - ROUNDING <= value <= upper + ROUNDING
    for _ in range(20):
        flags = np.concatenate(
            [rng.permutation([1] * hits[0, b] + [0] * misses[0, b]) for b in reversed(range(bins))]
        )
        exact = _brute_average_precision(flags, num_truth)
        assert lower - ROUNDING <= exact <= upper + ROUNDING


def _brute_average_precision(flags, num_truth):
    found = np.cumsum(flags)
    precision = found / np.arange(1, len(flags) + 1)
    total = 0.0
    for recall in np.linspace(0, 1, 101):
        reached = precision[found / num_truth >= recall]
        total += reached.max(initial=0.0)
    return total / 101


def test_stats_add_up_in_any_grouping():
    rng = np.random.default_rng(5)
    truths = [_truth((10, 10, 60, 60, 0), (80, 80, 140, 120, 2)) for _ in range(12)]
    founds = [_imagined(truth, rng, 0.1, 4) for truth in truths]
    whole = detection_stats(truths, founds, 3)
    parts = [detection_stats([t], [f], 3) for t, f in zip(truths, founds, strict=True)]
    for pooled in (Stats.total(parts), Stats.total(parts[::-1]), Stats().merge(whole)):
        for name, array in whole.items():
            if name == "overlap_sums":
                np.testing.assert_allclose(pooled[name], array, rtol=1e-12)
            else:
                np.testing.assert_array_equal(pooled[name], array)


@pytest.mark.parametrize(
    ("num_classes", "bins", "megabytes"), [(3, 2048, 0.6), (10, 2048, 1.9), (80, 512, 3.7)]
)
def test_reply_has_the_documented_size(num_classes, bins, megabytes):
    stats = detection_stats([], [], num_classes)
    assert num_detection_bins(num_classes) == bins
    assert sum(array.nbytes for array in stats.values()) < megabytes * 1e6


def test_images_without_boxes_and_without_predictions_count():
    truths = [_truth((0, 0, 10, 10, 0)), _truth(), _truth((0, 0, 10, 10, 0)), _truth()]
    hit, miss = (0, 0, 10, 10, 0.9, 0), (50, 50, 60, 60, 0.8, 0)
    scores = finalise_detection(
        detection_stats(truths, [_found(hit), _found(miss), _found(), _found()], 1), ["car"]
    )
    assert scores.values["precision"] == 0.5
    assert scores.values["recall"] == 0.5
    assert scores.values["f1"] == 0.5
    assert scores.values["mean_iou"] == 0.5
    assert scores.values["mean_giou"] == 0.0  # one perfect, one missed
    assert scores.arrays["images"] == {"total": 4, "without_boxes": 2, "without_detections": 2}
    assert scores.arrays["boxes"] == {"car": 2}


def test_mean_overlap_counts_misses_and_the_threshold():
    truths = [_truth((0, 0, 10, 10, 0), (20, 20, 30, 30, 1))]
    founds = [_found((0, 0, 10, 8, 0.9, 0), (20, 20, 30, 30, 0.2, 1))]
    low = finalise_detection(detection_stats(truths, founds, 2, score_threshold=0.1), ["a", "b"])
    high = finalise_detection(detection_stats(truths, founds, 2), ["a", "b"])
    assert low.values["mean_iou"] == pytest.approx(0.9)
    assert high.values["mean_iou"] == pytest.approx(0.4)
    assert high.values["iou_a"] == pytest.approx(0.8)
    assert high.values["iou_b"] == 0.0
    assert "no detection of class 'b'" in high.absent["precision_b"]
    assert high.values["recall_b"] == 0.0
    assert low.values["map"] == high.values["map"]


def test_wrong_class_is_a_miss_and_a_false_detection():
    scores = finalise_detection(
        detection_stats([_truth((0, 0, 9, 9, 0))], [_found((0, 0, 9, 9, 0.9, 1))], 2), ["a", "b"]
    )
    assert scores.values["map50"] == 0.0
    assert scores.values["precision_b"] == 0.0
    assert "class 'b'" in scores.absent["ap_b"]
    assert "class 'b'" in scores.absent["recall_b"]


def test_only_the_best_hundred_detections_count():
    truths = [_truth((0, 0, 10, 10, 0))]
    rows = [(50 + i, 50, 60 + i, 60, 0.9, 0) for i in range(100)]
    stats = detection_stats(truths, [_found(*rows, (0, 0, 10, 10, 0.3, 0))], 1)
    assert int(stats["detections"].sum()) == 100
    assert finalise_detection(stats, ["a"]).values["recall"] == 0.0


def test_every_metric_is_absent_with_a_reason_without_images():
    scores = finalise_detection(Stats(), ["a", "b"])
    assert set(scores.absent) == set(metric_names("detection", ["a", "b"]))
    assert set(scores.absent.values()) == {"no images in the pooled holdout"}


def test_scores_cover_the_catalogue_and_its_ranges():
    rng = np.random.default_rng(1)
    truths = [_truth((10, 10, 60, 60, 0), (80, 80, 140, 120, 2)) for _ in range(5)]
    founds = [_imagined(truth, rng, 0.05, 5) for truth in truths]
    scores = finalise_detection(detection_stats(truths, founds, 3), CELLS)
    assert scores.values.keys() | scores.absent.keys() == set(metric_names("detection", CELLS))
    assert not scores.values.keys() & scores.absent.keys()
    for name, value in scores.values.items():
        info = task_metrics("detection", CELLS).info(name)
        assert info.lower <= value <= info.upper
    assert "WBC" in scores.absent["ap_WBC"]
    assert "detections" in task_metrics("detection", CELLS).info("precision_RBC").summary
    assert "rows" in metric_info("precision_RBC", CELLS).summary


@pytest.mark.parametrize("name", ["ap_car", "iou_car"])
def test_per_class_metric_asks_for_the_classes(name):
    with pytest.raises(ConfigError, match="need the use case's classes"):
        metric_info(name)


GOOD = ([[0, 0, 5, 5]], [0.5], [0])


@pytest.mark.parametrize(
    ("found", "error", "match"),
    [
        (([[0, 0, 5]], [0.5], [0]), ConfigError, "boxes"),
        (([[0, 0, 5, 5]], [0.5, 0.4], [0]), ConfigError, "boxes"),
        (([[0, 0, np.nan, 5]], [0.5], [0]), DivergedError, "not finite"),
        (([[0, 0, 5, 5]], [np.inf], [0]), DivergedError, "not finite"),
        (([[0, 0, 5, 5]], [1.5], [0]), ConfigError, "sigmoid"),
        (([[0, 0, 5, 5]], [0.5], [2]), ConfigError, "class index"),
        (([[0, 0, 5, 5]], [0.5], [0.5]), ConfigError, "class index"),
    ],
)
def test_bad_predictions_are_named(found, error, match):
    with pytest.raises(error, match=match):
        detection_stats([_truth()], [Detections(*map(np.array, found))], 2)


def test_inverted_prediction_is_a_false_detection():
    found = Detections(np.array([[9, 9, 0, 0]]), np.array([0.9]), np.array([0]))
    scores = finalise_detection(detection_stats([_truth((0, 0, 9, 9, 0))], [found], 1), ["a"])
    assert scores.values["precision"] == 0.0


def test_bad_ground_truth_counts_and_thresholds_are_named():
    found = Detections(*map(np.array, GOOD))
    with pytest.raises(DataError, match="list of classes"):
        detection_stats([_truth((0, 0, 5, 5, 3))], [found], 2)
    with pytest.raises(DataError, match="one prediction for each image"):
        detection_stats([_truth(), _truth()], [found], 2)
    with pytest.raises(ConfigError, match="score threshold"):
        detection_stats([], [], 2, score_threshold=2.0)
    with pytest.raises(ConfigError, match="at least one class"):
        detection_stats([], [], 0)


def test_foreign_summands_are_refused():
    stats = detection_stats([_truth()], [Detections(*map(np.array, GOOD))], 2)
    with pytest.raises(ReplyError, match="expected"):
        finalise_detection(stats, ["a", "b", "c"])
    claimed = Stats({**stats, "true_positives": stats["true_positives"] + 1})
    claimed = Stats({**claimed, "ground_truth": np.array([5, 5])})
    with pytest.raises(ReplyError, match="exceeds"):
        finalise_detection(claimed, ["a", "b"])


def test_overlaps_equal_torchvision():
    torch = pytest.importorskip("torch")
    ops = pytest.importorskip("torchvision.ops")
    rng = np.random.default_rng(2)
    corner = rng.uniform(0, 50, (2, 40, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(1, 40, (2, 40, 2))], axis=2)
    one, two = torch.from_numpy(boxes[0]), torch.from_numpy(boxes[1])
    np.testing.assert_allclose(
        pairwise_iou(boxes[0], boxes[1]), ops.box_iou(one, two).numpy(), atol=1e-12
    )
    iou, giou = matched_overlap(boxes[0], boxes[1])
    np.testing.assert_allclose(iou, ops.box_iou(one, two).diagonal().numpy(), atol=1e-12)
    expected = ops.generalized_box_iou(one, two).diagonal().numpy()
    np.testing.assert_allclose(giou, expected, atol=1e-12)


def test_greedy_match_takes_the_last_of_equal_overlaps_and_frees_none():
    overlap = np.array([[0.6, 0.6, 0.0], [0.9, 0.7, 0.0], [0.9, 0.6, 0.4]])
    matched = greedy_match(overlap, np.array([0.5, 0.65]))
    assert matched.tolist() == [[1, 0, -1], [-1, 0, -1]]
