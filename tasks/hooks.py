"""What a task may offer beyond ``contract.Task``; each is used where a task has it.

Beside these methods, three values may be set on a task: ``counts_per_row`` (how much one held-out
row may add to a count of an evaluation; 1 where absent), ``trains_privately`` (local DP-SGD) and
``calibrates_logits`` (``LocalObjective.calibration``), both false where absent.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol, runtime_checkable

from tasks.contract import Model, ModelSpec, SiteData, TrainConfig


@runtime_checkable
class ChecksChoices(Protocol):
    """Checks what only the task understands, before any site is asked."""

    def check(self, spec: ModelSpec, config: TrainConfig) -> None:
        """Raise ConfigError on a model, optimiser or loss that does not exist or fit."""


@runtime_checkable
class StartsFromFile(Protocol):
    """Starts from weights of the organiser's that are not a whole model of ours."""

    def start(self, model: Model, spec: ModelSpec) -> None:
        """Load what ``spec`` names into ``model``; called by the server only."""


@runtime_checkable
class AddsTrees(Protocol):
    """Trains models that grow by trees."""

    def new_trees(self, spec: ModelSpec) -> int:
        """Return how many trees a site adds in a round; 0 for a model of another kind."""


@runtime_checkable
class DrawsPreviews(Protocol):
    """Draws a site's own rows, for the site's operator only."""

    def preview(self, data: SiteData, path: Path) -> Path:
        """Write a contact sheet to the PNG file ``path`` and return it."""


@runtime_checkable
class ExportsSites(Protocol):
    """Writes a named data set's site as files, to be deployed."""

    def export(self, data: SiteData, folder: Path) -> dict[str, str]:
        """Write train and holdout below ``folder``; return their places, as in ``site.yaml``."""
