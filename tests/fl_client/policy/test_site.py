"""site.yaml: every wrong value is named, and no wrong value is a traceback."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fl_client.policy import site as module
from fl_client.policy.site import Policy, SiteConfig, read_site, site_from_json, site_from_mapping
from fl_common.errors import ConfigError, PolicyError
from tasks.contract import DataSource, Partition, TrainConfig
from tests.unchecked import unchecked

NEEDED = ("name", "train")
MINIMAL = {"name": "a", "data": {"train": "a.csv"}}


def with_(path: str, value: object) -> dict:
    """Return a minimal site with the value at a dotted path."""
    raw = {"name": "a", "data": {"train": "a.csv"}, "policy": {}}
    target = raw
    *outer, key = path.split(".")
    for name in outer:
        target = target.setdefault(name, {})
    if outer == ["data", "partition"]:
        target |= {"kind": "iid", "num_sites": 2, "index": 0}
    target[key] = value
    return raw


def read(raw: object) -> SiteConfig:
    return site_from_mapping(raw, "site.yaml", Path("/sites"))


def test_minimal_site_gets_the_documented_defaults(tmp_path):
    """The example in the module's docstring is what an empty policy means, key for key."""
    block = module.__doc__.partition("::\n")[2].partition("Every key")[0]
    documented = yaml.safe_load(block)
    assert documented["policy"].keys() == {f.name for f in fields(Policy)}
    shared = {"name", "partition"}
    assert documented["data"].keys() == {f.name for f in fields(DataSource)} - shared
    given, default = read(documented), read({"name": "clinic_a", "data": {"train": "x.csv"}})
    assert given.policy == default.policy == Policy()
    assert given.audit is default.audit is None
    assert given.source.holdout_fraction == default.source.holdout_fraction
    assert given.source.holdout is given.source.split_seed is None
    assert given.source.train == "/sites/data/train.csv"


def test_every_key_and_its_default_are_in_the_guide():
    """docs/deployment.md has one table of all keys; a new one must not be forgotten there."""
    guide = Path(__file__).resolve().parents[3] / "docs/deployment.md"
    table = dict(re.findall(r"^\| `([a-z_.]+)` \| `?([^`|]*?)`? \|", guide.read_text(), re.M))
    flat = {
        **{f.name: f.default for f in fields(SiteConfig) if f.name not in ("source", "policy")},
        **{f"policy.{f.name}": f.default for f in fields(Policy)},
        **{f"data.{f.name}": f.default for f in fields(DataSource) if f.name not in NEEDED},
        "memory": "memory",  # of a site.yaml; a simulated site has none
    }
    documented = {key: yaml.safe_load(table.pop(key, "missing")) for key in flat}
    assert documented == {k: list(v) if isinstance(v, tuple) else v for k, v in flat.items()}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "no such file; give site=PATH/site.yaml"),
        ("", "expected keys name, data, policy"),
        ("- name: a\n", "expected keys name, data, policy"),
        ("just text", "expected keys name, data, policy"),
        ("name: [a\n", "not valid YAML"),
        ("name: a\n\tdata: x\n", "not valid YAML"),
        ("name: !!python/object/apply:os.system [ls]\n", "not valid YAML"),
        ("name: 2026-99-99\n", "not valid YAML"),
        ("[" * 3000, "not valid YAML"),
        ("name: a\nname: b\n", "key 'data.train' is missing"),
        (b"\xff\xfe", "cannot be read"),
        ("data: {train: a.csv}\n", "key 'name' is missing"),
        ("name: a\n", "key 'data.train' is missing"),
    ],
)
def test_file_that_is_no_site_is_named(tmp_path, content, says):
    path = tmp_path / "site.yaml"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        path.write_text(content)
    with pytest.raises(ConfigError, match=re.escape(str(path))) as caught:
        read_site(path)
    assert says in str(caught.value)


