"""The site's own file: where its data is, and what may be asked of it.

``site.yaml``::

    name: clinic_a
    data:
      train: data/train.csv        # CSV, Parquet or pictures, relative to this file
      holdout: null                # or a second file
      holdout_fraction: 0.2        # without one, this part of the rows is held out
      validation: null             # or a file whose rows choose between rounds, never score
      validation_fraction: null    # without one, this part of the rows that are not held out
      split_seed: null             # pins the split; null: the run's
      on_invalid: null             # bad pictures and labels: refuse or drop; null: the use case's
    policy:
      min_rows: 5                  # refuse to answer from fewer rows in any split
      min_group_size: 5            # rarer categories are folded into `other` before they leave
      min_subgroup_rows: 5         # a subgroup's sums leave only if it, and the rest, has as many
      tasks: null                  # null: any; or a list of names
      models: null
      strategies: null
      weights_may_leave: true      # false: evaluate only
      custom_code: false           # models and client updates that are not part of fedleague
      plugins: []                  # installed packages that may add strategies, tasks, models ...
      max_local_epochs: 100
      max_local_steps: 100000
      epsilon_budget: null         # what private training may spend, over all runs, at
      epsilon_delta: 1.0e-5        #   this delta; with a budget, no other training is done
      secure_aggregation: false    # true: results leave only masked, as part of a sum
      secagg_min_sites: 3          # of at least this many sites
    audit: null                    # audit.jsonl: append-only log of everything asked and sent
    privacy_budget: null           # what was spent of it; null: epsilon.json, beside this
    memory: memory                 # folder of what strategies remember here; null: no files
    location: null                 # where the site is, for its own records

Every key but ``name`` and ``data.train`` may be left out; shown are the values it then has.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import yaml

from fl_client.policy.policy import Policy
from fl_common.errors import ConfigError
from fl_common.validation import FrozenModel, Text, keys_of, validated
from tasks.contract import HOLDOUT, TRAIN, VALIDATION, DataSource, Partition

FILES = (TRAIN, VALIDATION, HOLDOUT)
"""Keys of ``data`` that name a file or a folder."""


class SiteFile(FrozenModel):
    """The keys of ``site.yaml``."""

    renamed: ClassVar[Mapping[str, str]] = {"ledger": "privacy_budget"}

    name: Text
    data: DataSource
    policy: Policy
    audit: Text | None = None
    privacy_budget: Text | None = None
    memory: Text | None = None
    location: Text | None = None


@dataclass(frozen=True)
class SiteConfig:
    """One site: its data, its policy, the files that it keeps."""

    source: DataSource
    policy: Policy = field(default_factory=Policy)
    audit: Path | None = None
    privacy_budget: Path | None = None
    memory: Path | None = None
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
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: expected keys name, data, policy; see `fl-client --help`")
    folder = path.resolve().parent
    site = site_from_mapping({"memory": "memory", **raw}, str(path), folder)
    if site.policy.epsilon_budget is None or site.privacy_budget is not None:
        return site
    return replace(site, privacy_budget=folder / "epsilon.json")


def site_from_json(text: str) -> SiteConfig:
    """Parse a site that a simulation describes inline; paths are relative to the working folder."""
    return _site_from_json(text, os.getcwd())


@lru_cache(maxsize=4096)
def _site_from_json(text: str, folder: str) -> SiteConfig:
    try:
        raw = json.loads(text)
    except ValueError:
        raw = None
    if not isinstance(raw, dict):
        raise ConfigError("simulated site: not a JSON object; start it with fl-server")
    return site_from_mapping(raw, "simulated site", Path(folder))


def site_from_mapping(raw: Mapping[str, Any], origin: str, folder: Path) -> SiteConfig:
    """Build a site from plain values.

    Raises
    ------
    ConfigError
        On a missing, unknown or wrong key, naming ``origin`` and the key.
    """
    file = validated(SiteFile, _plain(raw, origin), origin)
    located: dict[str, Any] = {
        key: _located(path, folder) for key in FILES if (path := getattr(file.data, key))
    }
    return SiteConfig(
        source=replace(file.data, **located),
        policy=file.policy,
        audit=folder / file.audit if file.audit else None,
        privacy_budget=folder / file.privacy_budget if file.privacy_budget else None,
        memory=folder / file.memory if file.memory else None,
        location=file.location,
    )


def _plain(raw: Mapping[str, Any], origin: str) -> dict[str, Any]:
    """Bring the keys into the form of ``SiteFile``: null means the default, data has the name."""
    given = dict(raw)
    data = _without_nulls(DataSource, {} if given.get("data") is None else given["data"])
    if isinstance(data, dict):
        if "name" in data:
            known = sorted({*keys_of(DataSource)} - {"name"})
            raise ConfigError(
                f"{origin}: unknown key 'data.name'; the name stands above data; known: {known}"
            )
        # A wrong name is told once, as ``name``.
        named = isinstance(given.get("name"), str) and given["name"].strip()
        data["name"] = given["name"] if named else "site"
        if data.get("partition"):
            data["partition"] = _without_nulls(Partition, data["partition"])
        elif data.get("partition") == {}:
            del data["partition"]
    given["data"] = data
    policy = given.get("policy")
    given["policy"] = {} if policy is None else _without_nulls(Policy, policy)
    return given


def _without_nulls(kind: type[Any], section: Any) -> Any:
    """Drop the keys whose value is null; an unknown key stays, to be told."""
    if not isinstance(section, Mapping):
        return section
    known = keys_of(kind)
    return {k: v for k, v in section.items() if v is not None or k not in known}


def _located(path: str, folder: Path) -> str:
    return path if path.startswith("dataset:") else str(folder / path)
