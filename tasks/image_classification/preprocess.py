"""Federated preprocessing of pictures in one exchange: class counts, pixel mean and spread."""

from __future__ import annotations

import numpy as np

from fl_common.errors import SchemaError
from tasks.contract import Fitted
from tasks.image_classification.data import ImageData
from tasks.image_classification.schema import ImageSchema
from tasks.images.pixels import pixel_stats
from tasks.images.preprocess import fitted_values
from tasks.stats import Stats


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
    return stats.merge(colour.under("colour"))


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
    return fitted_values(schema, counts, stats.below("colour")) | {
        "num_sites": int(stats["sites"]),
        "num_rows": int(stats["rows"]),
    }
