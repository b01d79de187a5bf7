"""The job: what a run asks of its sites, as the text that every message carries."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, field
from functools import lru_cache
from typing import Annotated, Literal

from pydantic import JsonValue, Strict

from fl_common.errors import ConfigError, ReplyError
from fl_common.validation import Flag, Text, checked, validated
from strategies.wire.compression import Compression
from tasks.contract import ModelSpec, TrainConfig

Seed = Annotated[int, Strict()]
Name = Annotated[str, Strict()]
PROTOCOL = 1


@checked("job")
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
    compression : Compression
        How a training reply encodes its update.
    secagg : bool
        Whether training and evaluation replies leave masked only.
    run : str
        Under which name the sites remember the run; a resumed run has the name that it had.
    """

    task: Text
    schema: Mapping[str, JsonValue]
    model: ModelSpec
    train: TrainConfig
    strategy: Name = "fedavg"
    seed: Seed = 0
    split_seed: Seed = 0
    fitted: Mapping[str, JsonValue] | None = None
    compression: Compression = field(default_factory=Compression)
    secagg: Flag = False
    run: Name = ""
    protocol: Literal[1] = 1

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
        if not isinstance(raw, dict):
            raise ValueError("no JSON object")
        if raw.get("protocol") != PROTOCOL:
            raise ReplyError(f"job has protocol {raw.get('protocol')!r}, this side has {PROTOCOL}")
        return validated(Job, raw, prefix="job")
    except (ValueError, RecursionError, ConfigError) as error:
        raise ReplyError(f"job cannot be read: {error}") from None
