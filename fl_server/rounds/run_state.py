"""What a run has settled before its first round: the job that every message carries, the model."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from fl_server.config.run_config import RunConfig
from strategies.privacy.modes import SecureAggregation
from tasks.contract import Model
from tasks.stats import Stats


class RunState:
    """A run's job, and the model once the preprocessing is fitted.

    Attributes
    ----------
    job_text : str
        The job as every message carries it.
    model : Model or None
        The run's model, after ``set_model``.
    empty_stats : Stats or None
        All-zero metric summands: the names, shapes and dtypes that a reply may hold.
    """

    def __init__(self, config: RunConfig, client_update: str, run: str = "") -> None:
        self._job = config.job(
            strategy=client_update,
            compression=config.compression,
            secagg=isinstance(config.privacy, SecureAggregation),
            run=run or _new_name(),
        )
        self.job_text = self._job.to_json()
        self.model: Model | None = None
        self.empty_stats: Stats | None = None

    @property
    def run(self) -> str:
        """Under which name the sites remember the run."""
        return self._job.run

    @property
    def fitted(self) -> Mapping[str, Any]:
        """Finalised preprocessing; empty before ``set_fitted``."""
        return self._job.fitted or {}

    def set_fitted(self, fitted: Mapping[str, Any]) -> None:
        """Put the finalised preprocessing into the job."""
        self._change(fitted=fitted)

    def set_model(self, model: Model, empty_stats: Stats) -> None:
        """Name the model, and what its evaluation may send."""
        self.model, self.empty_stats = model, empty_stats

    def start_anew(self) -> None:
        """Give the run another name, under which no site remembers anything."""
        self._change(run=_new_name())

    def _change(self, **changes: Any) -> None:
        self._job = replace(self._job, **changes)
        self.job_text = self._job.to_json()


def _new_name() -> str:
    """Return a name that no other server can guess: it opens what the sites remember."""
    return secrets.token_hex(16)
