"""Models that check what people write, and their refusals as our one line.

Configuration, ``site.yaml`` and what travels are pydantic models; their errors are rendered here:
where it stands, the key with dots between its levels, what it may be, what it is, and the near
match or the new name of a key. Types say their bounds once (``Count``, ``Fraction`` ...), from
which the line says what a value may be; ``Field(description=...)`` says it in other words.

Nothing is coerced but a whole number to a number, a list to a tuple and a text to a path: ``"5"``
is no number and ``1`` no truth value. A model may name old keys, as the user would write them
whole::

    renamed: ClassVar[Mapping[str, str]] = {"weights": "initial_weights"}
"""

from __future__ import annotations

import types
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import field, is_dataclass
from functools import cache, wraps
from pathlib import PurePath
from typing import (
    Annotated,
    Any,
    Literal,
    TypeVar,
    Union,
    dataclass_transform,
    get_args,
    get_origin,
)

from annotated_types import Ge, Gt, Le, Lt
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, Strict, TypeAdapter
from pydantic import ValidationError as PydanticError
from pydantic.dataclasses import dataclass as pydantic_dataclass
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from fl_common.errors import ConfigError
from fl_common.words import nearest

T = TypeVar("T")
Place = tuple[str | int, ...]
"""Keys and list positions from the root to a value."""

MODEL = ConfigDict(extra="forbid", allow_inf_nan=False)

_MAX_LINE, _MAX_VALUE = 300, 120


class FrozenModel(BaseModel):
    """A model that refuses unknown keys and cannot be changed."""

    model_config = ConfigDict(**MODEL, frozen=True)


def _not_blank(text: str) -> str:
    if not text.strip() or "\0" in text:
        raise ValueError(f"must be a text, got {text!r}")
    return text


Flag = Annotated[bool, Strict()]
Whole = Annotated[int, Strict(), Field(ge=0)]
Count = Annotated[int, Strict(), Field(ge=1)]
Port = Annotated[int, Strict(), Field(ge=0, le=65535)]
Number = Annotated[float, Strict(), Field(allow_inf_nan=False)]
NonNegative = Annotated[float, Strict(), Field(ge=0)]
Positive = Annotated[float, Strict(), Field(gt=0)]
Fraction = Annotated[float, Strict(), Field(gt=0, lt=1)]
"""Between 0 and 1, both excluded."""
Share = Annotated[float, Strict(), Field(gt=0, le=1)]
"""Above 0, at most 1."""
Portion = Annotated[float, Strict(), Field(ge=0, le=1)]
Text = Annotated[str, Strict(), AfterValidator(_not_blank)]
Slug = Annotated[
    str,
    Strict(),
    Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*\z",
        description="letters, digits, '.', '_' and '-'",
    ),
]
"""What can name a folder and a page."""


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def checked(prefix: str = "") -> Callable[[type[T]], type[T]]:
    """Make a class a frozen dataclass that checks its values, by whatever way it is made.

    Its constructor raises ``ConfigError`` too, with the keys below ``prefix``.
    """

    def make(kind: type[T]) -> type[T]:
        made: Any = pydantic_dataclass(kind, frozen=True, config=MODEL)
        construct = made.__init__

        @wraps(construct)
        def __init__(self: T, *args: Any, **values: Any) -> None:
            try:
                construct(self, *args, **values)
            except PydanticError as error:
                raise ConfigError(one_line(error, made, prefix=prefix)) from None

        made.__init__ = __init__
        return made  # type: ignore[no-any-return]

    return make


def validated(kind: type[T], raw: Any, origin: str = "", prefix: str = "") -> T:
    """Make a model or a pydantic dataclass from plain values.

    Parameters
    ----------
    origin : str
        The file that ``raw`` comes from; stands first in the message.
    prefix : str
        Where in the file ``raw`` stands, as ``train``.

    Raises
    ------
    ConfigError
        One line: the first fault whole, and the others if they are short.
    """
    try:
        made: T = _adapter(kind).validate_python(raw)  # type: ignore[arg-type]
    except PydanticError as error:
        raise ConfigError(one_line(error, kind, origin, prefix)) from None
    return made


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def one_line(error: PydanticError, kind: Any, origin: str = "", prefix: str = "") -> str:
    """Render what pydantic found wrong with a ``kind`` as one line."""
    above: Place = tuple(prefix.split(".")) if prefix else ()
    details = error.errors(include_url=False)
    unknown = [d for d in details if d["type"] in _UNKNOWN]
    told = [_unknown_key(d, kind, above) for d in unknown]
    cured = {key for _, key in told}
    lines = [line for line, _ in told]
    for detail in details:
        key, what = _located(kind, detail["loc"], above)
        if detail["type"] not in _UNKNOWN and key not in cured:
            lines.append(_fault(detail, key, what))
    return (f"{origin}: " if origin else "") + _joined(lines)


