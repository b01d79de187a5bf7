"""The job: what a run asks of its sites, as the text that every message carries."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import lru_cache
from typing import Any

from fl_common.errors import ConfigError, ReplyError
from strategies.wire.compression import Compression
from tasks.contract import ModelSpec, TrainConfig

PROTOCOL = 1


@dataclass(frozen=True)
class Job:
    """Everything a site needs to know of a run; the same string in every message of it.

    Parameters
    ----------
    task : str
        Name in ``tasks.registry``.
    schema : mapping
        The use case's schema as plain JSON values.
    strategy : str
        Name of the strategy's client update in ``strategies.registry``.
    fitted : mapping or None
        Finalised preprocessing; ``None`` until the fit exchange is done.
    communication : Compression
        How a training reply encodes its update.
    secagg : bool
        Whether training and evaluation replies leave masked only.
    run : str
        Under which name the sites remember the run; a resumed run has the name that it had.
    """

    task: str
    schema: Mapping[str, Any]
    model: ModelSpec
    train: TrainConfig
    strategy: str = "fedavg"
    seed: int = 0
    split_seed: int = 0
    fitted: Mapping[str, Any] | None = None
    communication: Compression = field(default_factory=Compression)
    secagg: bool = False
    run: str = ""
    protocol: int = PROTOCOL

    def to_json(self) -> str:
        """Serialise; floats keep every bit."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))

    @staticmethod
    def from_json(text: str) -> Job:
        """Parse (cached: a run sends the same text every time).

        Raises
        ------
        ReplyError
            If the text is not a job of this protocol version.
        """
        return _parse_job(text)


@lru_cache(maxsize=16)
def _parse_job(text: str) -> Job:
    try:
        raw = json.loads(text)
        if raw.get("protocol") != PROTOCOL:
            raise ReplyError(f"job has protocol {raw.get('protocol')!r}, this side has {PROTOCOL}")
        known = {f.name for f in fields(Job)}
        if unknown := set(raw) - known:
            raise ReplyError(f"job has unknown keys {sorted(unknown)}")
        raw["model"] = ModelSpec(**raw["model"])
        raw["train"] = TrainConfig(**raw["train"])
        raw["communication"] = Compression(**raw.get("communication") or {})
        return Job(**raw)
    except (ValueError, TypeError, KeyError, AttributeError, ConfigError) as error:
        raise ReplyError(f"job cannot be read: {error}") from error
