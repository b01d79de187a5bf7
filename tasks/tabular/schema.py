"""What a use case declares about its table: columns, classes, subgroups, blocks."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Any

from fl_common.errors import ConfigError, SchemaError
from fl_common.words import canonical, suggest

DEFAULT_MISSING = ("", "?", "NA", "NaN", "nan", "null")
Named = tuple[tuple[str, tuple[str, ...]], ...]


@dataclass(frozen=True)
class Subgroup:
    """Rows that are also scored on their own.

    Parameters
    ----------
    label : str or None
        Rows of this class.
    column : str or None
        Rows whose value in this column is one of ``values``, or within ``low`` to ``high``
        (both inclusive). The column need not be a feature; a missing value is in no subgroup.
    """

    name: str
    label: str | None = None
    column: str | None = None
    values: tuple[str, ...] | None = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class TabularSchema:
    """A use case's table, the same for every site.

    Parameters
    ----------
    target : str
        Column to predict.
    columns : tuple of str or None
        Feature columns, by name or ``fnmatch`` pattern; ``None`` (``all``) takes every column
        but the target and ``exclude``.
    exclude, categorical : tuple of str
        Names or patterns. A column is numeric unless it is listed as categorical.
    categories : pairs of column and values
        Declared vocabularies; other columns take theirs from the pooled data.
    classes : tuple of str
        Classes in their order (classification). A value is compared as text, where ``1``,
        ``1.0`` and ``true`` are the same.
    feature_blocks : pairs of name and patterns
        Feature groups that are scored one at a time.
    missing_values : tuple of str
        Texts that mean "no value"; the empty text always does.
    imputation : {"mean", "median"}
    scaler : {"standard", "per_site", "none"}
        Numbers standardised by the pooled mean and standard deviation; or every model input,
        one-hot ones too, by those of the site's own training rows, which do not leave it; or
        as they are.
    one_hot : {"all", "drop_first"}
        ``drop_first``: no input for a category's first level, nor for values outside the
        vocabulary, which then look like the first level.
    drop_incomplete : bool
        Leave out rows with a missing value in a feature column instead of imputing it.
        Predictions still impute: every row gets one.
    split : {"stratified", "sklearn"}
        How a site without a holdout file is split (``tasks.sites.splits``).
    target_scaling : bool
        Train on the standardised target (regression).
    attributions : bool
        Compute mean |gradient x input| per column when evaluating; costs a backward pass.
    """

    target: str
    columns: tuple[str, ...] | None = None
    exclude: tuple[str, ...] = ()
    categorical: tuple[str, ...] = ()
    categories: Named = ()
    classes: tuple[str, ...] = ()
    subgroups: tuple[Subgroup, ...] = ()
    feature_blocks: Named = ()
    missing_values: tuple[str, ...] = DEFAULT_MISSING
    imputation: str = "mean"
    scaler: str = "standard"
    one_hot: str = "all"
    drop_incomplete: bool = False
    split: str = "stratified"
    target_scaling: bool = True
    attributions: bool = True

    @classmethod
    def from_mapping(cls, schema: Mapping[str, Any], *, classification: bool) -> TabularSchema:
        """Check and freeze the plain values of a use case's ``schema``.

        Raises
        ------
        ConfigError
            If a key is unknown, missing, of the wrong type, or does not fit the task.
        """
        allowed = _CLASSIFICATION_KEYS if classification else _REGRESSION_KEYS
        for key in schema:
            if key not in allowed:
                raise ConfigError(f"usecase schema has no key '{key}'{suggest(str(key), allowed)}")
        if not isinstance(schema.get("target"), str) or not schema["target"]:
            raise ConfigError("usecase.target is missing; name the column to predict")
        given: dict[str, Any] = {"target": schema["target"]}
        readers = {
            "exclude": _texts,
            "categorical": _texts,
            "missing_values": _missing,
            "imputation": _one_of("mean", "median"),
            "scaler": _one_of("standard", "per_site", "none"),
            "one_hot": _one_of("all", "drop_first"),
            "drop_incomplete": _flag,
            "split": _one_of("stratified", "sklearn"),
            "target_scaling": _flag,
            "attributions": _flag,
            "feature_blocks": _named,
            "categories": _vocabularies,
            "classes": _classes,
        }
        given |= {k: read(k, schema[k]) for k, read in readers.items() if schema.get(k) is not None}
        if schema.get("columns", "all") not in ("all", ["all"], None):
            given["columns"] = _texts("columns", schema["columns"])
        if classification and "classes" not in given:
            raise ConfigError("usecase.classes is missing; list the classes in their order")
        given["subgroups"] = _subgroups(schema.get("subgroups") or {}, given.get("classes", ()))
        return cls(**given)

    @cached_property
    def class_index(self) -> dict[str, int]:
        """Class number by canonical text."""
        return {canonical(label): i for i, label in enumerate(self.classes)}

    def features(self, available: Sequence[str], origin: str) -> list[str]:
        """Return the feature columns of a file, in the order of the schema, then by name.

        Raises
        ------
        SchemaError
            If a listed column is not in the file, or none is left.
        """
        free = [c for c in available if c != self.target and not matches(c, self.exclude)]
        for key, wanted in (("columns", self.columns or ()), ("categorical", self.categorical)):
            for entry in wanted:
                if not any(matches(column, (entry,)) for column in available):
                    raise SchemaError(
                        f"{origin}, row 1: column '{entry}' of usecase.{key} is missing"
                        f"{suggest(entry, free)}"
                    )
        if self.columns is not None:
            free = [column for column in free if matches(column, self.columns)]
        if not free:
            raise SchemaError(f"{origin}, row 1: no feature column is left beside '{self.target}'")
        return sorted(free, key=self.rank)

    def rank(self, column: str) -> tuple[int, str]:
        """Return the sort key of a column: its entry in ``columns``, then its name."""
        entries = self.columns or ()
        places = (i for i, entry in enumerate(entries) if matches(column, (entry,)))
        return next(places, len(entries)), column

    def is_categorical(self, column: str) -> bool:
        """Say whether a feature column is one-hot encoded."""
        return matches(column, self.categorical) or column in dict(self.categories)


def matches(column: str, patterns: Sequence[str]) -> bool:
    """Say whether a column equals, or is matched by, one of ``patterns``."""
    return any(column == pattern or fnmatchcase(column, pattern) for pattern in patterns)


_COMMON_KEYS = (
    *("target", "columns", "exclude", "categorical", "categories", "subgroups"),
    *("feature_blocks", "missing_values", "imputation", "scaler", "attributions"),
    *("one_hot", "drop_incomplete", "split"),
)
_CLASSIFICATION_KEYS = (*_COMMON_KEYS, "classes")
_REGRESSION_KEYS = (*_COMMON_KEYS, "target_scaling")


def _texts(key: str, value: Any) -> tuple[str, ...]:
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise ConfigError(f"usecase.{key} is {value!r}; expected a list of texts")
    return tuple(item if isinstance(item, str) else canonical(item) for item in value)


def _missing(key: str, value: Any) -> tuple[str, ...]:
    return tuple(dict.fromkeys(("", *_texts(key, value))))


def _classes(key: str, value: Any) -> tuple[str, ...]:
    labels = _texts(key, value)
    if len(labels) < 2 or len({canonical(label) for label in labels}) < len(labels):
        raise ConfigError(f"usecase.{key} is {value!r}; expected at least two different classes")
    return labels


def _named(key: str, value: Any) -> Named:
    if not isinstance(value, Mapping):
        raise ConfigError(f"usecase.{key} is {value!r}; expected a mapping of names to lists")
    return tuple((_scope_name(key, n), _texts(f"{key}.{n}", v)) for n, v in value.items())


def _vocabularies(key: str, value: Any) -> Named:
    if not isinstance(value, Mapping):
        raise ConfigError(f"usecase.{key} is {value!r}; expected a mapping of columns to lists")
    return tuple(
        (str(column), tuple(dict.fromkeys(canonical(v) for v in _texts(f"{key}.{column}", values))))
        for column, values in value.items()
    )


def _one_of(*options: str) -> Any:
    def read(key: str, value: Any) -> str:
        if value not in options:
            raise ConfigError(f"usecase.{key} is {value!r}{suggest(str(value), options)}")
        return str(value)

    return read


def _flag(key: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise ConfigError(f"usecase.{key} is {value!r}; expected true or false")
    return value


def _scope_name(key: str, name: Any) -> str:
    if not isinstance(name, str) or not name or "/" in name:
        raise ConfigError(f"usecase.{key} has the name {name!r}; expected a text without '/'")
    return name


def _subgroups(value: Any, classes: Sequence[str]) -> tuple[Subgroup, ...]:
    if not isinstance(value, Mapping):
        raise ConfigError(f"usecase.subgroups is {value!r}; expected a mapping of names to rules")
    return tuple(_subgroup(_scope_name("subgroups", n), r, classes) for n, r in value.items())


def _subgroup(name: str, rule: Any, classes: Sequence[str]) -> Subgroup:
    where = f"usecase.subgroups.{name}"
    keys = set(rule) if isinstance(rule, Mapping) else set()
    if keys == {"class"} and classes:
        known = {canonical(label): label for label in classes}
        label = canonical(rule["class"])
        if label not in known:
            raise ConfigError(f"{where}: class '{label}' does not exist{suggest(label, classes)}")
        return Subgroup(name, label=known[label])
    if keys == {"column", "values"}:
        texts = _texts(f"subgroups.{name}.values", rule["values"])
        return Subgroup(name, column=str(rule["column"]), values=tuple(map(canonical, texts)))
    if {"column"} < keys <= {"column", "min", "max"}:
        try:
            low, high = (None if rule.get(k) is None else float(rule[k]) for k in ("min", "max"))
        except (TypeError, ValueError):
            raise ConfigError(f"{where}: min and max must be numbers") from None
        return Subgroup(name, column=str(rule["column"]), low=low, high=high)
    shown = json.dumps(rule, default=str)
    raise ConfigError(
        f"{where} is {shown}; expected {{class: X}}, {{column: C, values: [...]}} "
        "or {column: C, min: A, max: B}"
    )
