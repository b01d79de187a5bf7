"""Federated preprocessing of pictures in one exchange: class counts, pixel mean and spread."""

from __future__ import annotations

from typing import Any

import numpy as np

from tasks.contract import Fitted
from tasks.errors import SchemaError
from tasks.image_classification.data import ImageData
from tasks.image_classification.schema import ImageSchema
from tasks.images.augment import Augment, parse_augmentations, plain
from tasks.images.pixels import Geometry, Normaliser, finalise_pixels, pixel_stats
from tasks.stats import Stats


class Preprocess:
    """What a picture goes through before the network, compiled from ``Fitted``.

    Attributes
    ----------
    classes : list of str
    class_counts : list of int
        Training pictures of each class over all sites.
    geometry : Geometry
    normalise : Normaliser
    augment : Augment
        In training only.
    """

    def __init__(self, fitted: Fitted) -> None:
        self.classes: list[str] = list(fitted["classes"])
        self.class_counts: list[int] = list(fitted["class_counts"])
        self.geometry = Geometry(fitted["image_size"], fitted["channels"], fitted["fit"])
        self.normalise = Normaliser(fitted["mean"], fitted["std"])
        self.augment = Augment(parse_augmentations(fitted["augment"]), self.geometry.shape)


def fit_pictures(data: ImageData, schema: ImageSchema) -> Stats:
    """Return the summands from which preprocessing is fitted (training pictures only).

    Returns
    -------
    Stats
        ``sites``, ``rows``, ``class_counts`` (c,); with ``normalise: pooled`` also
        ``colour/{pixels,sum,squares}``.

    Notes
    -----
    Privacy: leaving are exact class counts, and of the pixels one sum and one sum of squares for
    each channel.
    """
    counts = np.bincount(data.train.labels, minlength=len(schema.classes))
    stats = Stats({"sites": 1, "rows": data.num_train, "class_counts": counts})
    if schema.mean is not None:
        return stats
    chunks = data.train.loader(schema.geometry).chunks()
    colour = Stats.total(pixel_stats(pixels) for pixels in chunks)
    return stats.merge(colour.scoped("colour"))


def prepare(stats: Stats, schema: ImageSchema) -> Fitted:
    """Finalise preprocessing from the pooled summands.

    Raises
    ------
    SchemaError
        If no site sent any, or all training pictures are of one class.
    """
    if not int(stats.get("sites", np.array(0))):
        raise SchemaError("no site sent statistics; wait for sites or lower the quorum")
    counts = [int(count) for count in stats["class_counts"]]
    if sum(count > 0 for count in counts) < 2:
        only = schema.classes[int(np.argmax(counts))]
        raise SchemaError(f"every training picture of every site is of class '{only}'")
    if schema.mean is None or schema.std is None:
        mean, std = finalise_pixels(stats.scope("colour"))
    else:
        mean, std = list(schema.mean), list(schema.std)
    return fitted_values(schema, counts, mean, std) | {
        "num_sites": int(stats["sites"]),
        "num_rows": int(stats["rows"]),
    }


def fitted_values(
    schema: ImageSchema, counts: list[int], mean: list[float], std: list[float]
) -> dict[str, Any]:
    """Return everything that ``Preprocess`` reads, as JSON values."""
    return {
        "classes": list(schema.classes),
        "class_counts": counts,
        "image_size": schema.image_size,
        "channels": schema.channels,
        "fit": schema.fit,
        "mean": mean,
        "std": std,
        "augment": plain(schema.augment),
    }
