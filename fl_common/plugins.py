"""Installed Python packages that add strategies, tasks, models, metrics and datasets.

A package names what it adds in the entry points of its ``pyproject.toml``::

    [project.entry-points."fedleague.tasks"]
    survival = "my_package.survival:Survival"

A plugin's code is imported only when something of it is asked for by name. At a site it is not
even then, unless the site's own file allows the package (``policy.plugins``).
"""

from __future__ import annotations

import re
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from fl_common.errors import ConfigError

GROUPS = ("strategies", "tasks", "models", "metrics", "datasets")


@dataclass(frozen=True)
class Plugin:
    """One name that an installed package adds.

    Parameters
    ----------
    group : str
        One of ``GROUPS``.
    package : str
        The distribution's name, as ``pip list`` shows it.
    """

    group: str
    name: str
    package: str
    entry: EntryPoint

    @property
    def module(self) -> str:
        """The module that holds it."""
        return self.entry.module

    def load(self) -> Any:
        """Import it.

        Raises
        ------
        ConfigError
            If the entry point names something that does not exist or cannot be imported.
        """
        try:
            return self.entry.load()
        except Exception as error:  # whatever a stranger's module does while it is imported
            raise ConfigError(
                f"plugin '{self.package}': {self.group} '{self.name}' = '{self.entry.value}' "
                f"cannot be loaded: {type(error).__name__}: {' '.join(str(error).split())}"
            ) from error


def plugin_names(group: str) -> tuple[str, ...]:
    """Return every name that installed packages add to a group, sorted."""
    return tuple(sorted(_installed(group, tuple(sys.path))))


def find_plugin(group: str, name: str, shipped: Collection[str] = ()) -> Plugin | None:
    """Return what an installed package adds under a name; None if none does.

    Parameters
    ----------
    shipped : collection of str
        Names that are fedleague's own.

    Raises
    ------
    ConfigError
        If two packages add the name, or one adds a name that ships with fedleague.
    """
    found = _installed(group, tuple(sys.path)).get(name, ())
    if not found:
        return None
    packages = sorted({plugin.package for plugin in found})
    if name in shipped:
        raise ConfigError(
            f"plugin '{packages[0]}' adds {group} '{name}', a name that ships with fedleague; "
            "rename its entry point, or uninstall it"
        )
    if len(found) > 1:
        raise ConfigError(
            f"plugins {' and '.join(map(repr, packages))} both add {group} '{name}'; "
            "uninstall one, or rename its entry point"
        )
    return found[0]


def plugin_packages() -> tuple[str, ...]:
    """Return every installed package that adds something, sorted."""
    path = tuple(sys.path)
    found = {p.package for g in GROUPS for ps in _installed(g, path).values() for p in ps}
    return tuple(sorted(found))


def plugin_modules(group: str) -> set[str]:
    """Return the modules in which installed packages' entry points of a group lie.

    What a configuration may instantiate beside fedleague's own classes: names below these.
    """
    return {p.module for ps in _installed(group, tuple(sys.path)).values() for p in ps}


def same_package(one: str, other: str) -> bool:
    """Say whether two spellings name one package, as pip compares them."""
    return _canonical(one) == _canonical(other)


def _canonical(package: str) -> str:
    return re.sub(r"[-_.]+", "-", package).lower()


@lru_cache(maxsize=16)
def _installed(group: str, path: tuple[str, ...]) -> Mapping[str, tuple[Plugin, ...]]:
    """Read the entry points of the packages on ``sys.path``, once for each path."""
    found: dict[str, tuple[Plugin, ...]] = {}
    for entry in entry_points(group=f"fedleague.{group}"):
        package = entry.dist.name if entry.dist is not None else entry.module.partition(".")[0]
        plugin = Plugin(group, entry.name, package, entry)
        if plugin not in found.get(entry.name, ()):
            found[entry.name] = (*found.get(entry.name, ()), plugin)
    return found
