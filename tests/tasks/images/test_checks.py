"""The values that image use cases share are checked, and former names are told."""

from __future__ import annotations

import pytest

from fl_common.errors import ConfigError
from tasks.images.checks import number, one_of, read_classes, read_normalisation, require_known
from tasks.registry import load_task


@pytest.mark.parametrize(
    ("task", "key", "value", "cure"),
    [
        ("image_classification", "fit", "crop", "resize=crop"),
        ("semantic_segmentation", "fit", "stretch", "resize=stretch"),
        ("object_detection", "letterbox", True, "resize=pad"),
        ("object_detection", "letterbox", False, "resize=stretch"),
        ("object_detection", "letterbox", "maybe", "resize=pad"),
    ],
)
def test_former_names_of_resize_are_told_with_the_value_to_write(task, key, value, cure):
    with pytest.raises(ConfigError, match=f"usecase.{key} was renamed to resize; .*{cure}"):
        load_task(task, {"classes": ["a", "b"], key: value})


def test_an_unknown_key_is_told_with_a_near_one():
    require_known({"classes": []}, ["classes"])
    with pytest.raises(ConfigError, match="no key 'clases'; did you mean 'classes'"):
        require_known({"clases": []}, ["classes"])


@pytest.mark.parametrize("value", [3, 7, 3.5, "4", True, None])
def test_a_number_is_within_its_range_and_whole_if_it_must_be(value):
    check = number(4, 6, whole=True)
    check("usecase.x", 5)
    with pytest.raises(ConfigError, match=r"usecase\.x is .*; expected 4 to 6"):
        check("usecase.x", value)


def test_a_choice_is_one_of_the_options_and_true_is_not_1():
    one_of(1, 3)("usecase.channels", 3)
    for value in (2, True):
        with pytest.raises(ConfigError, match="expected 1 or 3"):
            one_of(1, 3)("usecase.channels", value)


def test_classes_differ_as_canonical_texts():
    assert read_classes([0, 1.0]) == ("0", "1")
    with pytest.raises(ConfigError, match="names a class twice"):
        read_classes(["1", 1])


def test_normalisation_is_by_name_or_by_numbers():
    assert read_normalisation("pooled", 3) == (None, None)
    assert read_normalisation("none", 1) == ((0.0,), (1.0,))
    assert read_normalisation({"mean": 0.5, "std": [0.1, 0.2]}, 2) == ((0.5, 0.5), (0.1, 0.2))
    with pytest.raises(ConfigError, match="imagenet"):
        read_normalisation("imagenet", 1)
