"""Metrics that pool exactly: sites send summands, the server finalises their sum once."""

from tasks.metrics.catalog import metric_info, metric_names, task_metrics
from tasks.metrics.classification import classification_stats, finalise_classification
from tasks.metrics.detection import Detections, detection_stats
from tasks.metrics.detection_scores import finalise_detection
from tasks.metrics.regression import finalise_regression, regression_stats
from tasks.metrics.segmentation import (
    blank_segmentation,
    finalise_segmentation,
    segmentation_stats,
)

__all__ = [
    "Detections",
    "blank_segmentation",
    "classification_stats",
    "detection_stats",
    "finalise_classification",
    "finalise_detection",
    "finalise_regression",
    "finalise_segmentation",
    "metric_info",
    "metric_names",
    "regression_stats",
    "segmentation_stats",
    "task_metrics",
]
