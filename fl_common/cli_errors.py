"""How a command ends: one line and exit code 2 for what the user can mend."""

from __future__ import annotations

import re
import signal
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import yaml

from fl_common.errors import ConfigError, FedleagueError, StoppedError
from fl_common.logs import is_debugging
from fl_common.terminal import unbroken_streams
from fl_common.words import nearest

EXIT_USER_ERROR = 2


@contextmanager
def friendly_errors(command: str) -> Iterator[None]:
    """Print a ``FedleagueError`` as one line on stderr and exit with code 2.

    With ``FEDLEAGUE_DEBUG=1`` in the environment the traceback is shown instead.
    """
    with unbroken_streams():
        try:
            yield
        except FedleagueError as error:
            if is_debugging():
                raise
            print(f"{command}: {' '.join(str(error).split())}", file=sys.stderr)
            sys.exit(EXIT_USER_ERROR)
        except KeyboardInterrupt as error:
            stop = error if isinstance(error, StoppedError) else StoppedError(signal.SIGINT)
            print(f"{command}: {stop}", file=sys.stderr)
            sys.exit(128 + stop.signal)


@contextmanager
def stopped_by_signals() -> Iterator[None]:
    """Raise ``StoppedError`` in the main thread at the first SIGINT or SIGTERM.

    Later ones are ignored, so that what the first one set going comes to its end.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = (signal.SIGINT, signal.SIGTERM)

    def stop(number: int, _frame: object) -> None:
        for each in numbers:
            signal.signal(each, signal.SIG_IGN)
        raise StoppedError(signal.Signals(number))

    before = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def as_hydra_reads(arguments: Sequence[str], texts: Sequence[str] = ()) -> list[str]:
    """Quote what Hydra's grammar does not know: letters beyond ASCII, and numbers meant as text.

    Parameters
    ----------
    texts : sequence of str
        Keys whose values are texts, whatever they look like.

    >>> as_hydra_reads(["submission.team=Zürich", "data.names=[Bern,Genève]"])
    ['submission.team="Zürich"', 'data.names=[Bern,"Genève"]']
    """
    return [_as_hydra_reads(argument, texts) for argument in arguments]


def _as_hydra_reads(argument: str, texts: Sequence[str]) -> str:
    key, equals, value = argument.partition("=")
    is_simple = not set(value) & set("'\"\\${}[](),")
    if key in texts and value and is_simple and value != "null":
        return f'{key}="{value}"'
    if not equals or value.isascii() or set(value) & set("'\"\\$"):
        return argument
    if is_simple:
        return f'{key}="{value}"'
    parts = re.split(r"([\[\]{}(),:])", value)
    quoted = [part if part.isascii() else f'"{part.strip()}"' for part in parts]
    return f"{key}={''.join(quoted)}"


def explained(
    error: Exception, keys: Sequence[str] = (), renamed: Mapping[str, str] | None = None
) -> ConfigError:
    """Turn the message of a refused override into one line with the nearest match.

    Parameters
    ----------
    error : Exception
        As Hydra or OmegaConf raised it.
    keys : sequence of str
        The options that exist, with dots between levels.
    renamed : mapping or None
        Old options and their new names.
    """
    text = str(error)
    if isinstance(error, yaml.YAMLError):
        mark = getattr(error, "problem_mark", None)
        place = f"{mark.name}, line {mark.line + 1}: " if mark else ""
        return ConfigError(f"{place}not valid YAML: {getattr(error, 'problem', None) or text}")
    if found := re.search(r"In '([^']+)': Could not override '(\w+)@(\w+)\.\w+'", text):
        file, group, package = found.groups()
        return ConfigError(no_global_package(file, f"'{group}' is looked for below '{package}'"))
    if "Interpolation key 'usecase.slug' not found" in text:
        return ConfigError(no_global_package("the use case", "it has no usecase.slug"))
    if found := re.search(r"Could not find '([\w/]+)/([^'/]+)'", text):
        group, name = found.groups()
        options = re.findall(r"^\t(\S+)$", text, flags=re.MULTILINE)
        near = nearest(name, options)
        hint = f"did you mean {group}={near[0]}?" if near else f"known: {', '.join(options)}"
        return ConfigError(f"unknown {group} '{name}'; {hint}")
    if found := re.search(r"Could not override '([^']+)'", text):
        key = found.group(1)
        for old, new in (renamed or {}).items():
            if f"{key}.".startswith(f"{old}."):
                return ConfigError(f"key '{old}' was renamed to '{new}'")
        if key in keys:  # in Hydra an entry is new unless the mapping has its name already
            return ConfigError(f"'{key}' has no such entry yet; a new one needs a plus: +{key}=...")
        parent, _, last = key.rpartition(".")
        near = nearest(key, (k for k in keys if k.rpartition(".")[0] == parent))
        near = near or [k for k in keys if k.rpartition(".")[2] == last][:1]
        near = near or nearest(key, keys, cutoff=0.8)
        hint = f"did you mean {near[0]}=...?" if near else "--help lists every key"
        if parent == "usecase":
            hint += f" (a key of the task that the use case leaves out needs a plus: +{key}=...)"
        return ConfigError(f"unknown option '{key}'; {hint}")
    if text.startswith("Config group override"):
        return ConfigError(f"{text}; write GROUP=NAME, --help lists both")
    text = " ".join(text.split()).partition(" See https://hydra.cc")[0]
    if "missing EQUAL" in text or "no viable alternative" in text or "parsing override" in text:
        return ConfigError(f"{text}; write KEY=VALUE, with quotes round brackets and spaces")
    return ConfigError(text)


def no_global_package(file: str, why: str) -> str:
    """Say that a configuration of a group, which sets more than its group, does not say so."""
    return f"{file}.yaml: its first line must be '# @package _global_'; without it {why}"
