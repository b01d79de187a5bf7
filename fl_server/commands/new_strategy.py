"""``fedleague new strategy NAME``: a strategy, its configuration and a passing test."""

from __future__ import annotations

import keyword
import re
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from string import Template

from fl_common.errors import ConfigError
from fl_common.files import write_atomically

TEMPLATES = {
    "strategy.py.txt": "{name}.py",
    "strategy.yaml.txt": "config/strategy/{name}.yaml",
    "test_strategy.py.txt": "test_{name}.py",
}
"""The folder is not called ``conf``: that would hide the package of this name."""


def write_strategy(name: str, folder: Path) -> list[Path]:
    """Write the three files below ``folder``; nothing is overwritten.

    Raises
    ------
    ConfigError
        If the name cannot be imported or is taken, or a file exists.
    """
    _check_name(name)
    targets = {template: folder / path.format(name=name) for template, path in TEMPLATES.items()}
    for path in targets.values():
        if path.exists():
            raise ConfigError(f"{path} exists; choose another name or move it away")
    values = {"name": name, "class_name": name.title().replace("_", "")}
    for template, path in targets.items():
        text = files("fl_server").joinpath("templates", template).read_text(encoding="utf-8")
        write_atomically(path, Template(text).substitute(values).encode())
    return list(targets.values())


def _check_name(name: str) -> None:
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or keyword.iskeyword(name):
        raise ConfigError(f"'{name}' is no module name; write it as my_strategy")
    if files("conf").joinpath("strategy", f"{name}.yaml").is_file():
        raise ConfigError(f"strategy '{name}' is on the shelf already; choose another name")
    if find_spec(name) is not None:
        raise ConfigError(f"a module '{name}' is installed already; choose another name")
