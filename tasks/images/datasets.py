"""Ready picture sets by name: generated, or read from the data folder.

What ``dataset:NAME`` stands for in an image task's ``DataSource``. A set yields references and
labels, never decoded pictures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from fl_common.errors import ConfigError
from fl_common.plugins import find_plugin, plugin_names
from fl_common.words import suggest
from tasks.images.issues import ImageIssues

_READERS: dict[str, str] = {
    "aerial_cars": "tasks.datasets.boxes:aerial_cars",
    "blood_cells": "tasks.datasets.boxes:blood_cells",
    "cell_masks": "tasks.datasets.cell_masks:cell_masks",
    "chest_xray": "tasks.datasets.pictures:chest_xray",
    "crowd_detection": "tasks.datasets.crowd:crowd_detection",
    "digits": "tasks.datasets.pictures:digits",
    "mammography": "tasks.datasets.mammography:mammography",
}


@dataclass(frozen=True)
class ImageDataset:
    """A picture set.

    Parameters
    ----------
    task : str
        Public name of the task that it is for.
    classes : tuple of str
    records : callable
        From a collection of issues to the set's records, unchecked and in a fixed order; what a
        record is depends on the task (``tasks.object_detection.annotations.RawImage``, say).
    ordered : bool
        Neighbouring records are alike (frames of a film): the holdout is a site's last records
        instead of a random draw.
    """

    name: str
    task: str
    classes: tuple[str, ...]
    records: Callable[[ImageIssues], Iterable[Any]]
    ordered: bool = False


def image_dataset_names() -> tuple[str, ...]:
    """Return every name that ``load_image_dataset`` knows, sorted."""
    return tuple(sorted({*_READERS, *plugin_names("datasets")}))


def load_image_dataset(name: str) -> ImageDataset:
    """Return a picture set; nothing is read or drawn before its records are asked for.

    Raises
    ------
    ConfigError
        If there is no set of that name.
    DataError
        If its files are absent.
    """
    if (plugin := find_plugin("datasets", name, _READERS)) is not None:
        pictures: ImageDataset = plugin.load()()
        return pictures
    reference = _READERS.get(name)
    if reference is None:
        hint = suggest(name, image_dataset_names())
        raise ConfigError(f"image dataset '{name}' does not exist{hint}")
    module, _, function = reference.partition(":")
    read: Callable[[], ImageDataset] = getattr(import_module(module), function)
    return read()
