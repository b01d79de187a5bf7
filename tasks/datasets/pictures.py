"""Pictures with one class each: bundled with scikit-learn, or read from the data folder.

References
----------
E. Alpaydin, C. Kaynak (1998). Optical Recognition of Handwritten Digits. UCI (CC BY 4.0); comes
with scikit-learn. J. Yang et al. (2023). MedMNIST v2. Scientific Data 10, arXiv:2110.14795
(PneumoniaMNIST, CC BY 4.0); D. Kermany et al. (2018). Cell 172 (the radiographs).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from fl_common.errors import DataError
from tasks.datasets.folder import data_root
from tasks.image_classification.pictures import RawPicture
from tasks.images.arrays import ArrayImage, PictureRows, picture_rows, read_npz_array
from tasks.images.datasets import ImageDataset
from tasks.images.issues import ImageIssues

TASK = "image_classification"
DIGITS = tuple(str(digit) for digit in range(10))
LUNGS = ("normal", "pneumonia")
RADIOGRAPHS = ("pneumoniamnist_subset", "pneumoniamnist_varun_imbalanced.npz")


def digits() -> ImageDataset:
    """Handwritten digits: 1,797 grey pictures of 8 x 8 pixels."""

    def records(issues: ImageIssues) -> Iterator[RawPicture]:
        bunch = load_digits()
        pixels = np.rint(bunch.images * (255.0 / 16.0)).astype(np.uint8)
        yield from _rows("digits", PictureRows(pixels), bunch.target, DIGITS, "all")

    return ImageDataset("digits", TASK, DIGITS, records)


def chest_xray() -> ImageDataset:
    """PneumoniaMNIST, a subset: 5,030 grey chest radiographs of 28 x 28 pixels, 85 % pneumonia.

    The column ``split`` is ``train``, ``val`` or ``test``, as published.
    """
    path = _file(*RADIOGRAPHS)

    def records(issues: ImageIssues) -> Iterator[RawPicture]:
        for part in ("train", "val", "test"):
            pixels = picture_rows(read_npz_array(path, f"{part}_images"), str(path))
            labels = read_npz_array(path, f"{part}_labels").reshape(-1)
            yield from _rows(f"{part}", pixels, labels, LUNGS, part)

    return ImageDataset("chest_xray", TASK, LUNGS, records)


def _rows(
    name: str,
    pixels: PictureRows,
    labels: NDArray[np.int64],
    classes: tuple[str, ...],
    split: str,
) -> Iterator[RawPicture]:
    for index, label in enumerate(labels):
        key = f"{name}/{index}"
        image = ArrayImage(name, index, pixels)
        yield RawPicture(image, key, classes[int(label)], {"split": split})


def _file(folder: str, name: str) -> Path:
    path = data_root() / folder / name
    if not path.is_file():
        raise DataError(
            f"{path} is absent; put the file there, or set FEDLEAGUE_DATA to the folder that holds "
            f"{folder}/"
        )
    return path
