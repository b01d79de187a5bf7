"""Scopes and attributions: a split's rows seen whole, by subgroup and by feature block."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from tasks.scores import BLOCKS, OVERALL, SUBGROUPS, ScoreCard, Scores
from tasks.stats import Stats
from tasks.tabular.data import TabularData
from tasks.tabular.encode import Encoder
from tasks.tabular.schema import TabularSchema

CHUNK_ROWS = 2**15
RowStats = Callable[[NDArray[Any], NDArray[Any]], Stats]
"""(targets (n,), outputs (n, k)) -> metric summands."""


class Scorer(Protocol):
    """What evaluation asks of a model: a network or trees."""

    @property
    def encoder(self) -> Encoder:
        """Its preprocessing."""

    def outputs(self, inputs: torch.Tensor) -> NDArray[np.float32]:
        """Return logits or predictions for (n, d) inputs, shape (n, k), float32."""

    def attributions(self, inputs: torch.Tensor) -> NDArray[np.float64]:
        """Sum over rows how much each feature moved the prediction, shape (d,), >= 0."""


def outputs(model: Scorer, inputs: torch.Tensor) -> NDArray[np.float32]:
    """Return the model's outputs for (n, d) inputs, shape (n, k), float32."""
    return np.concatenate([model.outputs(chunk) for chunk in torch.split(inputs, CHUNK_ROWS)])


def evaluate_scopes(
    model: Scorer, data: TabularData, split: str, schema: TabularSchema, row_stats: RowStats
) -> Stats:
    """Return a split's metric summands of every scope, and the attributions' sums.

    A subgroup without rows here adds nothing. A block keeps its own features and sets every other
    one to its global mean (one-hot: frequency).

    Notes
    -----
    Privacy: leaving are the summands of ``row_stats`` per scope, however few rows it has here,
    and per column one sum of |gradient x input| (trees: |TreeSHAP|).
    """
    encoder = model.encoder
    inputs = data.tensors(encoder, split).inputs
    rows = data.split(split)
    targets = rows.target
    whole = outputs(model, inputs)
    stats = row_stats(targets, whole).under(OVERALL)
    for g, group in enumerate(schema.subgroups):
        member = rows.groups[:, g]
        if member.any():
            part = row_stats(targets[member], whole[member])
            stats = stats.merge(part.under(f"{SUBGROUPS}/{group.name}"))
    baseline = torch.from_numpy(encoder.baseline)
    for name, patterns in schema.feature_blocks:
        kept = torch.where(torch.from_numpy(encoder.keep(patterns)), inputs, baseline)
        stats = stats.merge(row_stats(targets, outputs(model, kept)).under(f"{BLOCKS}/{name}"))
    if schema.attributions:
        stats = stats.merge(_attributions(model, inputs).under("attributions"))
    return stats


def empty_scopes(rows: Stats, schema: TabularSchema, num_columns: int) -> Stats:
    """Return all-zero summands of every scope, given those of one scope without rows."""
    empty = rows.under(OVERALL)
    for group in schema.subgroups:
        empty = empty.merge(rows.under(f"{SUBGROUPS}/{group.name}"))
    for name, _ in schema.feature_blocks:
        empty = empty.merge(rows.under(f"{BLOCKS}/{name}"))
    if schema.attributions:
        sums = Stats({"sum": np.zeros(num_columns), "rows": np.array(0)})
        empty = empty.merge(sums.under("attributions"))
    return empty


def score_card(
    stats: Stats, schema: TabularSchema, columns: list[str], finalise: Callable[[Stats], Scores]
) -> ScoreCard:
    """Finalise every declared scope; a subgroup without pooled rows has absent metrics only."""
    found = stats.below("attributions")
    rows = int(np.sum(found.get("rows", np.array(0))))
    return ScoreCard(
        overall=finalise(stats.below(OVERALL)),
        subgroups={
            g.name: finalise(stats.below(f"{SUBGROUPS}/{g.name}")) for g in schema.subgroups
        },
        blocks={n: finalise(stats.below(f"{BLOCKS}/{n}")) for n, _ in schema.feature_blocks},
        attributions=dict(zip(columns, (found["sum"] / rows).tolist(), strict=True))
        if rows
        else {},
    )


def _attributions(model: Scorer, inputs: torch.Tensor) -> Stats:
    """Sum per column how much its features moved the predictions."""
    total = np.zeros(inputs.shape[1])
    for chunk in torch.split(inputs, CHUNK_ROWS):
        total += model.attributions(chunk)
    columns = np.zeros(len(model.encoder.columns))
    np.add.at(columns, model.encoder.feature_columns, total)
    return Stats({"sum": columns, "rows": np.array(len(inputs))})
