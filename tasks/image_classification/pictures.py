"""Read labelled pictures from a folder, a CSV manifest or an ``.npz`` file, unchecked.

=====================  =============================================================================
given                  what is read
=====================  =============================================================================
a folder               one sub-folder for each class; with ``train/`` in it, training pictures are
                       read from there and held out are those of ``test/`` or else ``val/``
``x.csv``              columns ``data_id`` and ``label``; a picture is looked for beside the file,
                       in ``images/`` and in ``x/``, its ending may be left out; other columns
                       are groups (``partition.column``, ``usecase.subgroups``)
``x.npz``              ``images`` and ``labels``; or MedMNIST's ``train_*`` and ``val_*``, with
                       ``test_*`` held out
=====================  =============================================================================
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from fl_common.errors import DataError, SchemaError
from fl_common.words import canonical, suggest
from tasks.contract import HOLDOUT, TRAIN
from tasks.image_classification.schema import ImageSchema
from tasks.images.arrays import ArrayImage, npz_names, picture_rows, read_npz_array
from tasks.images.image_refs import FileImage, ImageRef
from tasks.images.issues import ImageIssues
from tasks.sites.folders import PICTURE_SUFFIXES, files_below

_PARTS = {TRAIN: ("train", "val"), HOLDOUT: ("test",)}


@dataclass(frozen=True)
class RawPicture:
    """A picture as a site's files name it.

    Parameters
    ----------
    name : str
        What identifies it in predictions (``data_id``).
    label : str or None
        Canonical text; None where there is none.
    """

    image: ImageRef
    name: str
    label: str | None = None
    groups: Mapping[str, str] = field(default_factory=dict)


def read_pictures(
    path: Path, schema: ImageSchema, issues: ImageIssues, split: str, *, labelled: bool = True
) -> Iterator[RawPicture]:
    """Yield the pictures of a source; without labels if ``labelled`` is false.

    Raises
    ------
    DataError, SchemaError
        If the source as a whole cannot be read, naming the cure.
    """
    suffix = path.suffix.lower()
    if not path.exists():
        raise DataError(f"{path} does not exist; correct the path")
    if path.is_dir():
        return _folder(path, schema, split, labelled=labelled)
    if suffix == ".csv":
        return _manifest(path, schema, issues, labelled=labelled)
    if suffix == ".npz":
        return _npz(path, schema, split, labelled=labelled)
    if suffix in PICTURE_SUFFIXES and not labelled:
        return iter([RawPicture(FileImage(path, schema.max_pixels), path.name)])
    raise DataError(
        f"{path} is no set of pictures; give a folder with a sub-folder for each class, a CSV of "
        f"{schema.id_column},{schema.label_column}, or an .npz file"
    )


def has_holdout(path: Path, schema: ImageSchema) -> bool:
    """Say whether a source names its own held-out pictures."""
    if path.is_dir():
        return _split_folder(path, schema, HOLDOUT) is not None
    if path.suffix.lower() == ".npz" and path.is_file() and schema.images_key is None:
        names = npz_names(path)
        return "images" not in names and "test_images" in names
    return False


def _split_folder(path: Path, schema: ImageSchema, split: str) -> Path | None:
    """Return the sub-folder of a split; None where the folder is not split."""
    if "train" in schema.class_index or not (path / "train").is_dir():
        return None
    names = ("train",) if split == TRAIN else ("test", "val")
    return next((path / name for name in names if (path / name).is_dir()), None)


def _folder(path: Path, schema: ImageSchema, split: str, *, labelled: bool) -> Iterator[RawPicture]:
    root = (_split_folder(path, schema, split) or path) if labelled else path
    for file in files_below(root, PICTURE_SUFFIXES):
        place = file.relative_to(root)
        label = canonical(place.parts[0]) if len(place.parts) > 1 else None
        yield RawPicture(FileImage(file, schema.max_pixels), place.as_posix(), label)


def _manifest(
    path: Path, schema: ImageSchema, issues: ImageIssues, *, labelled: bool
) -> Iterator[RawPicture]:
    try:
        frame = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except (ValueError, OSError, pd.errors.ParserError) as error:
        raise DataError(f"{path} cannot be read as CSV: {error}") from None
    columns = list(frame.columns)
    for column in (schema.id_column, schema.label_column)[: 2 if labelled else 1]:
        if column not in columns:
            raise SchemaError(
                f"{path}, row 1: column '{column}' is missing{suggest(column, columns)}"
            )
    special = {schema.id_column, schema.label_column}
    seen: set[str] = set()
    files: set[Path] = set()
    for number, row in enumerate(frame.to_dict("records"), start=2):
        name = str(row[schema.id_column]).strip()
        if not name or name in seen:
            kind = "duplicate_name" if name else "bad_label"
            issues.add(kind, path, f"row {number}: {schema.id_column} '{name}'")
            continue
        seen.add(name)
        groups = {str(k): canonical(v) for k, v in row.items() if k not in special}
        label = canonical(row.get(schema.label_column, "")) or None
        file = _located(path, name)
        files.add(file)
        yield RawPicture(FileImage(file, schema.max_pixels), name, label, groups)
    for folder in sorted({file.parent for file in files}):
        for file in sorted(folder.iterdir() if folder.is_dir() else ()):
            if file.suffix.lower() in PICTURE_SUFFIXES and file not in files:
                issues.add("unlisted", file)


def _located(manifest: Path, name: str) -> Path:
    """Return the picture's file, or where it was expected."""
    folders = (manifest.parent, manifest.parent / "images", manifest.parent / manifest.stem)
    endings = (
        ("", *sorted(PICTURE_SUFFIXES))
        if Path(name).suffix.lower() not in PICTURE_SUFFIXES
        else ("",)
    )
    places = (folder / f"{name}{ending}" for folder in folders for ending in endings)
    return next((place for place in places if place.is_file()), manifest.parent / name)


