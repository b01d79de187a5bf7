"""Write pictures to a site's folder in a way that reading gives the same pixels again."""

from __future__ import annotations

import shutil
from collections.abc import Sized
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image

from tasks.contract import HOLDOUT, TRAIN, VALIDATION
from tasks.images.image_refs import FileImage, ImageRef
from tasks.sites.data import SiteSplits

T = TypeVar("T", bound=Sized)


def given_splits(data: SiteSplits[T]) -> dict[str, T]:
    """Return every split that a site has, by its key in ``site.yaml``."""
    names = (TRAIN, VALIDATION, HOLDOUT)
    return {name: data.split(name) for name in names if name != VALIDATION or data.num_validation}


def picture_stem(number: int) -> str:
    """Return a name by which pictures sort as they are numbered."""
    return f"{number:06d}"


def write_picture(image: ImageRef, folder: Path, number: int) -> Path:
    """Write one picture below ``folder``, which is made, and return its path.

    A file is copied byte by byte, whatever its format. Any other picture becomes an 8-bit PNG,
    grey if its three channels are equal: nothing is lost, since ``ImageRef.load`` gives 8 bits.

    Raises
    ------
    BadImageError
        If a file has vanished since the site was read.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(image, FileImage):
        image.inspect()
        path = folder / f"{picture_stem(number)}{image.path.suffix.lower()}"
        shutil.copyfile(image.path, path)
        return path
    path = folder / f"{picture_stem(number)}.png"
    picture = image.load()
    values = np.asarray(picture)
    if (values == values[..., :1]).all():
        picture = Image.fromarray(np.ascontiguousarray(values[..., 0]))
    picture.save(path, "PNG")
    return path
