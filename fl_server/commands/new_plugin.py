"""``fedleague new KIND NAME``: the skeleton of a strategy, task, model or metric, and its test."""

from __future__ import annotations

import keyword
import re
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from string import Template

from fl_common.errors import ConfigError
from fl_common.files import write_atomically
from fl_common.plugins import plugin_names

TEMPLATES = {
    "strategy": {
        "strategy.py.txt": "{name}.py",
        "strategy.yaml.txt": "config/strategy/{name}.yaml",
        "test_strategy.py.txt": "test_{name}.py",
    },
    **{
        kind: {
            "plugin.toml.txt": "pyproject.toml",
            f"{kind}.py.txt": "{name}.py",
            f"test_{kind}.py.txt": "test_{name}.py",
        }
        for kind in ("task", "model", "metric")
    },
}
"""The folder is not called ``conf``: that would hide the package of this name."""


def write_plugin(kind: str, name: str, folder: Path) -> list[Path]:
    """Write the files of a skeleton below ``folder``; nothing is overwritten.

    Parameters
    ----------
    kind : {"strategy", "task", "model", "metric"}

    Raises
    ------
    ConfigError
        If the name cannot be imported or is taken, or a file exists.
    """
    _check_name(kind, name)
    targets = {t: folder / path.format(name=name) for t, path in TEMPLATES[kind].items()}
    for path in targets.values():
        if path.exists():
            raise ConfigError(f"{path} exists; choose another name or move it away")
    class_name = name.title().replace("_", "")
    values = {
        "name": name,
        "class_name": class_name,
        "kind": kind,
        "package": name.replace("_", "-"),
        "object": name if kind == "model" else class_name,
    }
    for template, path in targets.items():
        text = files("fl_server").joinpath("templates", template).read_text(encoding="utf-8")
        write_atomically(path, Template(text).substitute(values).encode())
    return list(targets.values())


def _check_name(kind: str, name: str) -> None:
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or keyword.iskeyword(name):
        raise ConfigError(f"'{name}' is no module name; write it as my_{kind}")
    if files("conf").joinpath(kind, f"{name}.yaml").is_file():
        raise ConfigError(f"{kind} '{name}' ships already; choose another name")
    group = "strategies" if kind == "strategy" else f"{kind}s"
    if name in plugin_names(group):
        raise ConfigError(f"{kind} '{name}' is an installed plugin's already; choose another name")
    if find_spec(name) is not None:
        raise ConfigError(f"a module '{name}' is installed already; choose another name")
