"""Read a run's model back: ``model.safetensors`` and ``model.json``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.numpy import load_file

from fl_common.errors import ConfigError, ReplyError
from fl_server.results.result import MODEL, MODEL_CARD
from tasks.contract import Model, ModelSpec, Task
from tasks.registry import load_task


def load_run_model(folder: Path) -> tuple[Task, Model]:
    """Return a run's task and trained model.

    Raises
    ------
    ConfigError
        If a file is missing or damaged, naming it.
    """
    card = read_json(folder / MODEL_CARD)
    path = folder / MODEL
    try:
        arrays = load_file(path)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; give the folder of a finished run") from None
    except (SafetensorError, OSError) as error:
        raise ConfigError(f"{path}: damaged: {error}; run the model anew") from None
    try:
        task = load_task(card["task"], card["schema"])
        spec = ModelSpec(card["model"]["name"], card["model"]["params"])
        model = task.build(spec, card["preprocessing"], card["seed"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ConfigError(
            f"{folder / MODEL_CARD}: damaged: {type(error).__name__} {error}; run the model anew"
        ) from None
    try:
        model.load(arrays)
    except ReplyError as error:
        raise ConfigError(f"{path}: does not fit {MODEL_CARD}: {error}") from None
    return task, model


def read_json(path: Path) -> Any:
    """Read a JSON file of a run folder.

    Raises
    ------
    ConfigError
        If it is missing or damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; give the folder of a finished run") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None
