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
    ledger: null                   # what was spent of the budget; null: epsilon.json, beside this
    memory: memory                 # folder of what strategies remember here; null: no files
    location: null                 # where the site is, for its own records

Every key but ``name`` and ``data.train`` may be left out; shown are the values it then has.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from fl_client.policy.policy import Policy
from fl_common.errors import ConfigError
from tasks.contract import HOLDOUT, TRAIN, VALIDATION, DataSource, Partition

FILES = (TRAIN, VALIDATION, HOLDOUT)
"""Keys of ``data`` that name a file or a folder."""


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
        On a missing or unknown key, naming ``origin`` and the key.
    """
    _known(raw, {"name", "data", "policy", "audit", "ledger", "memory", "location"}, origin, "")
    name = raw.get("name")
    if not isinstance(name, str) or not name.strip():
        raise ConfigError(f"{origin}: key 'name' is missing or no text; write name: my_site")
    data = _section(raw, "data", origin)
    if not isinstance(data.get("train"), str) or not data["train"].strip():
        raise ConfigError(f"{origin}: key 'data.train' is missing; write the path of a CSV file")
    return SiteConfig(
        source=_source(name, data, origin, folder),
        policy=Policy(**_values(Policy, _section(raw, "policy", origin), origin, "policy.")),
        audit=folder / _text(raw["audit"], origin, "audit") if raw.get("audit") else None,
        privacy_budget=folder / _text(raw["ledger"], origin, "ledger")
        if raw.get("ledger")
        else None,
        memory=folder / _text(raw["memory"], origin, "memory") if raw.get("memory") else None,
        location=_text(raw["location"], origin, "location") if raw.get("location") else None,
    )


def _source(name: str, data: dict[str, Any], origin: str, folder: Path) -> DataSource:
    _known(data, {f.name for f in fields(DataSource)} - {"name"}, origin, "data.")
    partition = _section(data, "partition", origin, "data.")
    given = _values(
        DataSource, {k: v for k, v in data.items() if k != "partition"}, origin, "data."
    )
    given |= {k: _located(given[k], folder) for k in FILES if given.get(k)}
    if partition:
        for key in ("kind", "num_sites", "index"):
            if partition.get(key) is None:
                raise ConfigError(f"{origin}: key 'data.partition.{key}' is missing")
        found = _values(Partition, partition, origin, "data.partition.")
        given["partition"] = Partition(**found)
    return DataSource(name=name, **given)


def _section(raw: Mapping[str, Any], key: str, origin: str, prefix: str = "") -> dict[str, Any]:
    """Return a nested mapping; empty where it is absent."""
    section = raw.get(key)
    if section is None:
        return {}
    if not isinstance(section, Mapping):
        raise ConfigError(f"{origin}: '{prefix}{key}' is {section!r}; expected keys below it")
    return dict(section)


def _values(kind: type[Any], raw: Mapping[str, Any], origin: str, prefix: str) -> dict[str, Any]:
    """Check every value against what its key may hold; null means the default."""
    _known(raw, {f.name for f in fields(kind)}, origin, prefix)
    checked = {}
    for key, value in raw.items():
        if value is not None:
            checked[key] = _CHECKS[key](value, origin, f"{prefix}{key}")
    return checked


def _whole(least: int) -> Callable[[Any, str, str], int]:
    def check(value: Any, origin: str, key: str) -> int:
        if type(value) is not int or value < least:
            raise ConfigError(f"{origin}: {key} is {value!r}; expected a whole number from {least}")
        return value

    return check


def _flag(value: Any, origin: str, key: str) -> bool:
    if not isinstance(value, bool):
        raise ConfigError(f"{origin}: {key} is {value!r}; expected true or false")
    return value


def _text(value: Any, origin: str, key: str) -> str:
    if not isinstance(value, str) or not value.strip() or "\0" in value:
        raise ConfigError(f"{origin}: {key} is {value!r}; expected a text")
    return value


def _names(value: Any, origin: str, key: str) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or not all(isinstance(v, str) for v in value):
        raise ConfigError(f"{origin}: {key} is {value!r}; expected a list of names, as [a, b]")
    return tuple(value)


def _share(value: Any, origin: str, key: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1:
        raise ConfigError(f"{origin}: {key} is {value!r}; it must be between 0 and 1")
    return float(value)


def _positive(value: Any, origin: str, key: str) -> float:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not 0 < value < math.inf:
        raise ConfigError(f"{origin}: {key} is {value!r}; expected a number above 0")
    return float(value)


def _bad(value: Any, origin: str, key: str) -> str:
    if value not in ("refuse", "drop"):
        raise ConfigError(f"{origin}: {key} is {value!r}; expected refuse or drop")
    return str(value)


_CHECKS: dict[str, Callable[[Any, str, str], Any]] = {
    "train": _text,
    "holdout": _text,
    "holdout_fraction": _share,
    "validation": _text,
    "validation_fraction": _share,
    "split_seed": _whole(0),
    "on_invalid": _bad,
    "kind": _text,
    "num_sites": _whole(1),
    "index": _whole(0),
    "seed": _whole(0),
    "alpha": _positive,
    "column": _text,
    "min_rows": _whole(1),
    "min_group_size": _whole(1),
    "min_subgroup_rows": _whole(1),
    "tasks": _names,
    "models": _names,
    "strategies": _names,
    "weights_may_leave": _flag,
    "custom_code": _flag,
    "plugins": _names,
    "max_local_epochs": _whole(1),
    "max_local_steps": _whole(1),
    "epsilon_budget": _positive,
    "epsilon_delta": _share,
    "secure_aggregation": _flag,
    "secagg_min_sites": _whole(3),
}


def _located(path: str, folder: Path) -> str:
    return path if path.startswith("dataset:") else str(folder / path)


def _known(raw: Mapping[str, Any], allowed: set[str], origin: str, prefix: str) -> None:
    for key in raw:
        if key not in allowed:
            near = get_close_matches(str(key), allowed, n=1)
            hint = f"did you mean '{prefix}{near[0]}'?" if near else f"known: {sorted(allowed)}"
            raise ConfigError(f"{origin}: unknown key '{prefix}{key}'; {hint}")
