"""Federated preprocessing in one exchange: the pooled table's scaler, medians and vocabularies.

The result equals scikit-learn fitted on all sites' training rows: ``StandardScaler`` (present
values only) and ``SimpleImputer(strategy="mean")``.
"""

from __future__ import annotations

import json
import logging
from hashlib import sha256
from typing import Any

import numpy as np

from fl_common.errors import SchemaError
from fl_common.words import quoted
from tasks.contract import Fitted
from tasks.stats import Stats
from tasks.tabular.moments import (
    finalise_moments,
    histogram_median,
    moment_stats,
    value_histogram,
)
from tasks.tabular.rows import Rows
from tasks.tabular.schema import TabularSchema, matches

log = logging.getLogger(__name__)


def fit_rows(rows: Rows, schema: TabularSchema, min_group_size: int) -> Stats:
    """Return the summands from which preprocessing is fitted.

    Returns
    -------
    Stats
        ``sites``, ``rows``; ``columns/[names]`` = 1; ``numeric/<digest>/{count,sum,squares}`` and,
        for medians, ``histogram``; ``category/<column>/value/<text>``, ``.../other`` and
        ``.../missing``; ``class_counts`` (c,), or ``target/{count,sum,squares}``.

    Notes
    -----
    Privacy: leaving are the names of columns, counts and sums. A category, or "missing", held by
    fewer than ``min_group_size`` rows joins "other", and an "other" that is still smaller is not
    sent. A numeric column with fewer values than that, in a site that has more rows, counts as
    empty. Class counts and the target's sums are exact.
    """
    names = [*rows.numeric_names, *rows.categorical_names]
    parts = {"sites": np.array(1), "rows": np.array(len(rows)), _columns_key(names): np.array(1)}
    stats = Stats(parts)
    if rows.numeric_names:
        stats = stats.merge(_numeric_stats(rows, schema, min_group_size))
    stats = stats.merge(_category_stats(rows, min_group_size))
    if schema.classes:
        counts = np.bincount(rows.target, minlength=len(schema.classes))
        return stats.merge(Stats({"class_counts": counts}))
    return stats.merge(moment_stats(rows.target[:, None]).under("target"))


def prepare(stats: Stats, schema: TabularSchema) -> Fitted:
    """Finalise preprocessing from the pooled summands.

    Returns
    -------
    dict
        JSON values: ``columns`` in order; ``numeric`` (mean, scale, median, count) and
        ``categorical`` (levels, counts, other, missing) by column; ``classes`` and
        ``class_counts``, or ``target`` (mean, scale); ``num_sites``, ``num_rows`` and the
        schema's ``imputation``, ``scaler``, ``one_hot`` and ``target_scaling``.

    Raises
    ------
    SchemaError
        If sites have different columns, a column has no value at any site, one class only is
        present, or a feature block is empty.
    """
    sites = _number(stats, "sites")
    if not sites:
        raise SchemaError("no site sent statistics; wait for sites or lower the quorum")
    columns = sorted(_agreed_columns(stats), key=schema.rank)
    _check_blocks(columns, schema)
    numeric = [column for column in columns if not schema.is_categorical(column)]
    categorical = [column for column in columns if schema.is_categorical(column)]
    fitted: dict[str, Any] = {
        "num_sites": sites,
        "num_rows": _number(stats, "rows"),
        "imputation": schema.imputation,
        "scaler": schema.scaler,
        "one_hot": schema.one_hot,
        "columns": columns,
        "numeric": _numeric(stats, numeric, schema) if numeric else {},
        "categorical": {c: _vocabulary(stats, c, schema) for c in categorical},
    }
    if schema.classes:
        return fitted | _classes(stats, schema)
    target = finalise_moments(stats.below("target"))[0]
    return fitted | {
        "target": {"mean": target.mean, "scale": target.scale},
        "target_scaling": schema.target_scaling,
    }


def _numeric_stats(rows: Rows, schema: TabularSchema, min_group_size: int) -> Stats:
    values = rows.numeric
    present = (~np.isnan(values)).sum(axis=0)
    few = present < min(min_group_size, len(rows))
    if few.any():
        values = np.where(few, np.nan, values)
    stats = moment_stats(values)
    if schema.imputation == "median":
        stats = stats.merge(Stats({"histogram": value_histogram(values)}))
    return stats.under(_numeric_key(rows.numeric_names))


