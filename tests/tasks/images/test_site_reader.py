"""One reader for every task of pictures: source, holdout, partition, split, notes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pytest
from PIL import Image

from fl_common.errors import ConfigError, DataError, SchemaError
from tasks.contract import HOLDOUT, DataSource, Partition
from tasks.images.datasets import ImageDataset
from tasks.images.image_refs import FileImage, GeneratedImage, ImageRef
from tasks.images.site_reader import column_values, read_items
from tasks.sites.splits import split_rows


@dataclass(frozen=True)
class Thing:
    """A record and an item: its label is a column, or else the first letter of its file's name."""

    image: ImageRef
    groups: Mapping[str, str] = field(default_factory=dict)

    @property
    def image_ref(self):
        return self.image

    @property
    def letter(self):
        return self.groups.get("letter") or self.image.name.rsplit("/", 1)[-1][0]


@dataclass(frozen=True)
class Letters:
    """Pictures of letters a to c; ``x`` is no letter."""

    on_invalid: str = "refuse"
    merge_singles: bool = False
    bit_depth: int | None = None
    task = "letters"

    def has_holdout(self, path):
        return (path / "held").is_dir()

    def records(self, path, split, issues):
        held = path / "held"
        folder = held if split == HOLDOUT and held.is_dir() else path
        for file in sorted(folder.glob("*.png")):
            yield Thing(FileImage(file), {"shelf": file.stem[-1]})

    def item(self, record, facts, issues):
        if record.letter in "abc":
            return record
        issues.add("bad_label", record.image.name)
        return None

    def same_label(self, one, other):
        return one.letter == other.letter

    def strata(self, items):
        return np.array(["abc".index(item.letter) for item in items], dtype=np.int64)

    def notes(self, train):
        return [f"{len(train)} to train on"]


@pytest.fixture
def folder(tmp_path):
    for number, letter in enumerate("aaaabbbbcccc"):
        write(tmp_path / f"{letter}{number:02d}{number % 2}.png", number)
    return tmp_path


def write(path, number):
    path.parent.mkdir(exist_ok=True)
    Image.new("RGB", (4, 4), (number, 10, 20)).save(path)


def names(items):
    return [item.image.name.rsplit("/", 1)[-1] for item in items]


def test_a_share_of_each_stratum_is_held_out_by_seed(folder):
    source = DataSource("a", str(folder), holdout_fraction=0.25)
    found = read_items(source, 7, Letters())
    everything = [Thing(FileImage(path)) for path in sorted(folder.glob("*.png"))]
    kept, out = split_rows(12, Letters().strata(everything), 0.25, 7)
    assert names(found.train) == names([everything[i] for i in kept])
    assert names(found.holdout) == names([everything[i] for i in out])
    assert sorted(item.letter for item in found.holdout) == ["a", "b", "c"]
    assert found.notes == ("9 to train on",)


def test_validation_pictures_are_drawn_from_the_rest_and_the_holdout_stays(folder):
    without = read_items(DataSource("a", str(folder), holdout_fraction=0.25), 7, Letters())
    source = DataSource("a", str(folder), holdout_fraction=0.25, validation_fraction=1 / 3)
    found = read_items(source, 7, Letters())
    assert without.validation is None
    assert found.holdout == without.holdout
    assert sorted(item.letter for item in found.validation) == ["a", "b", "c"]
    assert sorted(names(found.train + found.validation)) == sorted(names(without.train))
    assert found.notes == ("6 to train on",)


