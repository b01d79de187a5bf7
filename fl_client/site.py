"""The site's own file: where its data is, and what may be asked of it.

``site.yaml``::

    name: clinic_a
    data:
      train: data/train.csv        # CSV or Parquet, relative to this file
      holdout: null                # or a second file
      holdout_fraction: 0.2        # without one, this part of the rows is held out
      split_seed: null             # pins the split; null: the run's
    policy:
      min_rows: 5                  # refuse to answer from fewer training or holdout rows
      min_group_size: 5            # rarer categories are folded into `other` before they leave
      tasks: null                  # null: any; or a list of names
      models: null
      strategies: null
      weights_may_leave: true      # false: evaluate only
      custom_code: false           # client halves that are not part of fedleague
      max_local_epochs: 100
      max_local_steps: 100000
    audit: audit.jsonl             # append-only log of everything asked and sent
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from strategies.messages import Job
from tasks.contract import DataSource, Partition
from tasks.errors import ConfigError, PolicyError


@dataclass(frozen=True)
class Policy:
    """What the site allows; nothing that a server sends can widen it."""

    min_rows: int = 5
    min_group_size: int = 5
    tasks: tuple[str, ...] | None = None
    models: tuple[str, ...] | None = None
    strategies: tuple[str, ...] | None = None
    weights_may_leave: bool = True
    custom_code: bool = False
    max_local_epochs: int = 100
    max_local_steps: int = 100_000

    def check(self, job: Job) -> None:
        """Refuse a job that asks for more than the site allows.

        Raises
        ------
        PolicyError
            Naming the policy key.
        """
        asked = (("tasks", job.task), ("models", job.model.name), ("strategies", job.strategy))
        for key, value in asked:
            allowed: tuple[str, ...] | None = getattr(self, key)
            if allowed is not None and value not in allowed:
                raise PolicyError(f"policy.{key} allows {list(allowed)}, the server asks '{value}'")
        if job.train.local_epochs > self.max_local_epochs:
            raise PolicyError(
                f"policy.max_local_epochs is {self.max_local_epochs}, "
                f"the server asks {job.train.local_epochs}"
            )
        if (job.train.local_steps or 0) > self.max_local_steps:
            raise PolicyError(
                f"policy.max_local_steps is {self.max_local_steps}, "
                f"the server asks {job.train.local_steps}"
            )

    def check_rows(self, what: str, num_rows: int) -> None:
        """Refuse to answer from too few rows."""
        if num_rows < self.min_rows:
            raise PolicyError(f"policy.min_rows is {self.min_rows}, the {what} has {num_rows} rows")


@dataclass(frozen=True)
class SiteConfig:
    """One site: its data, its policy, its audit log."""

    source: DataSource
    policy: Policy = field(default_factory=Policy)
    audit: Path | None = None
    location: str | None = None

    @property
    def name(self) -> str:
        """The site's name."""
        return self.source.name


def read_site(path: Path) -> SiteConfig:
    """Read ``site.yaml``; relative paths are relative to it.

    Raises
    ------
    ConfigError
        Naming the file, the key and the cure.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; give site=PATH/site.yaml") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None
    try:
        raw = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: expected keys name, data, policy; see `fl-client --help`")
    return site_from_mapping(raw, str(path), path.resolve().parent)


@lru_cache(maxsize=4096)
def site_from_json(text: str) -> SiteConfig:
    """Parse a site that a simulation describes inline."""
    return site_from_mapping(json.loads(text), "simulated site", Path.cwd())


def site_from_mapping(raw: Mapping[str, Any], origin: str, folder: Path) -> SiteConfig:
    """Build a site from plain values.

    Raises
    ------
    ConfigError
        On a missing or unknown key, naming ``origin`` and the key.
    """
    _known(raw, {"name", "data", "policy", "audit", "location"}, origin, "")
    name = raw.get("name")
    if not isinstance(name, str) or not name.strip():
        raise ConfigError(f"{origin}: key 'name' is missing; write name: my_site")
    data = raw.get("data")
    if not isinstance(data, dict) or not data.get("train"):
        raise ConfigError(f"{origin}: key 'data.train' is missing; write the path of a CSV file")
    _known(data, {f.name for f in fields(DataSource)} - {"name"}, origin, "data.")
    policy = dict(raw.get("policy") or {})
    _known(policy, {f.name for f in fields(Policy)}, origin, "policy.")
    for key in ("tasks", "models", "strategies"):
        if policy.get(key) is not None:
            policy[key] = tuple(policy[key])
    source = DataSource(name=name, **{k: v for k, v in data.items() if k != "partition"})
    if not 0 < source.holdout_fraction < 1:
        raise ConfigError(f"{origin}: data.holdout_fraction must be between 0 and 1")
    source = replace(
        source,
        train=_located(source.train, folder),
        holdout=_located(source.holdout, folder) if source.holdout else None,
        partition=Partition(**data["partition"]) if data.get("partition") else None,
    )
    audit = folder / raw["audit"] if raw.get("audit") else None
    return SiteConfig(source, Policy(**policy), audit, raw.get("location"))


def _located(path: str, folder: Path) -> str:
    return path if path.startswith("dataset:") else str(folder / path)


def _known(raw: Mapping[str, Any], allowed: set[str], origin: str, prefix: str) -> None:
    for key in raw:
        if key not in allowed:
            near = get_close_matches(str(key), allowed, n=1)
            hint = f"did you mean '{prefix}{near[0]}'?" if near else f"known: {sorted(allowed)}"
            raise ConfigError(f"{origin}: unknown key '{prefix}{key}'; {hint}")
