"""When a run stops early: pure functions of the rounds so far."""

from __future__ import annotations

from collections.abc import Sequence

from fl_server.config.run_config import EarlyStopping
from fl_server.config.usecase import ScoreRule
from fl_server.results.records import RoundRecord


def should_stop(records: Sequence[RoundRecord], stopping: EarlyStopping, rule: ScoreRule) -> bool:
    """Say whether the best score is ``patience`` rounds old."""
    if stopping.patience is None or not records:
        return False
    best = records[0]
    for record in records[1:]:
        if rule.is_better(record.score, best.score, stopping.min_delta):
            best = record
    return records[-1].round - best.round >= stopping.patience