def test_folder_is_no_site(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        read_site(tmp_path)


@pytest.mark.parametrize(
    ("key", "near"),
    [
        ("nam", "'name'"),
        ("polici", "'policy'"),
        ("data.trian", "'data.train'"),
        ("data.name", "known:"),
        ("policy.min_row", "'policy.min_rows'"),
        ("policy.max_epochs", "'policy.max_local_epochs'"),
        ("policy.zzz", "known:"),
        ("policy.weight_may_leave", "'policy.weights_may_leave'"),
        ("data.partition.num_site", "'data.partition.num_sites'"),
    ],
)
def test_unknown_key_is_named_with_the_near_match(key, near):
    with pytest.raises(ConfigError, match=re.escape(f"unknown key '{key}'")) as caught:
        read(with_(key, 1))
    assert near in str(caught.value)


WRONG = {
    "name": [None, 5, "", "  ", ["a"], {"a": 1}],
    "data": [None, 5, "a.csv", ["a.csv"], {}],
    "data.train": [None, 5, "", ["a.csv"], {"a": 1}, "a\0.csv"],
    "data.holdout": [5, ["a.csv"], {"a": 1}, True],
    "data.holdout_fraction": ["x", 0, 1, -0.5, 2, True, [0.2], float("nan")],
    "data.split_seed": ["x", 1.5, -1, True, [1]],
    "data.on_invalid": ["ignore", 5, True, ["drop"], {"a": 1}],
    "data.partition": [5, "iid", ["iid"]],
    "data.partition.num_sites": ["x", 0, 1.5, True],
    "data.partition.index": ["x", -1],
    "data.partition.alpha": ["x", 0, -1, float("nan"), float("inf"), True],
    "data.partition.column": [5, ["a"]],
    "data.partition.kind": [5, ["iid"]],
    "policy": [5, "none", ["min_rows"], True],
    "policy.min_rows": ["x", 0, -1, 1.5, True, [5], float("nan")],
    "policy.min_group_size": ["x", 0, -1, 1.5, False],
    "policy.min_subgroup_rows": ["x", 0, -1, 1.5, False],
    "policy.tasks": ["tabular_classification", 5, [5], {"a": 1}, [None], True],
    "policy.models": ["mlp", 5, [["mlp"]]],
    "policy.strategies": ["fedavg", 5],
    "policy.weights_may_leave": ["no", 0, 1, "false", [False]],
    "policy.custom_code": ["no", 1, "yes"],
    "policy.max_local_epochs": ["x", 0, 1.5, True, float("inf")],
    "policy.max_local_steps": ["x", 0, 1.5, True],
    "policy.plugins": ["a", 5, [5]],
    "policy.epsilon_budget": ["x", 0, -1, True, float("inf"), float("nan")],
    "policy.epsilon_delta": [0, 1, "x", True],
    "policy.secure_aggregation": ["no", 1],
    "policy.secagg_min_sites": [2, "x", True, 3.5],
    "audit": [5, ["a"], {"a": 1}, True],
    "privacy_budget": [5, ["a"], {"a": 1}, True],
    "memory": [5, ["a"], {"a": 1}, True],
    "location": [5, ["a"]],
}


@pytest.mark.parametrize(("key", "value"), [(k, v) for k, values in WRONG.items() for v in values])
def test_wrong_value_is_refused_and_named(key, value):
    with pytest.raises(ConfigError, match=r"site\.yaml: ") as caught:
        read(with_(key, value))
    assert key.rpartition(".")[2] in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "value"),
    [
        ("ledger", "privacy_budget", "epsilon.json"),
        ("data.on_bad", "on_invalid", "drop"),
    ],
)
def test_old_key_is_told_its_new_name(old, new, value):
    with pytest.raises(ConfigError, match=rf"^site\.yaml: key '{old}' was renamed to '{new}'$"):
        read(with_(old, value))


def test_unknown_key_without_a_value_is_refused_too():
    """Null means the default only of a key that exists."""
    for key in ("policy.min_row", "data.trian", "data.partition.indx"):
        with pytest.raises(ConfigError, match=f"unknown key '{key}'"):
            read(with_(key, None))


def test_wrong_name_is_told_once():
    with pytest.raises(ConfigError) as caught:
        read(with_("name", 5))
    assert str(caught.value) == "site.yaml: name must be a text, got 5"


ODD = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.dates(),
    lambda children: (
        st.lists(children, max_size=3)
        | st.dictionaries(st.text(max_size=3) | st.integers(), children, max_size=3)
    ),
    max_leaves=5,
)


@given(key=st.sampled_from(sorted({*WRONG, "x", "data.x", "policy.x"})), value=ODD)
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_value_gives_a_site_or_a_config_error(key, value):
    try:
        site = read(with_(key, value))
    except ConfigError:
        return
    assert isinstance(site.policy.min_rows, int)
    assert site.policy.min_rows >= 1


@pytest.mark.parametrize("text", ["", "[]", "5", "{", "null", '{"name": 5}', '{"name": "a"}'])
def test_simulated_site_that_is_no_object_is_a_config_error(text):
    with pytest.raises(ConfigError, match="simulated site"):
        site_from_json(text)


def test_paths_are_relative_to_the_file(tmp_path):
    (tmp_path / "site.yaml").write_text(
        "name: a\ndata: {train: d/a.csv, holdout: /abs/b.csv}\naudit: log/a.jsonl\n"
    )
    site = read_site(tmp_path / "site.yaml")
    assert site.source.train == str(tmp_path / "d/a.csv")
    assert site.source.holdout == "/abs/b.csv"
    assert site.audit == tmp_path / "log/a.jsonl"
    assert read(with_("data.train", "dataset:iris")).source.train == "dataset:iris"


def test_partition_is_read_whole():
    raw = with_("data.partition.alpha", 2)
    expected = Partition("iid", 2, 0, 0, 2.0)
    assert read(raw).source.partition == expected
    del raw["data"]["partition"]["index"]
    with pytest.raises(ConfigError, match=r"'data\.partition\.index' is missing"):
        read(raw)


def test_null_means_the_default():
    policy = dict.fromkeys(f.name for f in fields(Policy))
    assert read({**MINIMAL, "policy": policy}).policy == Policy()


@pytest.mark.parametrize(
    ("train", "key"),
    [
        (TrainConfig(local_epochs=101), "max_local_epochs"),
        (TrainConfig(local_steps=100_001), "max_local_steps"),
        (unchecked(TrainConfig(), local_epochs=float("nan")), "max_local_epochs"),
        (unchecked(TrainConfig(), local_steps=float("inf")), "max_local_steps"),
    ],
)
def test_local_work_is_limited(train, key):
    with pytest.raises(PolicyError, match=key):
        Policy().check_train(train)


@pytest.mark.parametrize(
    ("minimum", "members", "rows", "leaves"),
    [
        (1, 0, 10, False),
        (1, 1, 10, True),
        (1, 10, 10, True),
        (5, 4, 10, False),
        (5, 5, 10, True),
        (5, 6, 10, False),  # four others
        (5, 10, 10, True),  # no others
    ],
)
def test_small_subgroups_and_small_remainders_stay(minimum, members, rows, leaves):
    assert Policy(min_subgroup_rows=minimum).subgroup_may_leave(members, rows) is leaves
