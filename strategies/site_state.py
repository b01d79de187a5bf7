"""What a client update keeps at its site between rounds."""

from __future__ import annotations

from typing import Protocol

from tasks.contract import Arrays

PRIVACY_BUDGET = "epsilon-ledger"
"""What private training has spent, in a site's memory: no failed round undoes it."""


class SiteState(Protocol):
    """Arrays that stay at the site between rounds (control variates, a personal head)."""

    def get(self, name: str) -> Arrays | None:
        """Return what ``put`` stored under ``name`` in an earlier round."""

    def put(self, name: str, arrays: Arrays) -> None:
        """Keep ``arrays`` at the site."""
