import pytest

from fl_common.errors import ConfigError, SchemaError
from fl_common.words import canonical
from tasks.tabular.schema import DEFAULT_MISSING, TabularSchema


def classification(**keys):
    schema = {"target": "y", "classes": ["a", "b"], **keys}
    return TabularSchema.from_mapping(schema, classification=True)


def test_defaults():
    schema = classification()
    assert schema.columns is None
    assert schema.missing_values == DEFAULT_MISSING
    assert (schema.imputation, schema.scaler, schema.attributions) == ("mean", "standard", True)


def test_null_values_of_a_configuration_file_mean_the_default():
    keys = dict.fromkeys(("categorical", "subgroups", "feature_blocks", "columns", "imputation"))
    assert classification(**keys) == classification()


@pytest.mark.parametrize(
    ("given", "text"),
    [(1, "1"), (1.0, "1"), (True, "1"), ("1.0", "1"), ("False", "0"), (" a ", "a"), ("007", "007")],
)
def test_canonical_text(given, text):
    assert canonical(given) == text


def test_classes_may_be_numbers():
    assert classification(classes=[0, 1.0, "2"]).classes == ("0", "1", "2")


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"colums": "all"}, "no key 'colums'; did you mean 'columns'"),
        ({"target": ""}, "usecase.target is missing"),
        ({"target_scaling": True}, "no key 'target_scaling'"),
        ({"classes": None}, "usecase.classes is missing"),
        ({"classes": ["a"]}, "at least two different classes"),
        ({"classes": [1, "1.0"]}, "at least two different classes"),
        ({"classes": "ab"}, "expected a list of texts"),
        ({"exclude": "id"}, "usecase.exclude is 'id'; expected a list"),
        ({"imputation": "medain"}, "did you mean 'median'"),
        ({"scaler": "robust"}, "choose from 'standard', 'per_site', 'none'"),
        ({"attributions": "yes"}, "expected true or false"),
        ({"feature_blocks": ["x"]}, "expected a mapping of names to lists"),
        ({"feature_blocks": {"a/b": ["x"]}}, "expected a text without '/'"),
        ({"categories": ["x"]}, "expected a mapping of columns to lists"),
        ({"subgroups": ["x"]}, "expected a mapping of names to rules"),
        ({"subgroups": {"g": {"class": "c"}}}, "class 'c' does not exist; choose from 'a', 'b'"),
        ({"subgroups": {"g": {"column": "x"}}}, "usecase.subgroups.g is .*; expected"),
        ({"subgroups": {"g": {"column": "x", "min": "low"}}}, "min and max must be numbers"),
        ({"subgroups": {"g": "old"}}, "usecase.subgroups.g is .*; expected"),
    ],
)
def test_wrong_keys_are_config_errors(keys, message):
    with pytest.raises(ConfigError, match=message) as error:
        classification(**keys)
    assert "\n" not in str(error.value)


def test_regression_has_no_classes():
    with pytest.raises(ConfigError, match="no key 'classes'"):
        TabularSchema.from_mapping({"target": "y", "classes": ["a", "b"]}, classification=False)


def test_features_of_all_columns_are_sorted_and_leave_out_target_and_excluded():
    schema = classification(exclude=["id*", "note"])
    assert schema.features(["b", "y", "id_1", "note", "a"], "f.csv") == ["a", "b"]


def test_features_follow_the_order_of_the_list_then_names():
    schema = classification(columns=["z", "lab_*"])
    assert schema.features(["lab_2", "y", "z", "lab_1", "other"], "f.csv") == [
        "z",
        "lab_1",
        "lab_2",
    ]


def test_a_name_that_looks_like_a_pattern_matches_itself():
    assert classification(columns=["dose[mg]"]).features(["dose[mg]", "dosem", "y"], "f")[0] == (
        "dose[mg]"
    )


@pytest.mark.parametrize("key", ["columns", "categorical"])
def test_listed_column_that_is_missing_names_the_nearest(key):
    schema = classification(**{key: ["age", "wieght"]})
    with pytest.raises(SchemaError, match=rf"f.csv, row 1: column 'wieght' of usecase.{key} is"):
        schema.features(["age", "weight", "y"], "f.csv")


def test_no_feature_left_is_a_schema_error():
    with pytest.raises(SchemaError, match="no feature column is left"):
        classification(exclude=["*"]).features(["y", "x"], "f.csv")
