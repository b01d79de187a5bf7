"""What a finished run leaves in its folder: scores, model and curve."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from fl_common.files import write_atomically
from fl_server.config.run_config import RunConfig
from fl_server.results.charts import score_curve_svg
from fl_server.results.columns import values_of
from fl_server.results.records import RoundRecord, RunOutcome
from fl_server.results.scoring import final_round
from tasks.scores import BLOCKS, OVERALL, SUBGROUPS, MetricPath, ScoreCard, Scores

RESULT, MODEL, MODEL_CARD, CURVE = "result.json", "model.safetensors", "model.json", "curve.svg"


def result_of(config: RunConfig, outcome: RunOutcome) -> dict[str, Any]:
    """Return the content of ``result.json`` as plain values."""
    rule = config.usecase.score
    baseline, final = outcome.rounds[0], final_round(outcome.rounds, rule)
    counted = final.card.overall.arrays
    return {
        "usecase": config.usecase.slug,
        "task": config.usecase.task,
        "strategy": config.strategy_name,
        "model": config.model.name,
        "runtime": config.runtime.name,
        "seed": config.seed,
        "team": config.submission.team,
        "claimed": config.submission.claimed,
        "stopped_early": outcome.stopped_early,
        "final_round": final.round,
        "score": {
            "name": rule.name,
            "direction": rule.direction,
            "baseline": baseline.score,
            "final": final.score,
        },
        "metrics": {"baseline": _card(baseline.card), "final": _card(final.card)},
        "absent": _absent(final.card),
        "bounds": _flat({scope: s.bounds for scope, s in final.card.scopes().items()}),
        "confusion_matrix": final.card.overall.arrays.get("confusion_matrix"),
        "counts": {k: counted[k] for k in config.metrics.counts if k in counted},
        "attributions": final.card.attributions,
        "rounds": [_round(record) for record in outcome.rounds],
    }


def write_result(config: RunConfig, outcome: RunOutcome, fitted: Mapping[str, Any]) -> Path:
    """Write ``result.json``, the model, its card and the curve, each atomically.

    Raises
    ------
    FileWriteError
        If the disk is full or the folder cannot be written.
    """
    arrays = {name: np.asarray(a, order="C") for name, a in outcome.arrays.items()}
    card = {
        "format": 1,
        "usecase": config.usecase.slug,
        "task": config.usecase.task,
        "schema": config.schema,
        "classes": config.schema.get("classes"),
        "model": asdict(config.model),
        "seed": config.seed,
        "preprocessing": fitted,
    }
    write_atomically(config.folder / MODEL, save(arrays))
    write_atomically(config.folder / MODEL_CARD, _json(card))
    rule = config.usecase.score
    points = [(record.round, record.score) for record in outcome.rounds]
    curve = score_curve_svg(points, rule.name, rule.direction)
    write_atomically(config.folder / CURVE, curve.encode())
    path = config.folder / RESULT
    write_atomically(path, _json(result_of(config, outcome)))
    return path


def _json(value: Any) -> bytes:
    return (json.dumps(_plain(value), indent=2, allow_nan=False) + "\n").encode()


def _plain(value: Any) -> Any:
    """Replace what JSON lacks: numpy scalars, tuples, and floats that are not finite."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic | np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _card(card: ScoreCard) -> dict[str, Any]:
    return {
        OVERALL: card.overall.values,
        SUBGROUPS: {name: scores.values for name, scores in card.subgroups.items()},
        BLOCKS: {name: scores.values for name, scores in card.blocks.items()},
    }


def _absent(card: ScoreCard) -> dict[str, str]:
    return _flat({scope: scores.absent for scope, scores in card.scopes().items()})


def _flat(by_scope: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    return {
        str(MetricPath(scope, name)): value
        for scope, values in by_scope.items()
        for name, value in values.items()
    }


def _round(record: RoundRecord) -> dict[str, Any]:
    overall: Scores = record.card.overall
    return {
        "round": record.round,
        "phase": record.phase,
        "status": record.status,
        "reason": record.reason,
        "score": record.score,
        "train_loss": record.train_loss,
        **values_of(record),
        "strategy_metrics": dict(record.strategy_metrics),
        "metrics": overall.values,
        "sites": [vars(site) for site in record.sites],
        "seconds": record.seconds,
        "bytes_up": record.bytes_up,
        "bytes_down": record.bytes_down,
    }
