"""Where a simulation's sites get their rows: files of one's own, or one table that is cut."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, model_validator

from fl_common.errors import ConfigError
from fl_common.validation import Count, Fraction, Positive, Text, Whole, checked
from tasks.contract import DataSource, Partition

DEFAULT_SITES = 4
"""Into how many sites a named table is cut where nothing is said."""

Name = Annotated[Text, BeforeValidator(lambda v: str(v) if type(v) in (int, float) else v)]


@checked("partition")
class PartitionConfig:
    """How one table is cut (config group ``partition``)."""

    kind: Text = "iid"
    seed: Whole = 0
    alpha: Positive = 0.5
    column: Text | None = None


@checked("data")
class DataConfig:
    """The sites of a simulation.

    Parameters
    ----------
    dataset : str or None
        A table by name, which is cut into ``num_sites``.
    sites : tuple of DataSource
        Files of one's own, in YAML a path or the keys of ``data`` in ``site.yaml``. Several are a
        site each; a single one is cut where ``num_sites`` is given.
    """

    dataset: Text | None = None
    num_sites: Count | None = None
    names: tuple[Name, ...] | None = None
    sites: tuple[DataSource, ...] = ()
    holdout_fraction: Fraction = 0.2
    validation_fraction: Fraction | None = None
    split_seed: Whole = 0
    on_invalid: Literal["refuse", "drop"] | None = None

    @model_validator(mode="before")
    @classmethod
    def _whole_sites(cls, raw: Any) -> Any:
        """Give each file its name and what is said for all of them."""
        given = raw.kwargs if hasattr(raw, "kwargs") else raw
        if not isinstance(given, Mapping) or not isinstance(given.get("sites"), list | tuple):
            return raw
        keys = ("holdout_fraction", "validation_fraction", "on_invalid")
        shared = {key: given[key] for key in keys if given.get(key) is not None}
        return {**given, "sites": [_whole_site(site, shared) for site in given["sites"]]}


def _whole_site(entry: Any, shared: Mapping[str, Any]) -> Any:
    if isinstance(entry, DataSource):
        return entry
    if isinstance(entry, str) and entry.strip():
        entry = {"train": entry}
    if not isinstance(entry, Mapping) or not isinstance(entry.get("train"), str):
        raise ConfigError(f"data.sites: {entry!r} is neither a file nor {{name: ..., train: ...}}")
    return {**shared, "name": Path(entry["train"]).stem, **entry}


def simulated_sources(
    data: DataConfig, partition: PartitionConfig, given: Collection[str] = ()
) -> tuple[DataSource, ...]:
    """Describe each simulated site.

    Parameters
    ----------
    given : collection of str
        Keys of the command line. What a use case says of its own table does not count for files
        that were named in its place; what the user says must have an effect.

    Raises
    ------
    ConfigError
        If there is no data, or what is said of the sites does not fit together.
    """
    own = bool(data.sites)
    if not own and data.dataset is None:
        raise ConfigError("no data: give data.sites=[a.csv,b.csv] or data.dataset=NAME")
    if own and data.dataset and {"data.sites", "data.dataset"} <= set(given):
        raise ConfigError("data.sites and data.dataset are both given; leave one of them out")

    def meant(key: str) -> bool:
        return not own or data.dataset is None or f"data.{key}" in given

    count = data.num_sites if meant("num_sites") else None
    names = data.names if meant("names") else None
    if own and len(data.sites) > 1:
        _check_several(data, count, given)
        sources = data.sites
    elif own and count is None:
        if _is_given("partition", given):
            raise ConfigError("partition cuts one table into sites; say how many: data.num_sites=5")
        sources = data.sites
    else:
        table = data.sites[0] if own else _table(data)
        sources = _cut(table, partition, count or (len(names) if names else DEFAULT_SITES))
    if names is not None:
        if len(names) != len(sources):
            what = f"data.num_sites={len(sources)}" if count else f"{len(sources)} files"
            raise ConfigError(f"data.names has {len(names)} names for {what}")
        sources = tuple(
            replace(source, name=name) for source, name in zip(sources, names, strict=True)
        )
    _check_names(sources, "sites" if own and names is None else "names")
    for source in sources:
        _check_files(source)
    return sources


def meant_data(raw: Mapping[str, Any], given: Collection[str]) -> dict[str, Any]:
    """Return ``data`` without what a use case says of the table that one's own files replace.

    So that the run's folder, which knows no command line, gives the same sites again.
    """
    if not raw.get("sites") or not raw.get("dataset"):
        return dict(raw)
    own = {key: raw.get(key) if f"data.{key}" in given else None for key in ("num_sites", "names")}
    return {**raw, **own, "dataset": None}


def site_entry(source: DataSource) -> dict[str, Any]:
    """Return a site in the keys of ``site.yaml``."""
    given = {key: value for key, value in asdict(source).items() if value is not None}
    if source.partition is not None:
        given["partition"] = {k: v for k, v in given["partition"].items() if v is not None}
    return {"name": given.pop("name"), "data": given}


def _is_given(group: str, given: Collection[str]) -> bool:
    return any(key.partition(".")[0] == group for key in given)


def _table(data: DataConfig) -> DataSource:
    return DataSource(
        name=str(data.dataset),
        train=f"dataset:{data.dataset}",
        holdout_fraction=data.holdout_fraction,
        validation_fraction=data.validation_fraction,
        on_invalid=data.on_invalid,
    )


def _cut(table: DataSource, partition: PartitionConfig, count: int) -> tuple[DataSource, ...]:
    if table.partition is not None:
        raise ConfigError(
            f"data.sites: '{table.name}' has a partition of its own; leave out data.num_sites"
        )
    parts = [Partition(num_sites=count, index=i, **asdict(partition)) for i in range(count)]
    return tuple(replace(table, name=f"site_{p.index}", partition=p) for p in parts)


def _check_several(data: DataConfig, count: int | None, given: Collection[str]) -> None:
    if count is not None or _is_given("partition", given):
        key = "data.num_sites" if count is not None else "partition"
        raise ConfigError(
            f"{key} cuts one table into sites, and data.sites names {len(data.sites)} files, each "
            f"a site of its own; leave out {key}, or give one file"
        )


def _check_names(sources: Collection[DataSource], key: str) -> None:
    counted = Counter(source.name for source in sources)
    repeated = [name for name, times in counted.items() if times > 1]
    if repeated:
        raise ConfigError(
            f"data.{key}: two sites are called '{repeated[0]}'; "
            "give them different names, as data.sites=[{name: a, train: FILE}, ...]"
        )


def _check_files(source: DataSource) -> None:
    """Refuse to score on the rows that were trained on."""
    seen: dict[Path, str] = {}
    for key in ("train", "holdout", "validation"):
        file = getattr(source, key)
        if file is None:
            continue
        path = Path(file).resolve()
        if path in seen:
            raise ConfigError(
                f"site '{source.name}': {seen[path]} and {key} are the same file, {file}; its "
                f"scores would be on rows that were used before; leave out {key}: a part of the "
                "rows is then set aside"
            )
        seen[path] = key
