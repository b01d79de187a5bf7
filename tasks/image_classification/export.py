"""Write a site's pictures as folders with a CSV manifest beside them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from tasks.image_classification.data import ImageData, Picture
from tasks.image_classification.schema import ImageSchema
from tasks.images.export import given_splits, write_picture


def export_site(data: ImageData, schema: ImageSchema, folder: Path) -> dict[str, str]:
    """Write ``{train,validation,holdout}.csv`` and a folder of pictures for each.

    Order and columns are kept.

    Returns
    -------
    dict
        The files of ``site.yaml``.
    """
    splits = given_splits(data)
    for name, split in splits.items():
        _table(split.pictures, schema, folder / name).to_csv(folder / f"{name}.csv", index=False)
    return {name: f"{name}.csv" for name in splits}


def _table(pictures: Sequence[Picture], schema: ImageSchema, folder: Path) -> pd.DataFrame:
    rows = []
    for number, picture in enumerate(pictures):
        row = dict(picture.groups)
        row[schema.id_column] = write_picture(picture.image_ref, folder, number).name
        row[schema.label_column] = schema.classes[picture.label]
        rows.append(row)
    first = [schema.id_column, schema.label_column]
    frame = pd.DataFrame(rows)
    return frame[first + [column for column in frame if column not in first]]
