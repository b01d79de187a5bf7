"""Object detection, as the federation sees it (``contract.Task``)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from fl_common.errors import ConfigError, DivergedError, SchemaError
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
from tasks.metrics import detection_stats, finalise_detection, task_metrics
from tasks.metrics.detection import Detections
from tasks.object_detection.annotations import DetectionItem
from tasks.object_detection.data import DetectionData, box_counts, read_site
from tasks.object_detection.export import export_site
from tasks.object_detection.models import build_model, say_what_was_taken, start_from_file
from tasks.object_detection.network import DetectionModel
from tasks.object_detection.pixels import chunks
from tasks.object_detection.predict import CocoDetections, predict_pictures
from tasks.object_detection.preview import contact_sheet
from tasks.object_detection.schema import DetectionSchema
from tasks.object_detection.training import check_training, train_detector
from tasks.scores import OVERALL, ScoreCard, TaskMetrics
from tasks.stats import Stats

EVALUATION_BATCH = 16


class ObjectDetection:
    """Boxes with classes in pictures; see ``contract.Task`` for each method.

    Parameters
    ----------
    schema : mapping
        Plain values of a use case; keys as in ``DetectionSchema``.

    Raises
    ------
    ConfigError
        If the schema does not fit the task.
    """

    calibrates_logits = False
    prediction_endings = (".json",)
    counts_per_row = 10_000
    """Largest count, for one held-out picture, in an evaluation's summands: its boxes."""

    def __init__(self, schema: Mapping[str, Any]) -> None:
        self.schema = DetectionSchema.from_mapping(schema)

    @property
    def metrics(self) -> TaskMetrics:
        """What the task measures."""
        return task_metrics("detection", self.schema.classes)

    def check(self, spec: ModelSpec, config: TrainConfig) -> None:
        """Check model, optimiser and loss before any site is asked."""
        check_training(config)
        try:
            model = build_model(spec, self.schema, 0)
        except (RuntimeError, MemoryError) as error:  # PyTorch's word for memory that is not there
            raise ConfigError(
                f"model '{spec.name}' with {dict(spec.params)} cannot be made: {error}"
            ) from None
        start_from_file(model, spec)

    def read(self, source: DataSource, split_seed: int) -> DetectionData:
        """Read and split one site's YOLO, COCO, VOC or named pictures."""
        return read_site(source, split_seed, self.schema)

    def fit(self, data: SiteData, min_group_size: int) -> Stats:
        """Return how many pictures there are, and how many show each class.

        Notes
        -----
        Privacy: counts of pictures. A class that fewer than ``min_group_size`` pictures show
        counts as absent.
        """
        counts = box_counts(cast(DetectionData, data).train, len(self.schema.classes))
        showing = (counts > 0).sum(axis=0)
        showing[showing < min_group_size] = 0
        return Stats({"sites": 1, "pictures": len(counts), "showing": showing})

    def prepare(self, stats: Stats) -> Fitted:
        """Return the pooled counts; there is nothing else to fit.

        Raises
        ------
        SchemaError
            If no picture of any site shows an object.
        """
        showing = stats["showing"].tolist()
        if not any(showing):
            raise SchemaError("no training picture of any site shows an object of the use case")
        return {
            "num_sites": int(stats["sites"]),
            "num_pictures": int(stats["pictures"]),
            "pictures_showing": dict(zip(self.schema.classes, showing, strict=True)),
        }

    def build(self, spec: ModelSpec, fitted: Fitted, seed: int) -> DetectionModel:
        """Make a ``yolo``, ``fasterrcnn``, ``retinanet``, ``fcos`` or ``ssdlite`` model."""
        return build_model(spec, self.schema, seed)

    def start(self, model: Model, spec: ModelSpec) -> None:
        """Load the organiser's ``model.params.pretrained``; never called at a site."""
        taken, total = start_from_file(cast(DetectionModel, model), spec)
        if spec.params.get("pretrained") is not None:
            say_what_was_taken(taken, total, spec)

    def train(
        self,
        model: Model,
        data: SiteData,
        config: TrainConfig,
        objective: LocalObjective,
        seed: int,
    ) -> LocalOutcome:
        """Train in place on the site's training pictures."""
        items = cast(DetectionData, data).train
        detector = cast(DetectionModel, model)
        return train_detector(detector, items, config, objective=objective, seed=seed)

    def evaluate(self, model: Model, data: SiteData, split: str = HOLDOUT) -> Stats:
        """Return the summands of ``detection_stats`` on a split's pictures.

        Raises
        ------
        DivergedError
            If a weight, a box or a score is not finite.
        """
        detector, items = cast(DetectionModel, model), cast(DetectionData, data).split(split)
        if not detector.is_finite():
            raise DivergedError("a weight of the model is not finite; lower train.lr")
        schema = self.schema
        found = _detections(detector, items)
        stats = detection_stats(items, found, len(schema.classes), schema.score_threshold)
        return stats.under(OVERALL)

    def empty_stats(self, model: Model) -> Stats:
        """Return all-zero summands, as of no picture."""
        return detection_stats((), (), len(self.schema.classes)).under(OVERALL)

    def finalise(self, stats: Stats, fitted: Fitted) -> ScoreCard:
        """Turn pooled summands into scores; pure."""
        return ScoreCard(overall=finalise_detection(stats.below(OVERALL), self.schema.classes))

    def predict(self, model: Model, rows: Path) -> CocoDetections:
        """Detect in a folder or data set of pictures; labels are not needed."""
        return predict_pictures(cast(DetectionModel, model), rows)

    def preview(self, data: SiteData, path: Path) -> Path:
        """Draw the site's own pictures with their boxes, for its operator only."""
        return contact_sheet(cast(DetectionData, data), path, classes=self.schema.classes)

    def export(self, source: DataSource, split_seed: int, folder: Path) -> dict[str, str]:
        """Write the site's pictures and labels below ``folder``, and return how to read them."""
        return export_site(self.read(source, split_seed), self.schema.classes, folder)


def _detections(model: DetectionModel, items: Sequence[DetectionItem]) -> Iterator[Detections]:
    """Yield each picture's detections; in memory are one picture and a batch of squares."""
    for part in chunks(items, EVALUATION_BATCH):
        yield from model.detect([model.boxed(item.image()) for item in part])