def _category_stats(rows: Rows, min_group_size: int) -> Stats:
    arrays: dict[str, Any] = {}
    for j, column in enumerate(rows.categorical_names):
        levels = rows.levels[j]
        counts = np.bincount(rows.codes[:, j] + 1, minlength=len(levels) + 1).tolist()
        named = {"missing": counts[0]}
        named |= {f"value/{_escape(text)}": n for text, n in zip(levels, counts[1:], strict=True)}
        kept = {name: n for name, n in named.items() if n >= max(1, min_group_size)}
        other = len(rows) - sum(kept.values())
        kept |= {"other": other} if other >= max(1, min_group_size) else {}
        arrays |= {f"category/{_escape(column)}/{name}": np.array(n) for name, n in kept.items()}
    return Stats(arrays)


def _agreed_columns(stats: Stats) -> list[str]:
    """Return the columns, which must be those of every site."""
    sites = _number(stats, "sites")
    sets = {
        tuple(json.loads(name.removeprefix("columns/"))): _number(stats, name)
        for name in stats
        if name.startswith("columns/")
    }
    held: dict[str, int] = {}
    for names, count in sets.items():
        held |= {name: held.get(name, 0) + count for name in names}
    partial = {name: count for name, count in held.items() if count < sites}
    if partial:
        listed = ", ".join(f"'{c}' ({n} of {sites} sites)" for c, n in sorted(partial.items())[:8])
        more = f" and {len(partial) - 8} more" if len(partial) > 8 else ""
        raise SchemaError(
            f"sites have different columns: {listed}{more}; add them where they are missing, or "
            "list the common ones in usecase.columns"
        )
    return list(held)


def _check_blocks(columns: list[str], schema: TabularSchema) -> None:
    for name, patterns in schema.feature_blocks:
        if not any(matches(column, patterns) for column in columns):
            raise SchemaError(
                f"usecase.feature_blocks.{name} matches no feature column; "
                f"the columns are {quoted(columns)}"
            )


def _numeric(stats: Stats, columns: list[str], schema: TabularSchema) -> dict[str, Any]:
    pooled = stats.below(_numeric_key(columns))
    fitted: dict[str, Any] = {}
    for j, (column, moments) in enumerate(zip(columns, finalise_moments(pooled), strict=True)):
        if not moments.count:
            raise _no_value(column)
        fitted[column] = {"mean": moments.mean, "scale": moments.scale, "count": moments.count}
        if schema.imputation == "median":
            fitted[column]["median"] = histogram_median(pooled["histogram"][j], moments)
    return fitted


def _vocabulary(stats: Stats, column: str, schema: TabularSchema) -> dict[str, Any]:
    pooled = stats.below(f"category/{_escape(column)}")
    found = pooled.below("value")
    values = {_unescape(name): _number(found, name) for name in found}
    other, missing = _number(pooled, "other"), _number(pooled, "missing")
    declared = dict(schema.categories).get(column)
    if declared is None and not values and not other and missing:
        raise _no_value(column)
    if declared is None and not values and other:  # a warning, as fl-server shows no lesser line
        log.warning(
            "column '%s' tells rows nothing: no value is held by enough rows of a site, so each "
            "counts as 'other'; leave it out with usecase.exclude=[%s], or name its values in "
            "usecase.categories",
            column,
            column,
        )
    levels = sorted(values) if declared is None else list(declared)
    return {
        "levels": levels,
        "counts": [values.get(level, 0) for level in levels],
        "other": other + sum(n for level, n in values.items() if level not in levels),
        "missing": missing,
    }


def _classes(stats: Stats, schema: TabularSchema) -> dict[str, Any]:
    counts = stats["class_counts"].tolist()
    present = [label for label, n in zip(schema.classes, counts, strict=True) if n]
    if len(present) < 2:
        raise SchemaError(
            f"the pooled training rows have one class only ({quoted(present)}); "
            "add sites or rows with another class"
        )
    return {"classes": list(schema.classes), "class_counts": counts}


def _number(stats: Stats, name: str) -> int:
    return int(np.sum(stats.get(name, np.array(0))))  # the wire may turn shape () into (1,)


def _no_value(column: str) -> SchemaError:
    return SchemaError(
        f"column '{column}' has no value at any site; add it to usecase.exclude or supply values"
    )


def _columns_key(names: list[str]) -> str:
    return f"columns/{json.dumps(sorted(names), ensure_ascii=False, separators=(',', ':'))}"


def _numeric_key(names: list[str] | tuple[str, ...]) -> str:
    # keyed by the columns, so that sites with others cannot be added to the wrong ones
    return f"numeric/{sha256(json.dumps(list(names)).encode()).hexdigest()[:12]}"


def _escape(text: str) -> str:
    return text.replace("%", "%25").replace("/", "%2F")


def _unescape(text: str) -> str:
    return text.replace("%2F", "/").replace("%25", "%")
