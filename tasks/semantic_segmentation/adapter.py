"""Semantic segmentation, as the federation sees it (``contract.Task``)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

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
from tasks.images.pixels import pixel_stats
from tasks.images.preprocess import fitted_values
from tasks.images.weights import start_from_file
from tasks.metrics import (
    blank_segmentation,
    finalise_segmentation,
    segmentation_stats,
    task_metrics,
)
from tasks.networks.seeds import seeded
from tasks.networks.training import check_config, run_training
from tasks.scores import OVERALL, ScoreCard, TaskMetrics
from tasks.semantic_segmentation.data import SegmentationData, read_site
from tasks.semantic_segmentation.export import export_site
from tasks.semantic_segmentation.losses import segmentation_loss
from tasks.semantic_segmentation.models import SegmentationModel, build_model
from tasks.semantic_segmentation.predict import MaskFolder, predict_folder, predicted_masks
from tasks.semantic_segmentation.preview import contact_sheet
from tasks.semantic_segmentation.schema import SegmentationSchema
from tasks.stats import Stats


class SemanticSegmentation:
    """One class for each pixel; see ``contract.Task`` for each method.

    Parameters
    ----------
    schema : mapping
        Plain values of a use case; keys as in ``SegmentationSchema``, with ``normalise`` for mean
        and std.

    Raises
    ------
    ConfigError
        If the schema does not fit the task.
    """

    calibrates_logits = False
    prediction_endings = ()

    def __init__(self, schema: Mapping[str, Any]) -> None:
        self.schema = SegmentationSchema.from_mapping(schema)

    @property
    def counts_per_row(self) -> int:
        """Largest count, for one held-out picture, in an evaluation's summands: its pixels."""
        return self.schema.max_pixels

    @property
    def metrics(self) -> TaskMetrics:
        """What the task measures."""
        return task_metrics("segmentation", self.schema.classes)

    def check(self, spec: ModelSpec, config: TrainConfig) -> None:
        """Check model, weights file, optimiser and loss before any site is asked."""
        check_config(config)
        blank = [1] * len(self.schema.classes)
        segmentation_loss(config, blank)
        try:
            model = build_model(spec, fitted_values(self.schema, blank), 0)
        except (RuntimeError, MemoryError):  # PyTorch's word for memory that is not there
            raise ConfigError(
                f"model '{spec.name}' with {dict(spec.params)} does not fit in memory"
            ) from None
        start_from_file(model, spec)

    def read(self, source: DataSource, split_seed: int) -> SegmentationData:
        """Read and split one site's folders of pictures and masks, or named pictures."""
        return read_site(source, split_seed, self.schema)

    def fit(self, data: SiteData, min_group_size: int) -> Stats:
        """Return the summands from which preprocessing is fitted (training pictures only).

        Returns
        -------
        Stats
            ``sites``, ``rows``; ``class_pixels`` (c,) float64, whole numbers; with ``normalise:
            pooled`` also ``colour/{pixels,sum,squares}``.

        Notes
        -----
        Privacy: counts of pixels, and one sum and one sum of squares for each channel.
        """
        split = cast(SegmentationData, data).train
        pixels = split.counts().sum(axis=0).astype(np.float64)
        stats = Stats({"sites": 1, "rows": len(split), "class_pixels": pixels})
        if self.schema.mean is not None:
            return stats
        chunks = split.loaders(self.schema.geometry)[0].chunks()
        colour = Stats.total(pixel_stats(part) for part in chunks)
        return stats.merge(colour.under("colour"))

    def prepare(self, stats: Stats) -> Fitted:
        """Finalise pixel counts, mean and spread.

        Raises
        ------
        SchemaError
            If no site sent any, or every training pixel is of one class.
        """
        if not int(stats.get("sites", np.array(0))):
            raise SchemaError("no site sent statistics; wait for sites or lower the quorum")
        counts = [int(count) for count in stats["class_pixels"]]
        if sum(count > 0 for count in counts) < 2:
            only, first = self.schema.classes[int(np.argmax(counts))], self.schema.classes[0]
            raise SchemaError(
                f"every training pixel of every site is of class '{only}'; masks of 0 and 255 need "
                f"usecase.values={{{first}: 0, {self.schema.classes[1]}: 255}}"
            )
        return fitted_values(self.schema, counts, stats.below("colour")) | {
            "num_sites": int(stats["sites"]),
            "num_rows": int(stats["rows"]),
        }

    def build(self, spec: ModelSpec, fitted: Fitted, seed: int) -> SegmentationModel:
        """Make a ``unet`` or a segmentation network of torchvision."""
        return build_model(spec, fitted, seed)

    def start(self, model: Model, spec: ModelSpec) -> None:
        """Load the organiser's ``model.params.pretrained``; never called at a site."""
        start_from_file(cast(SegmentationModel, model), spec)

    def train(
        self,
        model: Model,
        data: SiteData,
        config: TrainConfig,
        objective: LocalObjective,
        seed: int,
    ) -> LocalOutcome:
        """Train in place on the site's training pictures.

        ``seed`` decides the order of the pictures, every augmentation and every dropped unit.
        """
        network, split = cast(SegmentationModel, model), cast(SegmentationData, data).train
        preprocess = network.preprocess
        pictures, masks = split.loaders(preprocess.geometry)
        loss = segmentation_loss(config, preprocess.class_counts)

        def batch_loss(index: torch.Tensor) -> torch.Tensor:
            rows = index.numpy()
            pixels = torch.from_numpy(pictures.batch(rows))
            truth = torch.from_numpy(masks.batch(rows)[:, 0])
            if preprocess.augment:
                pixels, truth = preprocess.augment.pairs(pixels, truth)
            logits = network.forward(preprocess.normalise(pixels))
            return loss(logits, truth.long().to(logits.device)).cpu()

        generator = torch.Generator().manual_seed(seed)
        with seeded(seed):
            return run_training(
                network, len(split), batch_loss, config, objective=objective, generator=generator
            )

    def evaluate(self, model: Model, data: SiteData, split: str = HOLDOUT) -> Stats:
        """Return the summands of ``segmentation_stats`` on a split's pictures.

        Masks are scored in their own size: what the model sees smaller is scaled back.

        Raises
        ------
        DivergedError
            If a weight is not finite.
        """
        network = cast(SegmentationModel, model)
        scenes = cast(SegmentationData, data).split(split).scenes
        if not network.is_finite():
            raise DivergedError("a weight of the model is not finite; lower train.lr")
        found = predicted_masks(network, [scene.image_ref for scene in scenes])
        size, near = len(self.schema.classes), self.schema.boundary_tolerance
        parts = (
            segmentation_stats(scene.mask.load(), mask, size, near)
            for scene, mask in zip(scenes, found, strict=True)
        )
        return Stats.total(parts).under(OVERALL)

    def empty_stats(self, model: Model) -> Stats:
        """Return all-zero summands of every scope that a reply may hold."""
        return blank_segmentation(len(self.schema.classes)).under(OVERALL)

    def finalise(self, stats: Stats, fitted: Fitted) -> ScoreCard:
        """Turn pooled summands into scores; pure."""
        return ScoreCard(finalise_segmentation(stats.below(OVERALL), self.schema.classes))

    def predict(self, model: Model, rows: Path) -> MaskFolder:
        """Return what writes a PNG mask for each picture of a folder; masks are not needed."""
        return predict_folder(cast(SegmentationModel, model), rows, self.schema)

    def preview(self, data: SiteData, path: Path) -> Path:
        """Draw the site's own pictures with their masks, for its operator only."""
        return contact_sheet(cast(SegmentationData, data), path, classes=self.schema.classes)

    def export(self, source: DataSource, split_seed: int, folder: Path) -> dict[str, str]:
        """Write the site's pictures and labels below ``folder``, and return how to read them."""
        return export_site(self.read(source, split_seed), self.schema, folder)
