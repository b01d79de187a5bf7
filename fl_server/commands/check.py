"""``fedleague check``: a site's own look at its data and policy, before it joins."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path

from fl_server.commands.usecases import job_of

CHECK = "fl_client.data_check:check_site_file"
"""By reference: the server package never imports the client."""


def check_site(
    site: Path, usecase: str, overrides: list[str], preview: Path | None
) -> Iterator[str]:
    """Check a ``site.yaml`` against a use case; yield what to tell its operator.

    Raises
    ------
    FedleagueError
        Whatever does not fit, with its place and the cure.
    """
    module, _, function = CHECK.partition(":")
    check = getattr(importlib.import_module(module), function)
    report = check(site, job_of(usecase, overrides).to_json(), preview)
    choosing = f"{report.num_validation} to choose by, " if report.num_validation else ""
    yield (
        f"site '{report.name}' fits '{usecase}': {report.num_train} training rows, "
        f"{choosing}{report.num_holdout} held out"
    )
    yield from (f"  note: {note}" for note in report.notes)
    if preview is not None:
        yield f"  pictures: {preview}"
