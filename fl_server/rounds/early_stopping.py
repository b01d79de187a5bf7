"""When a run stops early: pure functions of the rounds so far."""

from __future__ import annotations

from collections.abc import Sequence

from fl_server.config.run_config import EarlyStopping
from fl_server.results.records import RoundRecord
from fl_server.results.scoring import is_better


def is_best(record: RoundRecord, earlier: Sequence[RoundRecord], direction: str) -> bool:
    """Say whether a round scored better than all before it."""
    return all(is_better(record.score, old.score, direction) for old in earlier)


def should_stop(records: Sequence[RoundRecord], stopping: EarlyStopping, direction: str) -> bool:
    """Say whether the best score is ``patience`` rounds old."""
    if stopping.patience is None or not records:
        return False
    best = records[0]
    for record in records[1:]:
        if is_better(record.score, best.score, direction, stopping.min_delta):
            best = record
    return records[-1].round - best.round >= stopping.patience
