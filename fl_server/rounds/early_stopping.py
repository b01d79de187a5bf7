"""Whether rounds can be chosen between, and when a run stops early: both by validation rows only.

Which round is chosen is ``results.scoring.final_round``'s to say. The holdout takes no part: the
best of many scores on the rows that are scored is too good.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Protocol

from fl_common.errors import ConfigError
from fl_server.config.run_config import EarlyStopping, RunConfig
from fl_server.config.usecase import ScoreRule
from fl_server.results.records import RoundRecord
from strategies.privacy.modes import SecureAggregation

log = logging.getLogger("fedleague.server")


class HasValidation(Protocol):
    """A site that has joined, or whose data was read."""

    @property
    def num_validation(self) -> int:
        """Number of its rows that choose."""


def can_choose(sites: Iterable[HasValidation], config: RunConfig) -> bool:
    """Say whether the sites' validation rows can choose between rounds.

    The sites that have some choose; one that has none takes part in everything else. A masked sum
    needs as many of them as of any sites.

    Raises
    ------
    ConfigError
        If the run is to stop early, which nothing else may decide.
    """
    able = sum(site.num_validation > 0 for site in sites)
    privacy = config.privacy
    wanted = privacy.min_sites if isinstance(privacy, SecureAggregation) else 1
    if able >= wanted:
        return True
    found = "no site has any" if not able else f"{able} of {wanted} sites have any"
    if config.early_stopping.patience is not None:
        raise ConfigError(
            f"early_stopping.patience is judged on validation rows, and {found}: give "
            "data.validation_fraction=0.2 (a deployed site in its site.yaml), or leave it out"
        )
    if able:
        log.warning("a masked sum over validation rows is too small, and %s: none is taken", found)
    return False


def should_stop(records: Sequence[RoundRecord], stopping: EarlyStopping, rule: ScoreRule) -> bool:
    """Say whether the best validation score is ``patience`` rounds old.

    A round without one (the metric is absent on these rows) is no better than any other.
    """
    judged = [record for record in records if record.validation_score is not None]
    if stopping.patience is None or not judged:
        return False
    best = judged[0]
    for record in judged[1:]:
        if rule.is_better(record.validation_score, best.validation_score, stopping.min_delta):
            best = record
    return records[-1].round - best.round >= stopping.patience
