"""Non-maximum suppression with every setting explicit."""

from __future__ import annotations

import torch
from torchvision.ops import batched_nms

from tasks.object_detection.network import SCORE_FLOOR, Found

MAX_CANDIDATES = 30_000
"""Detections of one picture that enter suppression, the best by score."""


def suppress(
    boxes: torch.Tensor, scores: torch.Tensor, nms_iou: float, max_detections: int
) -> Found:
    """Keep the best of overlapping detections, class by class.

    A place may be detected as several classes at once (ultralytics' ``multi_label``, which its
    validator uses): each class's score above the floor is a candidate of its own.

    Parameters
    ----------
    boxes : tensor, shape (a, 4), float32
        Corners x1, y1, x2, y2.
    scores : tensor, shape (a, c), float32, in [0, 1]
    nms_iou : float
        Overlap above which the lower-scored of two detections of one class is dropped.
    max_detections : int
        Kept for the picture, all classes together.
    """
    places, labels = (scores > SCORE_FLOOR).nonzero(as_tuple=True)
    values = scores[places, labels]
    if len(values) > MAX_CANDIDATES:
        values, best = values.topk(MAX_CANDIDATES)
        places, labels = places[best], labels[best]
    kept = batched_nms(boxes[places], values, labels, nms_iou)[:max_detections]
    return boxes[places[kept]], values[kept], labels[kept]