def keys_of(kind: Any) -> list[str]:
    """Return the keys of a model or a pydantic dataclass."""
    return list(_fields(kind))


_UNKNOWN = {"extra_forbidden", "unexpected_keyword_argument", "invalid_key"}


def _joined(lines: list[str]) -> str:
    whole = "; ".join(lines)
    if len(lines) == 1 or len(whole) <= _MAX_LINE:
        return whole
    return f"{lines[0]} (and {len(lines) - 1} more)"


def _unknown_key(detail: ErrorDetails, kind: Any, above: Place) -> tuple[str, str]:
    """Return the line for a key that a model does not have, and the key that cures it."""
    *parents, last = detail["loc"]
    group, (found, _) = _located(kind, tuple(parents), above)
    model = next((member for member in _members(found) if _fields(member)), None)
    path, word = (f"{group}.{last}" if group else str(last)), str(last)
    if word in (renamed := getattr(model, "renamed", {})):
        return f"key '{path}' was renamed to '{renamed[word]}'", renamed[word]
    known = list(_fields(model))
    if near := nearest(word, known):
        cure = f"{group}.{near[0]}" if group else near[0]
        return f"unknown key '{path}'; did you mean '{cure}'?", cure
    return f"unknown key '{path}'; known: {', '.join(known)}", ""


def _fault(detail: ErrorDetails, key: str, what: tuple[Any, Sequence[Any]]) -> str:
    value, kind = detail["input"], detail["type"]
    if kind == "missing":
        said = _phrase(*what)
        return f"key '{key}' is missing" + (f"; it {said}" if said.startswith("must be") else "")
    if kind in ("value_error", "assertion_error"):
        return f"{key} {detail['ctx']['error']}".strip()
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        told = detail["ctx"]
        key = f"{key}.{told['discriminator']}".replace("'", "").lstrip(".")
        if "tag" not in told:
            return f"key '{key}' is missing"
        return f"{key} is {told['tag']!r}; expected one of {told['expected_tags']}"
    if kind == "literal_error" and (options := _options(what[0])):
        near = nearest(str(value), options)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        return f"{key} is {_shown(value)}; expected {' or '.join(options)}{hint}"
    said = _phrase(*what) or f"is wrong: {detail['msg']}"
    return f"{key} {said}, got {_shown(value)}".strip()


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _MAX_VALUE else f"{text[:_MAX_VALUE]} ..."


def _located(kind: Any, loc: Place, above: Place) -> tuple[str, tuple[Any, Sequence[Any]]]:
    """Follow pydantic's path into a type: the key as people write it, and what stands there."""
    annotation: Any = kind
    bounds: Sequence[Any] = ()
    keys = list(above)
    for step in loc:
        annotation, bounds = _plain(annotation, bounds)
        members = _members(annotation)
        if len(members) > 1:  # pydantic names the member of a union that it tried
            annotation = next((m for m in members if _is_member(m, step)), None)
            continue
        model = members[0] if members else None
        if isinstance(step, int) and (names := list(_fields(model))):
            step = names[step] if 0 <= step < len(names) else str(step)  # a positional argument
        annotation, bounds = _inner(model, step)
        keys.append(step)
    dotted = ""
    for step in keys:
        dotted += f"[{step}]" if isinstance(step, int) else f".{step}" if dotted else step
    return dotted, _plain(annotation, bounds)


def _inner(kind: Any, step: str | int) -> tuple[Any, Sequence[Any]]:
    if fields := _fields(kind):
        return fields.get(str(step), (None, ()))
    arguments = get_args(kind)
    if not arguments:
        return None, ()
    return (arguments[0] if isinstance(step, int) else arguments[-1]), ()


