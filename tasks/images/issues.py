"""What is wrong with a site's pictures and labels: counted, named, then refused or dropped."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Protocol

from fl_common.errors import ConfigError, DataError
from tasks.contract import DataSource

POLICIES = ("refuse", "drop")
MAX_ISSUES = 1000
"""Issues kept with their details; further ones are counted."""
MAX_NAMED = 3

DESCRIPTIONS = {
    "missing": "images are missing",
    "zero_size": "images are empty",
    "unreadable": "images cannot be read",
    "truncated": "images are cut off or damaged",
    "too_large": "images have too many pixels",
    "unsupported": "images have pixels without a known scale",
    "sixteen_bit": "images have 16-bit pixels; reduced to 8 by their bit depth",
    "dim": "16-bit images use 12 bits or less, so that they are nearly black; set "
    "usecase.bit_depth=12, or multiply them by 16",
    "cmyk": "images are CMYK; converted to RGB",
    "palette": "images have a palette; converted to RGB",
    "alpha": "images have transparency; it is dropped",
    "animated": "images have several frames; the first is used",
    "exif_rotated": "images are rotated by their EXIF data; turned upright",
    "duplicate_name": "names stand twice",
    "two_labels": "images stand under two labels",
    "in_two_splits": "images are in two splits",
    "copy": "images are copies of another with the same label; both are used",
    "copy_held_out": "images have a copy that is held out; not used",
    "size_mismatch": "images differ in size from their annotation",
    "label_without_image": "labels have no image",
    "image_without_label": "images have no label file; taken as background",
    "unlisted": "images have no row in the manifest; not used",
    "not_in_json": "images are listed in no JSON file; not used",
    "background": "images hold no object",
    "bad_label": "labels cannot be parsed",
    "unknown_class": "objects are of a class that the use case does not have",
    "ignored_class": "objects are of a class that the use case ignores",
    "crowd": "crowd regions are left out",
    "box_not_finite": "boxes have a coordinate that is no number",
    "box_inverted": "boxes have swapped corners",
    "box_empty": "boxes have no area",
    "box_outside": "boxes are outside their image",
    "box_clipped": "boxes reach out of their image; cut at its edge",
    "duplicate_box": "boxes stand twice; one is kept",
    "mask_without_image": "masks have no image",
    "image_without_mask": "images have no mask",
    "mask_unreadable": "masks cannot be read",
    "mask_size": "masks differ in size from their image",
    "mask_rotated": "images are rotated by their EXIF data, which their mask has not",
    "mask_unknown_value": "masks have a value that is no class",
    "mask_empty": "masks label no pixel",
}
NEUTRAL = frozenset(
    (
        "sixteen_bit",
        "dim",
        "cmyk",
        "palette",
        "alpha",
        "animated",
        "exif_rotated",
        "image_without_label",
        "unlisted",
        "copy",
        "copy_held_out",
        "not_in_json",
        "background",
        "ignored_class",
        "crowd",
        "box_clipped",
        "duplicate_box",
    )
)
"""Kinds that are mended or mean nothing bad: noted under either policy, never refused."""


class HasPolicy(Protocol):
    """A use case's schema."""

    @property
    def on_invalid(self) -> str:
        """What a bad picture does to its site."""


def on_invalid(source: DataSource, schema: HasPolicy) -> str:
    """Return what a bad picture does here: the site's own word, or else the use case's."""
    return source.on_invalid or schema.on_invalid


@dataclass(frozen=True)
class Issue:
    """One finding.

    Parameters
    ----------
    kind : str
        A key of ``DESCRIPTIONS``.
    file : str
        The file that must be mended.
    detail : str
        Where in the file, and what was found.
    """

    kind: str
    file: str
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.file}: {self.detail}" if self.detail else self.file


@dataclass
class ImageIssues:
    """Collect a site's issues while its files are read.

    Parameters
    ----------
    on_invalid : {"refuse", "drop"}
        ``refuse``: one bad image, label or box stops the site, with the first of each kind named.
        ``drop``: it is left out, counted and noted. Kinds of ``NEUTRAL`` are noted either way.

    Raises
    ------
    ConfigError
        If ``on_invalid`` is neither.
    """

    on_invalid: str = "refuse"
    found: list[Issue] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        if self.on_invalid not in POLICIES:
            raise ConfigError(f"usecase.on_invalid is '{self.on_invalid}'; expected refuse or drop")

    def add(self, kind: str, file: object, detail: str = "") -> None:
        """Record one finding."""
        self.counts[kind] += 1
        if len(self.found) < MAX_ISSUES:
            self.found.append(Issue(kind, str(file), detail))

    @property
    def num_bad(self) -> int:
        """Number of findings that are refused or dropped."""
        return sum(count for kind, count in self.counts.items() if kind not in NEUTRAL)

    def check(self, origin: str) -> None:
        """Apply the policy after everything was read.

        Raises
        ------
        DataError
            Under ``refuse``, with counts by kind and the first file of each, if anything is bad.
        """
        if self.on_invalid == "drop" or not self.num_bad:
            return
        raise DataError(
            f"{origin}: {'; '.join(self._lines(bad=True))}; mend the files, or set "
            "data.on_invalid=drop (in site.yaml: on_invalid: drop, below data) to leave these out"
        )

    def notes(self) -> list[str]:
        """Return one line for each kind, for the site's operator; never leaves the site."""
        dropped = [f"left out: {line}" for line in self._lines(bad=True)]
        return dropped + self._lines(bad=False)

    def _lines(self, *, bad: bool) -> list[str]:
        lines = []
        for kind, count in self.counts.items():
            if (kind not in NEUTRAL) is not bad:
                continue
            named = [str(issue) for issue in self.found if issue.kind == kind][:MAX_NAMED]
            more = ", ..." if count > len(named) else ""
            lines.append(f"{count} {DESCRIPTIONS.get(kind, kind)} ({', '.join(named)}{more})")
        return lines
