"""The use case's one number: look it up in a score card, and compare two of them."""

from __future__ import annotations

from fl_server.config.usecase import ScoreRule
from tasks.contract import ScoreCard, Scores

OVERALL, SUBGROUPS, BLOCKS = "overall", "subgroups", "blocks"


def scopes(card: ScoreCard) -> dict[str, Scores]:
    """Return every scope by its path: ``overall``, ``subgroups/<name>``, ``blocks/<name>``."""
    named = {OVERALL: card.overall}
    named |= {f"{SUBGROUPS}/{name}": scores for name, scores in card.subgroups.items()}
    named |= {f"{BLOCKS}/{name}": scores for name, scores in card.blocks.items()}
    return named


def score_of(card: ScoreCard, rule: ScoreRule) -> tuple[float | None, str]:
    """Return the use case's score, or None with the reason why it is absent."""
    scope, _, name = rule.name.rpartition("/")
    scores = scopes(card).get(scope or OVERALL)
    if scores is None:
        return None, f"no scope '{scope}' was evaluated"
    if name in scores.values:
        return scores.values[name], ""
    return None, scores.absent.get(name, f"the task has no metric '{name}'")


def is_better(new: float | None, old: float | None, direction: str, margin: float = 0.0) -> bool:
    """Say whether ``new`` beats ``old`` by more than ``margin``; an absent score never does."""
    if new is None:
        return False
    if old is None:
        return True
    return merit(new, direction) > merit(old, direction) + margin


def merit(score: float, direction: str) -> float:
    """Map a score to a number of which more is better."""
    if direction == "min":
        return -score
    return -abs(score) if direction == "zero" else score
