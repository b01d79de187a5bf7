"""Look at a site's data before anybody asks for it; everything stays on the site's screen."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fl_client import runner
from fl_client.site import SiteConfig, read_site, site_from_json
from tasks.errors import FedleagueError


@dataclass(frozen=True)
class SiteReport:
    """What a site's operator wants to know."""

    name: str
    num_train: int
    num_holdout: int
    notes: tuple[str, ...]


def check_site(site: SiteConfig, job_text: str) -> SiteReport:
    """Read a site's data for a job, as a run would.

    Raises
    ------
    DataError, SchemaError, PolicyError
        What a run would stop at, with the site's name in front.
    """
    try:
        data = runner.open_data(site, job_text)
    except FedleagueError as error:
        raise type(error)(f"site '{site.name}': {error}") from error
    return SiteReport(site.name, data.num_train, data.num_holdout, tuple(data.notes))


def check_site_file(path: Path, job_text: str) -> SiteReport:
    """Check the site that a ``site.yaml`` describes."""
    return check_site(read_site(path), job_text)


def check_simulated(sites: list[str], job_text: str) -> list[SiteReport]:
    """Check every site of a simulation before its first message."""
    return [check_site(site_from_json(text), job_text) for text in sites]
