"""Find a task adapter by its public name.

The table below is what ships; plugins add theirs (``fl_common.plugins``). An adapter's libraries
load only when it is asked for.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from fl_common.errors import ConfigError
from fl_common.plugins import find_plugin, plugin_names
from fl_common.words import suggest
from tasks.contract import Task

_TASKS: dict[str, str] = {
    "image_classification": "tasks.image_classification.adapter:ImageClassification",
    "object_detection": "tasks.object_detection.adapter:ObjectDetection",
    "semantic_segmentation": "tasks.semantic_segmentation.adapter:SemanticSegmentation",
    "tabular_classification": "tasks.tabular.adapter:TabularClassification",
    "tabular_regression": "tasks.tabular.adapter:TabularRegression",
}


def task_names() -> list[str]:
    """Return every task's public name, plugins' too, sorted."""
    return sorted({*_TASKS, *plugin_names("tasks")})


def load_task(name: str, schema: Mapping[str, Any]) -> Task:
    """Return the adapter ``name``, bound to a use case's schema.

    Parameters
    ----------
    name : str
        One of ``task_names()``.
    schema : mapping
        Plain values; which keys exist depends on the task (tabular: ``TabularSchema``).

    Raises
    ------
    ConfigError
        If there is no such task, its plugin is broken, or the schema does not fit it.
    """
    if (plugin := find_plugin("tasks", name, _TASKS)) is not None:
        made: Task = plugin.load()(schema)
        return made
    path = _TASKS.get(name)
    if path is None:
        raise ConfigError(f"task '{name}' does not exist{suggest(name, task_names())}")
    module, _, attribute = path.partition(":")
    task: Task = getattr(importlib.import_module(module), attribute)(schema)
    return task
