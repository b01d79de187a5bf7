"""Records as the columns of the tables: cleaned text, finite numbers, plain JSON."""

from __future__ import annotations

import hashlib
import json
import re
from datetime import UTC, datetime
from typing import Any

from fl_server.config.usecase import UseCaseInfo
from fl_server.leaderboard.views import clean_text, finite, json_safe
from fl_server.results.columns import values_of
from fl_server.results.evaluation import fingerprint_of
from fl_server.results.records import RoundRecord, RunInfo, SubmissionInfo
from tasks.scores import Scores

STRATEGY = "strategy"
"""The scope of a strategy's own numbers."""
_SECRET_NAME = re.compile(r"passw|secret|token|api_?key|private_?key|credential", re.IGNORECASE)
_URL_PASSWORD = re.compile(r"(\w://[^/\s:@]*:)[^/\s@]+@")


def usecase_values(info: UseCaseInfo, evaluation: dict[str, Any] | None) -> dict[str, Any]:
    """Return the columns of a ``UseCase``."""
    now = datetime.now(UTC)
    return {
        "slug": clean_text(info.slug),
        "title": clean_text(info.title),
        "description": clean_text(info.description),
        "task": clean_text(info.task),
        "score_name": clean_text(info.score.name),
        "score_direction": info.score.direction,
        "extra_columns": json_safe(info.extra_columns),
        "evaluation": json_safe(evaluation),
        "created_at": now,
        "updated_at": now,
    }


def submission_values(info: SubmissionInfo, usecase_id: int) -> dict[str, Any]:
    """Return the columns of a ``Submission``; equal entries have an equal fingerprint."""
    identity = json_safe([info.team, info.model, info.params, info.claimed])
    return {
        "usecase_id": usecase_id,
        "fingerprint": hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest(),
        "team": clean_text(info.team),
        "model": clean_text(info.model),
        "params": json_safe(info.params),
        "claimed": finite(info.claimed),
        "num_parameters": None if info.num_parameters is None else int(info.num_parameters),
        "created_at": datetime.now(UTC),
    }


def customised(info: RunInfo, kept: dict[str, Any]) -> list[str]:
    """Name what a run's use case changes of the one that the leaderboard keeps.

    Other words for the same are no change where nobody gave them for this run alone: the use case
    as shipped may have been reworded since.
    """
    mine = usecase_values(info.usecase, None)
    fields = {"task": ("task",), "score": ("score_name", "score_direction")}
    if info.shipped is None or info.shipped.info != info.usecase:
        fields |= {name: (name,) for name in ("title", "description", "extra_columns")}
    return [name for name, keys in fields.items() if any(mine[key] != kept[key] for key in keys)]


def run_values(
    info: RunInfo, usecase_id: int, submission_id: int, custom: list[str]
) -> dict[str, Any]:
    """Return the columns of a ``Run`` that starts or continues now."""
    now = datetime.now(UTC)
    evaluation = json_safe(info.evaluation) or None
    return {
        "key": clean_text(info.key),
        "usecase_id": usecase_id,
        "submission_id": submission_id,
        "score_name": clean_text(info.usecase.score.name),
        "score_direction": info.usecase.score.direction,
        "evaluation": evaluation,
        "evaluation_fingerprint": fingerprint_of(evaluation) if evaluation else None,
        "custom": custom,
        "strategy": clean_text(info.strategy),
        "runtime": clean_text(info.runtime),
        "seed": int(info.seed),
        "num_rounds": int(info.num_rounds),
        "config": _without_secrets(json_safe(info.config)),
        "status": "running",
        "reason": "",
        "num_rounds_done": 0,
        "started_at": now,
        "updated_at": now,
        "last_sign_at": now,
        "finished_at": None,
    }


def round_values(record: RoundRecord) -> dict[str, Any]:
    """Return the columns of a ``Round``, without its run."""
    sites = {site.site for site in record.sites}
    failed = {site.site for site in record.sites if site.status != "ok"}
    return {
        "round": int(record.round),
        "phase": record.phase,
        "status": record.status,
        "reason": clean_text(record.reason),
        "score": finite(record.score),
        "train_loss": finite(record.train_loss),
        "seconds": finite(record.seconds) or 0.0,
        "bytes_up": int(record.bytes_up),
        "bytes_down": int(record.bytes_down),
        "num_sites": len(sites),
        "num_sites_ok": len(sites - failed),
        **{name: finite(value) for name, value in values_of(record).items()},
        "arrays": {
            clean_text(scope): json_safe(scores.arrays)
            for scope, scores in record.card.scopes().items()
            if scores.arrays
        },
        "attributions": json_safe(record.card.attributions),
        "recorded_at": datetime.now(UTC),
    }


def metric_values(record: RoundRecord, round_id: int) -> list[dict[str, Any]]:
    """Return the columns of every ``Metric``; a value that is not finite becomes a reason.

    The strategy's own numbers are a scope beside the score card's.
    """
    rows: list[dict[str, Any]] = []
    own = {STRATEGY: Scores(dict(record.strategy_metrics))}
    for scope, scores in (record.card.scopes() | own).items():
        reasons: dict[str, str] = {name: why or "absent" for name, why in scores.absent.items()}
        for name, number in scores.values.items():
            value = finite(number)
            reason = None if value is not None else reasons.get(name, f"not finite ({number})")
            rows.append(_metric(round_id, scope, name, value, reason, scores.bounds.get(name)))
        for name in reasons.keys() - scores.values.keys():
            rows.append(_metric(round_id, scope, name, None, reasons[name], None))
    return rows


def site_values(
    record: RoundRecord, round_id: int, site_ids: dict[str, int]
) -> list[dict[str, Any]]:
    """Return the columns of every ``SiteRow``; of two for one site and phase the last counts."""
    latest = {(clean_text(site.site), site.phase): site for site in record.sites}
    return [
        {
            "round_id": round_id,
            "site_id": site_ids[name],
            "phase": phase,
            "status": site.status,
            "reason": clean_text(site.reason),
            "num_examples": int(site.num_examples),
            "seconds": finite(site.seconds) or 0.0,
            "bytes_up": int(site.bytes_up),
            "bytes_down": int(site.bytes_down),
            "loss": finite(site.loss),
            **{name: finite(value) for name, value in values_of(site).items()},
        }
        for (name, phase), site in latest.items()
    ]


def _without_secrets(value: Any) -> Any:
    """Mask passwords and tokens: a run's configuration is shown to everyone."""
    if isinstance(value, dict):
        return {
            name: "***"
            if _SECRET_NAME.search(name) and isinstance(item, str)
            else _without_secrets(item)
            for name, item in value.items()
        }
    if isinstance(value, list):
        return [_without_secrets(item) for item in value]
    return _URL_PASSWORD.sub(r"\1***@", value) if isinstance(value, str) else value


def _metric(
    round_id: int,
    scope: str,
    name: str,
    value: float | None,
    absent: str | None,
    bound: float | None,
) -> dict[str, Any]:
    return {
        "round_id": round_id,
        "scope": clean_text(scope),
        "name": clean_text(name),
        "value": value,
        "absent": None if absent is None else clean_text(absent),
        "bound": finite(bound),
    }
