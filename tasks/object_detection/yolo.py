"""Read YOLO labels: a text file beside each picture, a class and four shares on each line.

``data.yaml`` names the classes and the folders, or text lists, of pictures. A folder alone may hold
``data.yaml``; otherwise ``images/`` and ``labels/`` (or both kinds of file together) and
``classes.txt``, without which class numbers mean the use case's order. A label path is the
picture's with the last ``images`` folder replaced by ``labels``, where that exists. Lines with a
polygon instead of a box are read as the box around it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from fl_common.errors import DataError
from tasks.images.image_refs import FileImage
from tasks.images.issues import ImageIssues
from tasks.images.read import MAX_PIXELS
from tasks.object_detection.annotations import RawImage
from tasks.sites.folders import PICTURE_SUFFIXES, files_below

_CLASS_FILES = ("classes.txt", "obj.names")


def is_yolo(path: Path) -> bool:
    """Say whether a path looks like YOLO data."""
    if path.suffix.lower() in (".yaml", ".yml"):
        return True
    return path.is_dir() and any(
        (path / name).exists() for name in ("data.yaml", "labels", *_CLASS_FILES)
    )


def has_val(path: Path) -> bool:
    """Say whether a ``data.yaml`` (or a folder with one) names its own validation pictures."""
    manifest = _manifest_path(path)
    return manifest is not None and bool(_manifest(manifest).get("val"))


def yolo_pictures(path: Path) -> tuple[list[Path], str]:
    """Return pictures to look at, without their labels, and which split of ``data.yaml`` they are.

    The first of ``test``, ``val`` and ``train`` that is there (exports name splits that they have
    not); the split of a folder is "".

    Raises
    ------
    DataError
        If ``data.yaml`` cannot be used or there are no pictures.
    """
    manifest = _manifest_path(path)
    if manifest is None:
        return _pictures([_picture_folder(path)], path), ""
    content = _manifest(manifest)
    for split in ("test", "val"):
        entries = _entries(content, manifest, split) if content.get(split) else []
        if entries and all(entry.exists() for entry in entries):
            return _pictures(entries, manifest), split
    return _pictures(_entries(content, manifest, "train"), manifest), "train"


def read_yolo(
    path: Path,
    classes: Sequence[str],
    issues: ImageIssues,
    split: str = "train",
    max_pixels: int = MAX_PIXELS,
) -> Iterator[RawImage]:
    """Yield every picture of a split with its labels.

    Parameters
    ----------
    path : Path
        ``data.yaml`` or a folder.
    classes : sequence of str
        The use case's classes; meant by class numbers where no file names them.
    split : {"train", "val"}
        Key of ``data.yaml``.

    Raises
    ------
    DataError
        If ``data.yaml`` cannot be used or a folder has no pictures.
    """
    manifest = _manifest_path(path)
    if manifest is None:
        names = _class_file(path) or tuple(classes)
        pictures = _pictures([_picture_folder(path)], path)
    else:
        content = _manifest(manifest)
        names = _names(content, manifest)
        pictures = _pictures(_entries(content, manifest, split), manifest)
    labels = {_label_path(picture): picture for picture in pictures}
    if len(labels) < len(pictures):
        for picture in pictures:
            if labels[_label_path(picture)] != picture:
                issues.add("duplicate_name", picture, f"shares {_label_path(picture).name}")
    for label, picture in labels.items():
        yield _raw(picture, label, names, issues, max_pixels)
    for stray in _strays(labels):
        issues.add("label_without_image", stray)


def _raw(
    picture: Path, label: Path, names: tuple[str, ...], issues: ImageIssues, max_pixels: int
) -> RawImage:
    boxes: list[list[float]] = []
    owners: list[str] = []
    places: list[str] = []
    if label.is_file():
        text = label.read_bytes().decode("utf-8-sig", errors="replace")
        for number, line in enumerate(text.splitlines(), 1):
            values = line.split()
            if not values:
                continue
            parsed = _parse(values)
            if parsed is None:
                issues.add("bad_label", label, f"line {number}: '{line.strip()[:60]}'")
                continue
            code, box = parsed
            known = 0 <= code < len(names)
            boxes.append(box)
            owners.append(names[code] if known else f"class {code} of {len(names)}")
            places.append(f"line {number}")
    else:
        issues.add("image_without_label", picture)
    return RawImage(
        FileImage(picture, max_pixels),
        np.array(boxes, dtype=np.float64).reshape(-1, 4),
        tuple(owners),
        tuple(places),
        str(label),
        relative=True,
        groups={"folder": picture.parent.name},
    )


def _parse(values: list[str]) -> tuple[int, list[float]] | None:
    """Return class number and corners of a line; None if it is neither a box nor a polygon."""
    try:
        numbers = [float(value) for value in values]
    except ValueError:
        return None
    if not np.isfinite(numbers[0]) or numbers[0] != int(numbers[0]):
        return None
    code, shape = int(numbers[0]), numbers[1:]
    if len(shape) == 4:
        x, y, width, height = shape
        return code, [x - width / 2, y - height / 2, x + width / 2, y + height / 2]
    if len(shape) >= 6 and len(shape) % 2 == 0:
        points: NDArray[np.float64] = np.array(shape).reshape(-1, 2)
        return code, [*points.min(axis=0).tolist(), *points.max(axis=0).tolist()]
    return None


def _label_path(picture: Path) -> Path:
    parts = list(picture.parts)
    for place in range(len(parts) - 2, -1, -1):
        if parts[place] == "images":
            parts[place] = "labels"
            break
    label = Path(*parts).with_suffix(".txt")
    return label if label.parent.is_dir() else picture.with_suffix(".txt")


def _strays(labels: dict[Path, Path]) -> Iterator[Path]:
    """Yield label files that no picture in their picture folders has, listed or not."""
    folders: dict[Path, set[Path]] = {}
    for label, picture in labels.items():
        folders.setdefault(label.parent, set()).add(picture.parent)
    for folder, places in sorted(folders.items()):
        stems = {path.stem for place in places if place.is_dir() for path in _in(place)}
        for path in sorted(folder.glob("*.txt")):
            known = path in labels or path.stem in stems or path.name in _CLASS_FILES
            if not known:
                yield path


def _in(folder: Path) -> Iterator[Path]:
    return (path for path in folder.iterdir() if path.suffix.lower() in PICTURE_SUFFIXES)


def _pictures(entries: Sequence[Path], origin: Path) -> list[Path]:
    pictures: list[Path] = []
    for entry in entries:
        if entry.is_dir():
            pictures += files_below(entry, PICTURE_SUFFIXES)
        elif entry.is_file() and entry.suffix == ".txt":
            lines = entry.read_text(encoding="utf-8").split("\n")
            pictures += [entry.parent / line.strip() for line in lines if line.strip()]
        else:
            raise DataError(f"{origin}: {entry} is no folder or list of pictures; correct the path")
    if not pictures:
        raise DataError(f"{origin}: no pictures in {', '.join(map(str, entries))}")
    return list(dict.fromkeys(pictures))


def _manifest_path(path: Path) -> Path | None:
    if path.is_dir():
        return path / "data.yaml" if (path / "data.yaml").is_file() else None
    return path


def _manifest(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"{path} is not a readable YAML file ({reason}); correct it") from None
    if not isinstance(content, dict):
        raise DataError(f"{path} is not a YOLO data.yaml; it needs the keys train and names")
    return content


def _names(content: dict[str, Any], path: Path) -> tuple[str, ...]:
    names = content.get("names")
    if isinstance(names, dict) and sorted(names) == list(range(len(names))) and names:
        names = [names[code] for code in range(len(names))]
    if not isinstance(names, list) or not names:
        raise DataError(f"{path} needs names: a list of classes, or numbers from 0 with names")
    return tuple(str(name) for name in names)


def _entries(content: dict[str, Any], path: Path, split: str) -> list[Path]:
    value = content.get(split)
    if not value:
        raise DataError(f"{path} has no key '{split}'; name its folder of pictures")
    root = path.parent / str(content.get("path") or "")
    return [_entry(root, str(entry)) for entry in (value if isinstance(value, list) else [value])]


def _entry(root: Path, entry: str) -> Path:
    """Return a folder or list of pictures.

    Exports of Roboflow say ``../train/images`` and mean ``train/images`` beside ``data.yaml``;
    ultralytics reads them as here.
    """
    inner = root / entry.removeprefix("../")
    return inner if inner.exists() and not (root / entry).exists() else root / entry


def _picture_folder(path: Path) -> Path:
    return path / "images" if (path / "images").is_dir() else path


def _class_file(folder: Path) -> tuple[str, ...]:
    for name in _CLASS_FILES:
        if (folder / name).is_file():
            lines = (folder / name).read_text(encoding="utf-8").split("\n")
            return tuple(line.strip() for line in lines if line.strip())
    return ()
