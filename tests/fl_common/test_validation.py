"""What pydantic finds wrong, as our one line."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import pytest
from pydantic import Field, ValidationError
from pydantic.dataclasses import dataclass

from fl_common.errors import ConfigError
from fl_common.validation import (
    MODEL,
    Count,
    Flag,
    Fraction,
    FrozenModel,
    NonNegative,
    Number,
    Port,
    Positive,
    Share,
    Slug,
    Text,
    Whole,
    one_line,
    validated,
)


@dataclass(frozen=True, config=MODEL)
class Part:
    kind: Literal["iid", "dirichlet"]
    num_sites: Count
    alpha: Positive = 0.5
    renamed: ClassVar[Mapping[str, str]] = {"sites": "data.part.num_sites"}


@dataclass(frozen=True, config=MODEL)
class Here:
    name: Literal["here"] = "here"
    threads: Count | None = None


@dataclass(frozen=True, config=MODEL)
class There:
    name: Literal["there"] = "there"
    port: Port = 80


class Data(FrozenModel):
    train: Text
    fraction: Fraction = 0.2
    part: Part | None = None
    names: tuple[Text, ...] | None = None


class Site(FrozenModel):
    renamed: ClassVar[Mapping[str, str]] = {"weights": "initial_weights", "where": "data.train"}
    data: Data
    slug: Slug = "a"
    initial_weights: Path | None = None
    seed: Whole = 0
    share: Share = 1.0
    delay: NonNegative = 0
    bias: Number = 0
    quiet: Flag = False
    places: tuple[Here | There, ...] = ()
    place: Annotated[Here | There, Field(discriminator="name")] = Here()
    params: Mapping[str, Any] = Field(default_factory=dict)


GOOD = {"data": {"train": "a.csv"}}


def with_(key: str, value: object) -> dict[str, Any]:
    raw: dict[str, Any] = {"data": {"train": "a.csv"}}
    target = raw
    *outer, last = key.split(".")
    for name in outer:
        target = target.setdefault(name, {})
    if outer[-1:] == ["part"]:
        target |= {"kind": "iid", "num_sites": 2}
    if outer[-1:] == ["place"]:
        target |= {"name": "there"}
    target[last] = value
    return raw


CASES = [
    ("data", 5, "data must have keys below it, got 5"),
    ("data.train", 5, "data.train must be a text, got 5"),
    ("data.train", " ", "data.train must be a text, got ' '"),
    ("data.fraction", 1, "data.fraction must be between 0 and 1, got 1"),
    ("data.fraction", float("nan"), "data.fraction must be between 0 and 1, got nan"),
    ("data.part.num_sites", 0, "data.part.num_sites must be a whole number, at least 1, got 0"),
    ("data.part.num_sites", "5", "data.part.num_sites must be a whole number, at least 1, got '5'"),
    ("data.part.num_sites", True, "a whole number, at least 1, got True"),
    ("data.part.num_sites", 2.0, "a whole number, at least 1, got 2.0"),
    ("data.part.alpha", 0, "data.part.alpha must be a positive number, got 0"),
    ("data.part.alpha", "0.5", "data.part.alpha must be a positive number, got '0.5'"),
    ("data.part.kind", "iidd", "data.part.kind is 'iidd'; expected iid or dirichlet; did you mean"),
    ("data.part", "iid", "data.part must have keys below it, or null, got 'iid'"),
    ("data.names", "a", "data.names must be a list, as [a, b], or null, got 'a'"),
    ("data.names", ["a", 5], "data.names[1] must be a text, got 5"),
    ("data.trian", "a.csv", "unknown key 'data.trian'; did you mean 'data.train'?"),
    ("zzz", 1, "unknown key 'zzz'; known: data, slug,"),
    ("slug", "a/b", "slug must be letters, digits, '.', '_' and '-', got 'a/b'"),
    ("slug", "a\n", "slug must be letters"),
    ("seed", -1, "seed must be a whole number, at least 0, got -1"),
    ("share", 0, "share must be a number, above 0, at most 1, got 0"),
    ("delay", -1, "delay must be a number, at least 0, got -1"),
    ("bias", True, "bias must be a number, got True"),
    ("quiet", 1, "quiet must be true or false, got 1"),
    ("initial_weights", 5, "initial_weights must be a path, or null, got 5"),
    ("params", 3, "params must have keys below it, got 3"),
    ("weights", "a", "key 'weights' was renamed to 'initial_weights'"),
    ("data.part.sites", 3, "key 'data.part.sites' was renamed to 'data.part.num_sites'"),
    ("place.port", 99999, "place.port must be a whole number, from 0 to 65535, got 99999"),
    ("place.prot", 1, "unknown key 'place.prot'; did you mean 'place.port'?"),
    ("place", {"name": "x"}, "place.name is 'x'; expected one of 'here', 'there'"),
    ("place", {}, "key 'place.name' is missing"),
    ("place", 3, "place must have keys below it, got 3"),
    ("seed", "x" * 500, "got 'xxx"),
    (5, 1, "unknown key '5'"),
]


@pytest.mark.parametrize(("key", "value", "says"), CASES)
def test_a_wrong_value_is_one_line(key: str, value: object, says: str) -> None:
    raw = with_(key, value) if isinstance(key, str) else {**GOOD, key: value}
    with pytest.raises(ConfigError) as caught:
        validated(Site, raw, "site.yaml")
    line = str(caught.value)
    assert line.startswith("site.yaml: ")
    assert says in line
    assert "\n" not in line
    assert len(line) < 400


@pytest.mark.parametrize("raw", [None, 5, "text", [], {"data": None}, {5: 5}])
def test_anything_else_is_one_line_too(raw: object) -> None:
    with pytest.raises(ConfigError) as caught:
        validated(Site, raw, "site.yaml")
    assert str(caught.value).startswith("site.yaml: ")


def test_a_missing_key_says_what_it_must_be() -> None:
    with pytest.raises(ConfigError, match=r"^key 'data\.train' is missing; it must be a text$"):
        validated(Site, {"data": {}})


def test_a_misspelt_key_is_not_missing_as_well() -> None:
    with pytest.raises(ConfigError) as caught:
        validated(Site, {"data": {"trian": "a.csv"}})
    assert str(caught.value) == "unknown key 'data.trian'; did you mean 'data.train'?"


def test_all_faults_are_told_where_they_are_few() -> None:
    with pytest.raises(ConfigError) as caught:
        validated(Site, {"data": {"train": 5}, "seed": -1}, "f.yaml")
    assert str(caught.value) == (
        "f.yaml: data.train must be a text, got 5; seed must be a whole number, at least 0, got -1"
    )


def test_the_first_of_many_faults_is_told_whole() -> None:
    raw = {"data": {"train": 5}, "seed": -1, "bias": "x" * 90, "delay": "y" * 90, "quiet": "z" * 90}
    with pytest.raises(ConfigError, match=r"^data\.train must be a text, got 5 \(and 4 more\)$"):
        validated(Site, raw)


def test_a_prefix_says_where_in_the_file() -> None:
    with pytest.raises(ConfigError, match=r"^unknown key 'data\.part\.aplha'; .*'data\.part\.alp"):
        validated(Part, {"kind": "iid", "num_sites": 2, "aplha": 1}, prefix="data.part")


def test_what_a_constructor_refuses_reads_the_same() -> None:
    with pytest.raises(ValidationError) as caught:
        Part("iid", 0)
    assert one_line(caught.value, Part) == "num_sites must be a whole number, at least 1, got 0"
    with pytest.raises(ValidationError):
        dataclasses.replace(Part("iid", 1), alpha=-1.0)


def test_lists_paths_and_whole_numbers_are_what_they_mean() -> None:
    site = validated(
        Site, {"data": {"train": "a", "names": ["x"]}, "initial_weights": "w", "delay": 3}
    )
    assert site.data.names == ("x",)
    assert site.initial_weights == Path("w")
    assert site.delay == 3.0
    assert hash(site.data) == hash(Data(train="a", names=("x",)))


def test_a_model_cannot_be_changed() -> None:
    site = validated(Site, GOOD)
    with pytest.raises(ValidationError):
        site.seed = 3  # type: ignore[misc]


def test_a_renamed_key_is_not_missing_as_well() -> None:
    with pytest.raises(ConfigError) as caught:
        validated(Site, {"data": {}, "where": "a.csv"})
    assert str(caught.value) == "key 'where' was renamed to 'data.train'"


def test_a_type_without_words_still_names_the_key() -> None:
    class Odd(enum.Enum):
        A = "a"

    class Model(FrozenModel):
        odd: Odd = Odd.A

    with pytest.raises(ConfigError, match=r"^odd is wrong: Input should be 'a', got 'b'$"):
        validated(Model, {"odd": "b"})