def _plain(annotation: Any, bounds: Sequence[Any]) -> tuple[Any, Sequence[Any]]:
    """Take bounds off a type; ``None`` as an alternative stays."""
    while get_origin(annotation) is Annotated:
        annotation, *more = get_args(annotation)
        bounds = (*bounds, *more)
    return annotation, bounds


def _members(annotation: Any) -> list[Any]:
    """Return what a type may be besides null."""
    annotation, _ = _plain(annotation, ())
    if get_origin(annotation) in (Union, types.UnionType):
        parts = [m for a in get_args(annotation) for m in _members(a)]
        return [part for part in parts if part is not type(None)]
    return [annotation]


def _is_member(kind: Any, step: str | int) -> bool:
    if getattr(kind, "__name__", None) == step:
        return True
    return any(step in get_args(inner) for inner, _ in _fields(kind).values())


def _fields(kind: Any) -> Mapping[str, tuple[Any, Sequence[Any]]]:
    """Return each key of a model with its type and bounds; empty for anything else."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        found: Mapping[str, FieldInfo] = kind.model_fields
    elif is_dataclass(kind):
        found = getattr(kind, "__pydantic_fields__", {})
    else:
        return {}
    return {name: (f.annotation, _bounds_of(f)) for name, f in found.items()}


def _bounds_of(field: FieldInfo) -> Sequence[Any]:
    said = (field,) if field.description else ()
    return (*field.metadata, *said)


def _options(annotation: Any) -> list[str]:
    return [
        str(value)
        for member in _members(annotation)
        if get_origin(member) is Literal
        for value in get_args(member)
    ]


def _phrase(annotation: Any, bounds: Sequence[Any]) -> str:
    """Say what a value must be, or nothing where the type says nothing."""
    null = ", or null" if type(None) in get_args(annotation) else ""
    members = _members(annotation)
    if len(members) == 1 and null:
        annotation, bounds = members[0], _inner_bounds(annotation, bounds)
    elif all(_fields(member) for member in members):
        annotation = members[0]
    flat = [part for bound in bounds for part in (bound, *getattr(bound, "metadata", ()))]
    told = next((b.description for b in flat if getattr(b, "description", None)), None)
    told = told or _word(annotation, flat)
    return f"must {told if told == _SECTION else f'be {told}'}{null}" if told else ""


def _inner_bounds(annotation: Any, bounds: Sequence[Any]) -> Sequence[Any]:
    """Return the bounds of ``Annotated[...] | None``, those of the inner type among them."""
    inner = next(a for a in get_args(annotation) if a is not type(None))
    return (*bounds, *_plain(inner, ())[1])


_SECTION = "have keys below it"


def _word(annotation: Any, bounds: Sequence[Any]) -> str:
    kind = get_origin(annotation) or annotation
    if not isinstance(kind, type):
        return ""
    if _fields(kind) or issubclass(kind, Mapping):
        return _SECTION
    if issubclass(kind, bool):
        return "true or false"
    if issubclass(kind, int | float):
        return _number(issubclass(kind, int), bounds)
    if issubclass(kind, str):
        return "a text"
    if issubclass(kind, PurePath):
        return "a path"
    if issubclass(kind, Collection):
        return "a list, as [a, b]"
    return ""


def _number(whole: bool, bounds: Sequence[Any]) -> str:
    low = next((b for b in bounds if isinstance(b, Ge | Gt)), None)
    high = next((b for b in bounds if isinstance(b, Le | Lt)), None)
    noun = "a whole number" if whole else "a number"
    least = "" if low is None else str(low.ge if isinstance(low, Ge) else low.gt)
    most = "" if high is None else str(high.le if isinstance(high, Le) else high.lt)
    if isinstance(low, Gt) and isinstance(high, Lt):
        return f"between {least} and {most}"
    if isinstance(low, Ge) and isinstance(high, Le):
        return f"{noun}, from {least} to {most}"
    if isinstance(low, Gt) and least == "0" and not most:
        return "a positive number" if not whole else f"{noun} above 0"
    parts = [f"{'at least' if isinstance(low, Ge) else 'above'} {least}"] if least else []
    parts += [f"{'at most' if isinstance(high, Le) else 'below'} {most}"] if most else []
    return ", ".join([noun, *parts])
