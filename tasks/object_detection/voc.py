"""Read Pascal VOC labels: one XML file for each picture.

The path is a folder with ``Annotations/`` and ``JPEGImages/`` (all of it), a list of names in its
``ImageSets/Main/`` (that part of it), or a folder of XML files beside their pictures. Coordinates
are taken as written; objects marked ``difficult`` or ``truncated`` are objects like any other.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from fl_common.errors import DataError
from tasks.images.image_refs import FileImage
from tasks.images.issues import ImageIssues
from tasks.images.read import MAX_PIXELS
from tasks.object_detection.annotations import RawImage
from tasks.sites.folders import PICTURE_SUFFIXES

_CORNERS = ("xmin", "ymin", "xmax", "ymax")


def is_voc(path: Path) -> bool:
    """Say whether a path looks like Pascal VOC data."""
    if path.suffix == ".txt" and path.is_file():
        return "ImageSets" in path.parts
    return path.is_dir() and ((path / "Annotations").is_dir() or any(path.glob("*.xml")))


def read_voc(path: Path, issues: ImageIssues, max_pixels: int = MAX_PIXELS) -> Iterator[RawImage]:
    """Yield every picture with its labels, in the order of the list or of the names.

    Raises
    ------
    DataError
        If there are no annotations.
    """
    root = _root(path)
    annotations = root / "Annotations" if (root / "Annotations").is_dir() else root
    folder = root / "JPEGImages" if (root / "JPEGImages").is_dir() else root
    listed = path.is_file()
    names = _listed(path) if listed else sorted(p.stem for p in annotations.glob("*.xml"))
    if not names:
        raise DataError(f"{path}: no annotations; expected XML files in {annotations}")
    pictures = _pictures(folder, issues)
    for name, count in Counter(names).items():
        if count > 1:
            issues.add("duplicate_name", path, f"'{name}' stands {count} times")
        raw = _raw(name, annotations / f"{name}.xml", folder, pictures, issues, max_pixels)
        if raw is not None:
            yield raw
    if not listed:
        for stem in sorted(pictures.keys() - set(names)):
            issues.add("image_without_label", pictures[stem])
            yield _unlabelled(pictures[stem], max_pixels)


def voc_pictures(path: Path) -> list[Path]:
    """Return the pictures of a list or a folder, without looking at labels."""
    root = _root(path)
    folder = root / "JPEGImages" if (root / "JPEGImages").is_dir() else root
    if not path.is_file():
        return sorted(p for p in folder.iterdir() if p.suffix.lower() in PICTURE_SUFFIXES)
    pictures = _pictures(folder, ImageIssues("drop"))
    return [pictures.get(name, folder / name) for name in dict.fromkeys(_listed(path))]


def _raw(
    name: str,
    label: Path,
    folder: Path,
    pictures: dict[str, Path],
    issues: ImageIssues,
    max_pixels: int,
) -> RawImage | None:
    picture = pictures.get(name)
    if not label.is_file():
        if picture is None:
            issues.add("missing", folder / name, "neither picture nor annotation")
            return None
        issues.add("image_without_label", picture)
        return _unlabelled(picture, max_pixels)
    tree = _parse(label)
    if tree is None:
        issues.add("bad_label", label, "is no XML without DOCTYPE")
        return None
    if picture is None:
        picture = folder / Path(tree.findtext("filename") or name).name
        if not picture.is_file():
            issues.add("label_without_image", label)
            return None
    objects = tree.findall("object")
    return RawImage(
        FileImage(picture, max_pixels),
        np.array([_corners(item) for item in objects], dtype=np.float64).reshape(-1, 4),
        tuple((item.findtext("name") or "").strip() for item in objects),
        tuple(f"object {number}" for number in range(1, len(objects) + 1)),
        str(label),
        size=_size(tree),
        groups={"folder": picture.parent.name},
    )


def _unlabelled(picture: Path, max_pixels: int) -> RawImage:
    image, groups = FileImage(picture, max_pixels), {"folder": picture.parent.name}
    return RawImage(image, np.zeros((0, 4)), (), (), str(picture), groups=groups)


def _parse(path: Path) -> ElementTree.Element | None:
    content = path.read_bytes()
    if b"<!DOCTYPE" in content or b"<!ENTITY" in content:
        return None  # entities can blow a small file up, and no annotation needs them
    try:
        return ElementTree.fromstring(content)  # noqa: S314
    except (ElementTree.ParseError, ValueError, LookupError):
        return None


def _corners(item: ElementTree.Element) -> list[float]:
    values = [item.findtext(f"bndbox/{key}") for key in _CORNERS]
    try:
        return [float(value) if value is not None else float("nan") for value in values]
    except ValueError:
        return [float("nan")] * 4


def _size(tree: ElementTree.Element) -> tuple[int, int] | None:
    try:
        width, height = int(tree.findtext("size/width", "")), int(tree.findtext("size/height", ""))
    except ValueError:
        return None
    return (width, height) if width > 0 and height > 0 else None  # some tools write 0 for unknown


def _root(path: Path) -> Path:
    if path.is_dir():
        return path
    parts = path.parts
    return Path(*parts[: len(parts) - 1 - parts[::-1].index("ImageSets")])


def _listed(path: Path) -> list[str]:
    """Read a list; a class's own list has -1, 0 or 1 behind each name, which is not used."""
    lines = path.read_text(encoding="utf-8").split("\n")
    return [line.split()[0] for line in lines if line.strip()]


def _pictures(folder: Path, issues: ImageIssues) -> dict[str, Path]:
    pictures: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in PICTURE_SUFFIXES and pictures.setdefault(path.stem, path) != path:
            issues.add("duplicate_name", path, f"shares its name with {pictures[path.stem].name}")
    return pictures
