"""From logits in the model's square to masks in each picture's own size, and to files."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from fl_common.errors import DataError, FileWriteError
from fl_common.files import write_atomically
from tasks.images.image_refs import FileImage, ImageRef
from tasks.images.pixels import Geometry
from tasks.semantic_segmentation.masks import Classes, palette_image
from tasks.semantic_segmentation.models import SegmentationModel
from tasks.semantic_segmentation.schema import SegmentationSchema
from tasks.sites.folders import PICTURE_SUFFIXES, files_below

CHUNK_VALUES = 2**20
"""Pixel values of pictures that are in memory at a time; their logits are more."""


def predicted_masks(model: SegmentationModel, images: Sequence[ImageRef]) -> Iterator[Classes]:
    """Yield each picture's mask of class numbers, shape (h, w) of the picture, uint8.

    Raises
    ------
    BadImageError
        If a picture cannot be read.
    """
    preprocess, geometry = model.preprocess, model.preprocess.geometry
    step = max(1, min(64, CHUNK_VALUES // int(np.prod(geometry.shape))))
    for start in range(0, len(images), step):
        sizes, shrunk = [], []
        for image in images[start : start + step]:  # one at a time in its full size
            picture = image.load()
            sizes.append(picture.size)
            shrunk.append(geometry.pixels(picture))
        pixels = torch.from_numpy(np.stack(shrunk))
        with torch.no_grad():
            logits = model.forward(preprocess.normalise(pixels)).cpu()
        for own, size in zip(logits, sizes, strict=True):
            yield restored(own, geometry, size)


def restored(logits: torch.Tensor, geometry: Geometry, size: tuple[int, int]) -> Classes:
    """Return the class of each pixel in a picture's own size.

    Parameters
    ----------
    logits : tensor, shape (c, s, s)
    size : (width, height), pixels
        Of the picture; the square's borders, if it has any, are cut off.
    """
    width, height = size
    if geometry.resize == "pad":
        inner_width, inner_height = geometry.inner(width, height)
        left, top = (geometry.size - inner_width) // 2, (geometry.size - inner_height) // 2
        logits = logits[:, top : top + inner_height, left : left + inner_width]
    if tuple(logits.shape[1:]) != (height, width):
        logits = F.interpolate(logits[None], (height, width), mode="bilinear")[0]
    return logits.argmax(dim=0).to(torch.uint8).numpy()


@dataclass(frozen=True)
class MaskFolder:
    """Predictions of a folder's pictures; made while they are written.

    Parameters
    ----------
    files : tuple of (Path, str)
        Each picture, and its mask's name below the output folder.
    """

    model: SegmentationModel
    schema: SegmentationSchema
    files: tuple[tuple[Path, str], ...]

    def __len__(self) -> int:
        return len(self.files)

    def masks(self) -> Iterator[tuple[str, Classes]]:
        """Yield each mask's file name and class numbers."""
        images = [
            FileImage(path, self.schema.max_pixels, self.schema.bit_depth) for path, _ in self.files
        ]
        names = (name for _, name in self.files)
        yield from zip(names, predicted_masks(self.model, images), strict=True)

    def write(self, out: Path) -> str:
        """Write one PNG for each picture below the folder ``out``, and say so.

        A file appears whole or not at all.

        Raises
        ------
        DataError
            If ``out`` is a file, or cannot be written.
        """
        try:
            for name, mask in self.masks():
                buffer = io.BytesIO()
                palette_image(mask, self.schema).save(buffer, "PNG")
                write_atomically(out / name, buffer.getvalue())
        except FileWriteError as error:
            raise DataError(str(error)) from None
        return f"{len(self)} masks: {out}"


def predict_folder(model: SegmentationModel, path: Path, schema: SegmentationSchema) -> MaskFolder:
    """Return what writes a mask for every picture of a folder, of its ``images/``, or for one.

    Raises
    ------
    DataError
        If there are no pictures.
    """
    root = path / "images" if (path / "images").is_dir() else path
    if path.is_file() and path.suffix.lower() in PICTURE_SUFFIXES:
        files, root = [path], path.parent
    else:
        files = files_below(root, PICTURE_SUFFIXES) if root.is_dir() else []
    if not files:
        raise DataError(f"{path}: no pictures; give a picture or a folder of them")
    stems = Counter(file.relative_to(root).with_suffix("") for file in files)
    named = []
    for file in files:
        place = file.relative_to(root)
        alone = stems[place.with_suffix("")] == 1
        name = place.with_suffix(".png") if alone else place.with_name(f"{place.name}.png")
        named.append((file, name.as_posix()))
    return MaskFolder(model, schema, tuple(named))
