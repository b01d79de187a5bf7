"""Look at a site's data before anybody asks for it; everything stays on the site's screen."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fl_client.policy.site import SiteConfig, read_site, site_from_json
from fl_client.site_job import SiteJob
from fl_common.errors import ConfigError, DataError, FedleagueError
from tasks.contract import DrawsPreviews


@dataclass(frozen=True)
class SiteReport:
    """What a site's operator wants to know."""

    name: str
    num_train: int
    num_holdout: int
    notes: tuple[str, ...]
    num_validation: int = 0


def check_site(site: SiteConfig, job_text: str) -> SiteReport:
    """Read a site's data for a job, as a run would.

    Raises
    ------
    DataError, SchemaError, PolicyError
        What a run would stop at, with the site's name in front.
    """
    try:
        data = SiteJob.open(site, job_text).data
    except FedleagueError as error:
        raise type(error)(f"site '{site.name}': {error}") from error
    return SiteReport(
        site.name, data.num_train, data.num_holdout, tuple(data.notes), data.num_validation
    )


def check_site_file(path: Path, job_text: str, preview: Path | None = None) -> SiteReport:
    """Check the site that a ``site.yaml`` describes.

    Parameters
    ----------
    preview : Path or None
        Where to draw the site's own pictures with their labels, for its operator only.

    Raises
    ------
    ConfigError
        If a preview is asked of a task without pictures.
    """
    site = read_site(path)
    report = check_site(site, job_text)
    if preview is not None:
        _draw(site, job_text, preview)
    return report


def _draw(site: SiteConfig, job_text: str, path: Path) -> None:
    job = SiteJob.open(site, job_text)
    if not isinstance(job.task, DrawsPreviews):
        raise ConfigError(f"--preview: the task '{job.job.task}' has no pictures to draw")
    job.task.preview(job.data, path)


def check_simulated(sites: list[str], job_text: str) -> list[SiteReport]:
    """Check every site of a simulation before its first message."""
    found = [site_from_json(text) for text in sites]
    for site in found:
        source = site.source
        for file in (source.train, source.holdout, source.validation):
            if file and not file.startswith("dataset:") and not Path(file).exists():
                raise DataError(
                    f"site '{site.name}': {file} does not exist; correct the path in data.sites"
                )
    return [check_site(site, job_text) for site in found]
