"""Image classification, as the federation sees it (``contract.Task``)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from fl_common.errors import ConfigError, DataError
from tasks.contract import (
    HOLDOUT,
    TRAIN,
    DataSource,
    Fitted,
    LocalObjective,
    LocalOutcome,
    Model,
    ModelSpec,
    SiteData,
    TrainConfig,
)
from tasks.image_classification.data import ImageData, read_site
from tasks.image_classification.export import export_site
from tasks.image_classification.models import ImageClassifier, build_model
from tasks.image_classification.pictures import read_pictures
from tasks.image_classification.preprocess import fit_pictures, prepare
from tasks.image_classification.preview import contact_sheet
from tasks.image_classification.schema import ImageSchema
from tasks.images.dp_compat import require_private
from tasks.images.image_refs import with_bit_depth
from tasks.images.issues import ImageIssues
from tasks.images.loader import PixelLoader
from tasks.images.preprocess import fitted_values
from tasks.images.weights import start_from_file
from tasks.metrics import classification_stats, finalise_classification, task_metrics
from tasks.metrics.extra import ExtraMetrics
from tasks.networks.dp_sgd import train_privately
from tasks.networks.losses import calibrated, classification_loss
from tasks.networks.seeds import seeded
from tasks.networks.training import check_config, run_training
from tasks.scores import OVERALL, SUBGROUPS, ScoreCard, Scores, TaskMetrics
from tasks.stats import Stats


class ImageClassification:
    """Two or more classes of pictures; see ``contract.Task`` for each method.

    Parameters
    ----------
    schema : mapping
        Plain values of a use case; keys as in ``ImageSchema``, with ``normalise`` for mean and
        std.

    Raises
    ------
    ConfigError
        If the schema does not fit the task.
    """

    calibrates_logits = True
    trains_privately = True

    def __init__(self, schema: Mapping[str, Any]) -> None:
        self._extra, own = ExtraMetrics.split_from(schema)
        self.schema = ImageSchema.from_mapping(own)

    @property
    def metrics(self) -> TaskMetrics:
        """What the task measures."""
        return self._extra.beside(task_metrics("classification", self.schema.classes))

    def check(self, spec: ModelSpec, config: TrainConfig) -> None:
        """Check model, weights file, optimiser and loss before any site is asked."""
        check_config(config)
        classification_loss(config, [1] * len(self.schema.classes))
        fitted = fitted_values(self.schema, [1] * len(self.schema.classes))
        try:
            model = build_model(spec, fitted, 0)
        except (RuntimeError, MemoryError):  # PyTorch's word for memory that is not there
            raise ConfigError(
                f"model '{spec.name}' with {dict(spec.params)} does not fit in memory"
            ) from None
        start_from_file(model, spec)
        if config.dp is not None:
            require_private(model, self.schema.geometry.shape, config, spec.name)

    def read(self, source: DataSource, split_seed: int) -> ImageData:
        """Read and split one site's folder, manifest, ``.npz`` file or named pictures."""
        return read_site(source, split_seed, self.schema)

    def fit(self, data: SiteData, min_group_size: int) -> Stats:
        """Return the summands of ``preprocess.fit_pictures``."""
        return fit_pictures(cast(ImageData, data), self.schema)

    def prepare(self, stats: Stats) -> Fitted:
        """Finalise class counts and the pixels' mean and spread."""
        return prepare(stats, self.schema)

    def build(self, spec: ModelSpec, fitted: Fitted, seed: int) -> ImageClassifier:
        """Make a ``simple_cnn`` or a classifier of torchvision."""
        return build_model(spec, fitted, seed)

    def start(self, model: Model, spec: ModelSpec) -> None:
        """Load the organiser's ``model.params.pretrained``; never called at a site."""
        start_from_file(cast(ImageClassifier, model), spec)

    def train(
        self,
        model: Model,
        data: SiteData,
        config: TrainConfig,
        objective: LocalObjective,
        seed: int,
    ) -> LocalOutcome:
        """Train in place on the site's training pictures.

        ``seed`` decides the order of the pictures, every augmentation and every dropped unit; in
        private training only the latter two.
        """
        network, split = cast(ImageClassifier, model), cast(ImageData, data).train
        preprocess = network.preprocess
        loader, labels = split.loader(preprocess.geometry), torch.from_numpy(split.labels)
        loss = classification_loss(config, preprocess.class_counts)
        if objective.calibration:
            loss = calibrated(loss, labels, len(preprocess.classes), objective.calibration)

        def batch_loss(index: torch.Tensor) -> torch.Tensor:
            pixels = torch.from_numpy(loader.batch(index.numpy()))
            if preprocess.augment:
                pixels = preprocess.augment(pixels)
            return loss(network.forward(preprocess.normalise(pixels)).cpu(), labels[index])

        generator = torch.Generator().manual_seed(seed)
        with seeded(seed):
            if config.dp is not None:
                return train_privately(network, len(split), batch_loss, config, objective=objective)
            return run_training(
                network, len(split), batch_loss, config, objective=objective, generator=generator
            )

    def evaluate(self, model: Model, data: SiteData, split: str = HOLDOUT) -> Stats:
        """Return the summands of every scope on a split's pictures.

        Notes
        -----
        Privacy: leaving are the summands of ``classification_stats`` for all pictures and for
        each subgroup, however few it has here; the site's policy may hold small ones back.
        """
        network, site = cast(ImageClassifier, model), cast(ImageData, data)
        part = site.split(split)
        scores = _probabilities(network, part.loader(network.preprocess.geometry))
        labels = part.labels
        stats = self._row_stats(labels, scores).under(OVERALL)
        for name, member in site.members(split).items():
            if member.any():
                members = self._row_stats(labels[member], scores[member])
                stats = stats.merge(members.under(f"{SUBGROUPS}/{name}"))
        return stats

    def empty_stats(self, model: Model) -> Stats:
        """Return all-zero summands of every scope that a reply may hold."""
        num_classes = len(self.schema.classes)
        rows = self._row_stats(np.zeros(0, np.int64), np.zeros((0, num_classes)))
        groups = (rows.under(f"{SUBGROUPS}/{group.name}") for group in self.schema.subgroups)
        return Stats.total([rows.under(OVERALL), *groups])

    def finalise(self, stats: Stats, fitted: Fitted) -> ScoreCard:
        """Turn pooled summands into scores; pure."""
        classes = fitted["classes"]

        def scores(part: Stats) -> Scores:
            return self._extra.scores(finalise_classification(part, classes), part)

        groups = {
            group.name: scores(stats.below(f"{SUBGROUPS}/{group.name}"))
            for group in self.schema.subgroups
        }
        return ScoreCard(scores(stats.below(OVERALL)), groups)

    def _row_stats(self, labels: NDArray[Any], scores: NDArray[Any]) -> Stats:
        stats = classification_stats(labels, scores)
        return stats.merge(self._extra.stats(labels, scores))

    def predict(self, model: Model, rows: Path) -> pd.DataFrame:
        """Predict a folder, a manifest, an ``.npz`` file or one picture; labels are not needed.

        Returns
        -------
        DataFrame, one row per picture
            ``data_id``, ``prediction``, ``path``, and ``proba_<class>`` per class.

        Raises
        ------
        DataError
            If there are no pictures, or one cannot be read.
        """
        network = cast(ImageClassifier, model)
        issues = ImageIssues()
        pictures = list(read_pictures(rows, self.schema, issues, TRAIN, labelled=False))
        issues.check(str(rows))
        if not pictures:
            raise DataError(f"{rows}: no pictures; give a folder, a manifest or an .npz file")
        images = [with_bit_depth(p.image, self.schema.bit_depth) for p in pictures]
        loader = PixelLoader(images, network.preprocess.geometry)
        scores = _probabilities(network, loader)
        names = np.array(network.preprocess.classes, dtype=object)
        columns: dict[str, Iterable[Any]] = {
            "data_id": [picture.name for picture in pictures],
            "prediction": names[scores.argmax(axis=1)],
            "path": [picture.image.name for picture in pictures],
        }
        return pd.DataFrame(
            columns | {f"proba_{name}": scores[:, i] for i, name in enumerate(names)}
        )

    def preview(self, data: SiteData, path: Path) -> Path:
        """Draw the site's own pictures with their classes, for its operator only."""
        return contact_sheet(cast(ImageData, data), path, classes=self.schema.classes)

    def export(self, source: DataSource, split_seed: int, folder: Path) -> dict[str, str]:
        """Write the site's pictures and labels below ``folder``, and return how to read them."""
        return export_site(self.read(source, split_seed), self.schema, folder)


def _probabilities(model: ImageClassifier, loader: PixelLoader) -> NDArray[np.float64]:
    """Return each picture's class probabilities, shape (n, c), float64."""
    parts = []
    with torch.no_grad():
        for pixels in loader.chunks():
            outputs = model.forward(model.preprocess.normalise(torch.from_numpy(pixels)))
            parts.append(torch.softmax(outputs.cpu().double(), dim=1).numpy())
    return np.concatenate(parts)
