"""Where a researcher's strategy went wrong: its file and line, not ours."""

from __future__ import annotations

import inspect
import traceback

from flwr.serverapp.strategy import Strategy

from fl_common.errors import FedleagueError

SHIPPED = ("flwr.", "strategies.", "builtins", "abc", "typing")
HOOKS = ("update", "aggregate_train", "configure_train")


def failure(strategy: Strategy, error: BaseException) -> str:
    """Say in one line what a strategy raised, and at which of its own lines."""
    text = " ".join(str(error).split())
    frames = traceback.extract_tb(error.__traceback__)
    own = {inspect.getsourcefile(kind) for kind in _own_classes(strategy)}
    at = next((frame for frame in reversed(frames) if frame.filename in own), None)
    if isinstance(error, FedleagueError):
        return text if at is None else f"{text} ({at.filename}:{at.lineno})"
    at = at or frames[-1]
    return f"{type(error).__name__}: {text} ({at.filename}:{at.lineno})"


def definition(strategy: Strategy) -> str:
    """Return `` (file:line)`` of the rule in a class that does not ship with us or Flower."""
    for kind in _own_classes(strategy):
        for hook in HOOKS:
            if hook in vars(kind):
                line = inspect.getsourcelines(vars(kind)[hook])[1]
                return f" ({inspect.getsourcefile(kind)}:{line})"
    return ""


def _own_classes(strategy: Strategy) -> list[type]:
    """Return the classes of a strategy, and of one that it wraps, that a researcher wrote."""
    own = [kind for kind in type(strategy).__mro__ if not f"{kind.__module__}.".startswith(SHIPPED)]
    inner = getattr(strategy, "strategy", None)
    return own + (_own_classes(inner) if isinstance(inner, Strategy) else [])