def test_validation_pictures_may_be_a_source_of_their_own(folder, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    write(other / "a1.png", 100)
    write(other / "x1.png", 101)
    source = DataSource("a", str(folder), holdout_fraction=0.25, validation=str(other))
    found = read_items(source, 7, Letters(on_invalid="drop"))
    plain = read_items(DataSource("a", str(folder), holdout_fraction=0.25), 7, Letters())
    assert names(found.validation) == ["a1.png"]
    assert (found.train, found.holdout) == (plain.train, plain.holdout)
    assert any(note.startswith("validation: ") for note in found.notes)


def test_a_copy_of_a_held_out_picture_is_refused_or_left_out_of_training(folder, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    write(other / "b77.png", 0)  # the picture of a000.png under another name and label
    source = DataSource("a", str(folder), holdout=str(other))
    with pytest.raises(DataError, match=r"1 images are in two splits \(\S+a000.png: .*b77.png\)"):
        read_items(source, 0, Letters())
    found = read_items(source, 0, Letters(on_invalid="drop"))
    assert names(found.holdout) == ["b77.png"]
    assert len(found.train) == 11
    assert "a000.png" not in names(found.train)
    same = DataSource("a", str(folder), holdout=str(folder), on_invalid="drop")
    with pytest.raises(DataError, match="every training picture is held out, too"):
        read_items(same, 0, Letters())


def test_a_validation_copy_is_left_out_of_training_and_a_held_out_one_of_both(
    folder, tmp_path_factory
):
    held, chosen = (tmp_path_factory.mktemp(name) for name in ("held", "chosen"))
    write(held / "a1.png", 0)
    write(chosen / "a2.png", 0)
    write(chosen / "a3.png", 1)
    source = DataSource("a", str(folder), holdout=str(held), validation=str(chosen))
    found = read_items(source, 0, Letters(on_invalid="drop"))
    assert names(found.holdout) == ["a1.png"]
    assert names(found.validation) == ["a3.png"]
    assert len(found.train) == 10


def test_one_picture_under_two_labels_is_refused_or_left_out_with_its_copy(folder):
    write(folder / "c99.png", 0)  # the picture of a000.png
    source = DataSource("a", str(folder))
    with pytest.raises(DataError, match=r"1 images stand under two labels .*c99.png: .*a000.png"):
        read_items(source, 0, Letters())
    found = read_items(source, 0, Letters(on_invalid="drop"))
    assert not {"a000.png", "c99.png"} & set(names(found.train + found.holdout))
    assert len(found.train + found.holdout) == 11


def test_copies_with_one_label_are_noted_and_never_on_both_sides_of_a_drawn_split(folder):
    for number in range(4):
        write(folder / f"a9{number}.png", number)  # copies of all of a's
    sides = []
    for seed in range(6):
        found = read_items(DataSource("a", str(folder), split_seed=seed), 0, Letters())
        assert any("4 images are copies of another with the same label" in n for n in found.notes)
        train, held = (
            {path.read_bytes() for path in paths(i)} for i in (found.train, found.holdout)
        )
        assert not train & held
        sides += [note for note in found.notes if "have a copy that is held out" in note]
    assert sides


def paths(items):
    return [item.image.path for item in items]


def test_the_sites_own_seed_pins_the_split(folder):
    pinned = DataSource("a", str(folder), split_seed=3)
    free = DataSource("a", str(folder))
    assert read_items(pinned, 1, Letters()) == read_items(free, 3, Letters())
    assert read_items(pinned, 1, Letters()) != read_items(free, 1, Letters())


def test_a_second_source_or_the_sources_own_part_is_held_out(folder, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    write(other / "a1.png", 100)
    given = read_items(DataSource("a", str(folder), holdout=str(other)), 0, Letters())
    assert (len(given.train), names(given.holdout)) == (12, ["a1.png"])
    write(folder / "held" / "b9.png", 101)
    own = read_items(DataSource("a", str(folder)), 0, Letters())
    assert (len(own.train), names(own.holdout)) == (12, ["b9.png"])


def test_a_partition_cuts_what_is_read_once(folder, monkeypatch):
    decoded = []
    inspect = FileImage.inspect
    monkeypatch.setattr(FileImage, "inspect", lambda self: decoded.append(self) or inspect(self))
    cuts = [Partition("column", 2, index, column="shelf") for index in range(2)]
    sites = [read_items(DataSource("a", str(folder), partition=cut), 0, Letters()) for cut in cuts]
    shelves = [{item.groups["shelf"] for item in s.train + s.holdout} for s in sites]
    assert shelves == [{"0"}, {"1"}]
    assert len(decoded) == 12
    write(folder / "a99.png", 102)  # a change of the folder is noticed
    wrong = Partition("column", 2, 0, column="shelve")
    with pytest.raises(SchemaError, match="no column 'shelve'; did you mean 'shelf'"):
        read_items(DataSource("a", str(folder), partition=wrong), 0, Letters())
    assert len(decoded) == 25


def test_strata_of_one_picture_are_held_out_together_if_the_task_says_so(tmp_path):
    for number, letter in enumerate("aaaaaaaabc"):
        write(tmp_path / f"{letter}{number}.png", number)
    source = DataSource("a", str(tmp_path), holdout_fraction=0.2)
    held = read_items(source, 0, Letters(merge_singles=True)).holdout
    assert sorted(item.letter == "a" for item in held) == [True, True]
    kept = [read_items(source, seed, Letters(merge_singles=True)).train for seed in range(5)]
    assert all({"b", "c"} & {item.letter for item in train} for train in kept)


@pytest.mark.parametrize("says", [None, "refuse", "drop"])
def test_bad_pictures_and_labels_meet_the_sites_policy_or_else_the_tasks(folder, says):
    (folder / "a000.png").write_bytes(b"junk")
    write(folder / "x1.png", 200)
    source = DataSource("a", str(folder), on_invalid=says)
    reader = Letters(on_invalid="refuse" if says == "drop" else "drop")
    if says == "refuse":
        with pytest.raises(DataError, match=r"1 images cannot be read.*1 labels cannot be parsed"):
            read_items(source, 0, reader)
        return
    found = read_items(source, 0, reader)
    assert len(found.train + found.holdout) == 11
    assert [note.split(" (")[0] for note in found.notes[:2]] == [
        "left out: 1 images cannot be read",
        "left out: 1 labels cannot be parsed",
    ]


def test_a_declared_bit_depth_is_every_pictures(folder):
    grey = np.arange(16, dtype=np.uint16).reshape(4, 4) * 256  # 12 bits
    Image.fromarray(grey).save(folder / "a999.png")
    for depth, expected in ((None, 15), (12, 240), (14, 60)):
        found = read_items(DataSource("a", str(folder)), 0, Letters(bit_depth=depth))
        (item,) = (i for i in found.train + found.holdout if i.image.name.endswith("a999.png"))
        assert np.asarray(item.image.load()).max() == expected
    with pytest.raises(DataError, match=r"a999.png: has the value 3840, beyond its 10 bits"):
        read_items(DataSource("a", str(folder)), 0, Letters(bit_depth=10))


def test_one_picture_is_too_few_and_none_is_told(tmp_path):
    with pytest.raises(DataError, match="no usable picture"):
        read_items(DataSource("a", str(tmp_path)), 0, Letters())
    write(tmp_path / "a0.png", 0)
    with pytest.raises(DataError, match="site 'a' has one picture; it needs at least 2"):
        read_items(DataSource("a", str(tmp_path)), 0, Letters())


def _drawn(index):
    return Image.new("RGB", (4, 4), (index, 0, 0))


@pytest.fixture
def film(monkeypatch):
    def records(issues):
        for index in range(10):
            yield Thing(GeneratedImage("film", index, 4, 4, _drawn), {"letter": "abc"[index % 3]})

    monkeypatch.setattr(
        "tasks.images.site_reader.load_image_dataset",
        lambda name: ImageDataset(name, name, ("a", "b", "c"), records, ordered=True),
    )


def test_the_last_pictures_of_a_film_are_held_out(film):
    found = read_items(DataSource("a", "dataset:letters"), 0, Letters())
    assert [item.image.index for item in found.holdout] == [8, 9]
    with pytest.raises(ConfigError, match="holdout_fraction must be between 0 and 1"):
        read_items(DataSource("a", "dataset:letters", holdout_fraction=1.0), 0, Letters())


def test_a_data_set_of_another_task_is_refused(film):
    with pytest.raises(ConfigError, match="dataset:numbers is for the task numbers, not letters"):
        read_items(DataSource("a", "dataset:numbers"), 0, Letters())


def test_a_column_of_no_picture_is_told():
    with pytest.raises(SchemaError, match="no column 'ward'; there are none"):
        column_values([Thing(GeneratedImage("a", 0, 4, 4, _drawn))], "ward")


def test_the_frames_before_those_held_out_choose(film):
    source = DataSource("a", "dataset:letters", holdout_fraction=0.2, validation_fraction=0.25)
    found = read_items(source, 5, Letters())
    parts = (found.train, found.validation, found.holdout)
    frames = [[item.image.index for item in part] for part in parts]
    assert frames == [[0, 1, 2, 3, 4, 5], [6, 7], [8, 9]]