def _npz(path: Path, schema: ImageSchema, split: str, *, labelled: bool) -> Iterator[RawPicture]:
    known = npz_names(path)
    every = _npz_keys(path, known, schema, _PARTS[TRAIN] + _PARTS[HOLDOUT])
    wanted = _npz_keys(path, known, schema, _PARTS[split]) if labelled else every
    texts = {key: _npz_labels(path, key) for _, key in every if key in known} if labelled else {}
    names = class_names({text for part in texts.values() for text in part}, schema)
    for images_key, labels_key in wanted:
        pixels = picture_rows(read_npz_array(path, images_key), f"{path}: '{images_key}'")
        labels: list[str | None] = [None] * len(pixels)
        if labelled:
            own = texts.get(labels_key) or _npz_labels(path, labels_key)
            labels = [names.get(text, text) for text in own]
        if len(labels) != len(pixels):
            raise DataError(f"{path}: '{labels_key}' holds {len(labels)} labels, not {len(pixels)}")
        prefix = "" if images_key in ("images", schema.images_key) else f"{images_key}/"
        for index, label in enumerate(labels):
            image = ArrayImage(f"{path}:{images_key}", index, pixels)
            yield RawPicture(image, f"{prefix}{index}", label)


def _npz_keys(
    path: Path, known: Sequence[str], schema: ImageSchema, parts: Sequence[str]
) -> list[tuple[str, str]]:
    if schema.images_key is not None or "images" in known:
        pairs = [(schema.images_key or "images", schema.labels_key or "labels")]
    else:
        pairs = [(f"{part}_images", f"{part}_labels") for part in parts]
        pairs = [pair for pair in pairs if pair[0] in known]
    if not pairs or pairs[0][0] not in known:
        raise SchemaError(
            f"{path} holds the arrays {', '.join(known) or 'none'}; name them by "
            "usecase.images_key and usecase.labels_key"
        )
    return pairs


def _npz_labels(path: Path, key: str) -> list[str]:
    return [canonical(value) for value in read_npz_array(path, key).reshape(-1).tolist()]


def class_names(labels: Collection[str], schema: ImageSchema) -> Mapping[str, str]:
    """Return the class that a label stands for, where it is not its name.

    Whole numbers count classes from 0 if no label can only be a name, as the 3 of the classes
    1, 2, 3, and some can only be a number, as a 0.
    """
    places = {str(i): canonical(name) for i, name in enumerate(schema.classes)}
    distinct, names = set(labels), schema.class_index.keys()
    only_names, only_places = distinct & names - places.keys(), distinct & places.keys() - names
    return places if only_places and not only_names else {}
