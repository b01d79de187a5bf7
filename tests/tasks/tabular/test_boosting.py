"""Trees behind the Task seam: the same trees as XGBoost's own, and nothing hostile gets through."""

from __future__ import annotations

import importlib.util
import json

import numpy as np
import pandas as pd
import pytest

from fl_common.errors import ConfigError, ReplyError
from tasks.contract import DataSource, DpSgd, LocalObjective, ModelSpec, Partition, TrainConfig
from tasks.registry import load_task
from tasks.stats import Stats
from tasks.trees import booster_json as boosters
from tasks.trees.booster_validation import check_booster
from tasks.trees.variable_size import VariableSizeModel

xgboost = pytest.importorskip("xgboost")

EMPTY = {"0": np.zeros(0, dtype=np.uint8)}
NONE, CONFIG = LocalObjective(), TrainConfig()
SPEC = ModelSpec("xgboost", {"max_depth": 3, "eta": 0.3})
USECASES = {
    "binary": (
        "tabular_classification",
        {"target": "y", "classes": ["n", "p"], "categorical": ["sex"]},
    ),
    "multi": (
        "tabular_classification",
        {"target": "z", "classes": ["a", "b", "c"], "categorical": ["sex"]},
    ),
    "regression": ("tabular_regression", {"target": "v", "categorical": ["sex"]}),
}


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    rng = np.random.default_rng(5)
    x = rng.normal(size=(240, 3))
    frame = pd.DataFrame(x, columns=["x1", "x2", "x3"])
    frame["sex"] = rng.choice(["f", "m"], size=240)
    signal = 2 * x[:, 0] - x[:, 1] ** 2 + (frame["sex"] == "m") + 0.3 * rng.normal(size=240)
    frame["y"] = np.where(signal > 0, "p", "n")
    frame["z"] = np.array(["a", "b", "c"])[np.digitize(signal, [-1, 0.5])]
    frame["v"] = 100 + 10 * signal
    path = tmp_path_factory.mktemp("table") / "table.csv"
    frame.to_csv(path, index=False)
    return path


class Case:
    """A task on one use case, its sites and its fitted preprocessing."""

    def __init__(self, kind, table, num_sites=2, **schema):
        name, base = USECASES[kind]
        others = [c for c in ("y", "z", "v") if c != base["target"]]
        self.task = load_task(name, base | {"exclude": others} | schema)
        self.sites = [
            self.task.read(
                DataSource(f"s{i}", str(table), partition=Partition("iid", num_sites, i)), 7
            )
            for i in range(num_sites)
        ]
        self.fitted = self.task.prepare(Stats.total(self.task.fit(s, 1) for s in self.sites))

    def model(self, **params):
        return self.task.build(ModelSpec("xgboost", SPEC.params | params), self.fitted, 3)

    def train(self, model, site=0, seed=1, config=CONFIG):
        return self.task.train(model, self.sites[site], config, NONE, seed)

    def scores(self, model):
        pooled = Stats.total(self.task.evaluate(model, site) for site in self.sites)
        return self.task.finalise(pooled, self.fitted)


@pytest.fixture(params=list(USECASES))
def case(request, table):
    return Case(request.param, table)


@pytest.fixture
def binary(table):
    return Case("binary", table)


def reference(case, rounds, weights=None):
    """XGBoost itself on one site's encoded rows; a base score is the only thing it is told."""
    model = case.model()
    inputs, targets = case.sites[0].tensors(model.encoder, "train")
    params = {"max_depth": 3, "eta": 0.3, "objective": model.form.objective, "nthread": 1}
    params["base_score"] = model.form.base_score
    if model.form.num_groups > 1:
        params["num_class"] = model.form.num_groups
    rows = xgboost.DMatrix(inputs.numpy(), label=targets.numpy(), weight=weights)
    return xgboost.train(params, rows, num_boost_round=rounds)


@pytest.mark.parametrize("local", [1, 3])
def test_local_rounds_are_xgboost_s_own(case, local):
    model = case.model(num_local_round=local)
    for _ in range(6 // local):
        case.train(model)
    inputs = case.sites[0].tensors(model.encoder, "holdout").inputs
    expected = reference(case, 6).predict(xgboost.DMatrix(inputs.numpy()), output_margin=True)
    found = model.outputs(inputs)
    if len(model.encoder.classes) == 2:
        found = found[:, 1] - found[:, 0]
    np.testing.assert_allclose(found.reshape(expected.shape), expected, atol=1e-6)


def test_training_is_deterministic_and_subsampling_follows_the_seed(case):
    model = case.model(subsample=0.5, num_local_round=3)
    first = case.train(model, seed=4)
    model.load(EMPTY)
    second = case.train(model, seed=4)
    model.load(EMPTY)
    other = case.train(model, seed=5)
    assert first.arrays["0"].tobytes() == second.arrays["0"].tobytes()
    assert first.arrays["0"].tobytes() != other.arrays["0"].tobytes()
    assert (first.num_examples, first.num_steps) == (case.sites[0].num_train, 3)


def test_training_lowers_the_loss_and_beats_no_trees(case):
    model = case.model()
    name = "r2" if case.fitted.get("target") else "accuracy"
    baseline = case.scores(model).overall.values[name]
    losses = [case.train(model, site=i % 2).loss for i in range(20)]
    assert losses[-1] < 0.6 * losses[0]
    assert case.scores(model).overall.values[name] > baseline + 0.2


def test_no_trees_predict_the_shares_of_the_classes(binary, table):
    counts = binary.fitted["class_counts"]
    found = binary.task.predict(binary.model(), table)
    np.testing.assert_allclose(found["proba_p"], counts[1] / sum(counts), atol=1e-6)
    assert (binary.model().arrays()["0"].shape, binary.model().arrays()["0"].dtype) == ((0,), "u1")


def test_no_trees_predict_the_mean_and_every_class_alike(table):
    regression, multi = Case("regression", table, target_scaling=False), Case("multi", table)
    np.testing.assert_allclose(
        regression.task.predict(regression.model(), table)["prediction"],
        regression.fitted["target"]["mean"],
        rtol=1e-6,
    )
    np.testing.assert_allclose(
        multi.task.predict(multi.model(), table)[["proba_a", "proba_b", "proba_c"]], 1 / 3
    )


def test_unscaled_targets_are_learned_too(table):
    case = Case("regression", table, target_scaling=False)
    model = case.model()
    for i in range(30):
        case.train(model, site=i % 2)
    assert case.scores(model).overall.values["r2"] > 0.5


def test_balanced_weights_are_those_of_all_sites(binary):
    model = binary.model(num_local_round=4)
    binary.train(model, config=TrainConfig(class_weight="balanced"))
    inputs, targets = binary.sites[0].tensors(model.encoder, "train")
    counts = np.array(binary.fitted["class_counts"])
    weights = (counts.sum() / (2 * counts))[targets.numpy()]
    expected = reference(binary, 4, weights).predict(
        xgboost.DMatrix(inputs.numpy()), output_margin=True
    )
    np.testing.assert_allclose(model.outputs(inputs)[:, 1], expected, atol=1e-6)


def test_every_scope_is_summed_as_for_networks(table):
    schema = {
        "subgroups": {"men": {"column": "sex", "values": ["m"]}},
        "feature_blocks": {"x": ["x*"], "sex": ["sex"]},
    }
    case = Case("multi", table, **schema)
    model, network = case.model(), case.task.build(ModelSpec("linear"), case.fitted, 0)
    for _ in range(5):
        case.train(model)
    for other in (network, model):
        blank, sent = case.task.empty_stats(other), case.task.evaluate(other, case.sites[0])
        assert {n: (a.shape, a.dtype) for n, a in blank.items()} == {
            n: (a.shape, a.dtype) for n, a in sent.items()
        }
    assert set(case.task.empty_stats(model)) == set(case.task.empty_stats(network))
    card = case.scores(model)
    assert card.blocks["x"].values["accuracy"] > card.blocks["sex"].values["accuracy"]
    assert card.attributions["x1"] > card.attributions["x3"]


@pytest.mark.parametrize("kind", list(USECASES))
def test_attributions_are_treeshap(table, kind):
    case = Case(kind, table)
    model = case.model(num_local_round=3)
    assert not model.attributions(case.sites[0].tensors(model.encoder, "train").inputs).any()
    case.train(model)
    inputs = case.sites[0].tensors(model.encoder, "train").inputs
    shap = reference(case, 3).predict(xgboost.DMatrix(inputs.numpy()), pred_contribs=True)
    if shap.ndim == 3:
        shap = shap[np.arange(len(shap)), model.outputs(inputs).argmax(axis=1)]
    expected = np.abs(shap[:, :-1]).sum(axis=0)
    np.testing.assert_allclose(model.attributions(inputs), expected, rtol=1e-5)


def test_new_trees_and_joined_ones_are_the_whole(case):
    model = case.model(num_local_round=2)
    first = case.train(model).arrays["0"]
    whole = case.train(model, site=1).arrays["0"]
    new = boosters.added(whole, first)
    assert check_booster(boosters.parse(new), model.form) == 2 * model.form.num_groups
    model.check_reply({"0": new}, {"0": first}, whole=False)
    model.check_reply({"0": whole}, {"0": first}, whole=True)
    assert boosters.parse(boosters.joined(first, [new])) == boosters.parse(whole)
    assert boosters.joined(EMPTY["0"], []).size == 0
    assert boosters.added(EMPTY["0"], EMPTY["0"]).size == 0


def test_scaled_trees_add_that_much_less(case):
    model = case.model(num_local_round=2)
    full = case.train(model).arrays["0"]
    inputs = case.sites[0].tensors(model.encoder, "train").inputs
    whole = model.outputs(inputs)
    model.load(EMPTY)
    base = model.outputs(inputs)
    model.load({"0": boosters.scaled(full, 0.25)})
    np.testing.assert_allclose(model.outputs(inputs) - base, 0.25 * (whole - base), atol=1e-6)


def test_arrays_are_copies_and_other_arrays_are_refused(case):
    model = case.model()
    case.train(model)
    before = model.arrays()
    model.arrays()["0"][:] = 0
    assert model.arrays()["0"].tobytes() == before["0"].tobytes()
    for wrong in ({}, {**before, "1": before["0"]}, {"0": before["0"].astype(np.float32)}):
        with pytest.raises(ReplyError):
            model.load(wrong)
    with pytest.raises(ReplyError):
        model.load({"0": before["0"][None]})
    assert isinstance(model, VariableSizeModel)
    assert not isinstance(case.task.build(ModelSpec("mlp"), case.fitted, 0), VariableSizeModel)
    assert (case.task.new_trees(SPEC), case.task.new_trees(ModelSpec("mlp"))) == (
        model.form.num_groups,
        0,
    )


def test_gradients_are_refused(binary):
    with pytest.raises(ConfigError, match="xgb_bagging"):
        binary.task.train(
            binary.model(), binary.sites[0], CONFIG, LocalObjective(proximal_mu=1.0), 0
        )
    with pytest.raises(ConfigError, match="differential privacy"):
        binary.train(binary.model(), config=TrainConfig(dp=DpSgd(1.0, 1.0, 1e-5)))
    with pytest.raises(ConfigError, match=r"train\.loss=auto"):
        binary.task.check(SPEC, TrainConfig(loss="focal"))


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"max_depth": 13}, "model.params.max_depth is 13; expected a whole number from 1 to 12"),
        ({"max_depth": 2.0}, "max_depth is 2.0"),
        ({"eta": 0}, "model.params.eta is 0; expected above 0 and up to 1"),
        ({"eta": float("nan")}, "eta is nan"),
        ({"lambda": -1}, "lambda"),
        ({"num_local_round": True}, "num_local_round is True"),
        ({"max_dpth": 3}, "no parameter 'max_dpth'; did you mean 'max_depth'"),
    ],
)
def test_wrong_parameter_is_named(binary, params, words):
    with pytest.raises(ConfigError, match=words):
        binary.task.build(ModelSpec("xgboost", params), binary.fitted, 0)


def test_missing_xgboost_is_one_line(binary, monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(
        "tasks.tabular.boosting.find_spec", lambda n: None if n == "xgboost" else real(n)
    )
    with pytest.raises(ConfigError, match=r"pip install 'fedleague\[xgboost\]'"):
        binary.task.check(SPEC, CONFIG)


def tree(document, number=0):
    return document["learner"]["gradient_booster"]["model"]["trees"][number]


def model_part(document):
    return document["learner"]["gradient_booster"]["model"]


def head(document):
    return document["learner"]["learner_model_param"]


HOSTILE = {
    "leaf is nan text": lambda d: tree(d)["split_conditions"].__setitem__(-1, float("nan")),
    "leaf is infinite": lambda d: tree(d)["split_conditions"].__setitem__(-1, float("inf")),
    "leaf is beyond float32": lambda d: tree(d)["split_conditions"].__setitem__(-1, 1e300),
    "leaf is huge": lambda d: tree(d)["split_conditions"].__setitem__(-1, 1e38),
    "leaf is text": lambda d: tree(d)["split_conditions"].__setitem__(-1, "1.0"),
    "leaf is a list": lambda d: tree(d)["split_conditions"].__setitem__(-1, [1.0]),
    "gain is infinite": lambda d: tree(d)["loss_changes"].__setitem__(0, 1e39),
    "child out of range": lambda d: tree(d)["left_children"].__setitem__(0, 10**6),
    "child beyond int64": lambda d: tree(d)["left_children"].__setitem__(0, 10**30),
    "child is the root": lambda d: tree(d)["left_children"].__setitem__(1, 0),
    "child is itself": lambda d: tree(d)["right_children"].__setitem__(0, 0),
    "child of two": lambda d: tree(d)["right_children"].__setitem__(0, tree(d)["left_children"][0]),
    "child is true": lambda d: tree(d)["left_children"].__setitem__(0, True),
    "half a leaf": lambda d: tree(d)["right_children"].__setitem__(0, -1),
    "children are a number": lambda d: tree(d).__setitem__("left_children", 3),
    "wrong parent": lambda d: tree(d)["parents"].__setitem__(1, 1),
    "feature out of range": lambda d: tree(d)["split_indices"].__setitem__(0, 99),
    "feature below zero": lambda d: tree(d)["split_indices"].__setitem__(0, -1),
    "categorical split": lambda d: tree(d)["split_type"].__setitem__(0, 1),
    "categories": lambda d: tree(d).__setitem__("categories", [1]),
    "short list": lambda d: tree(d)["sum_hessian"].pop(),
    "wrong node count": lambda d: tree(d)["tree_param"].__setitem__("num_nodes", "7000"),
    "node count is a number": lambda d: tree(d)["tree_param"].__setitem__("num_nodes", 3),
    "vector leaves": lambda d: tree(d)["tree_param"].__setitem__("size_leaf_vector", "3"),
    "stowaway in a tree": lambda d: tree(d).__setitem__("names", ["patient 4711"]),
    "stowaway attribute": lambda d: d["learner"]["attributes"].__setitem__("note", "4711"),
    "stowaway feature name": lambda d: d["learner"].__setitem__("feature_names", ["4711"]),
    "stowaway at the top": lambda d: d.__setitem__("rows", [1, 2, 3]),
    "no learner": lambda d: d.pop("learner"),
    "learner is a list": lambda d: d.__setitem__("learner", []),
    "another booster": lambda d: d["learner"]["gradient_booster"].__setitem__("name", "dart"),
    "another objective": lambda d: d["learner"]["objective"].__setitem__("name", "rank:ndcg"),
    "other features": lambda d: head(d).__setitem__("num_feature", "999"),
    "other classes": lambda d: head(d).__setitem__("num_class", "7"),
    "other base score": lambda d: head(d).__setitem__("base_score", "[9.9E-1]"),
    "base score is no number": lambda d: head(d).__setitem__("base_score", "nan"),
    "more trees than declared": lambda d: model_part(d)["trees"].append(tree(d)),
    "trees are text": lambda d: model_part(d).__setitem__("trees", "none"),
    "unknown class of a tree": lambda d: model_part(d)["tree_info"].__setitem__(0, 5),
    "class is false": lambda d: model_part(d)["tree_info"].__setitem__(0, False),
    "rounds do not add up": lambda d: model_part(d)["iteration_indptr"].__setitem__(0, 1),
    "parallel trees": lambda d: model_part(d)["gbtree_model_param"].__setitem__(
        "num_parallel_tree", "4"
    ),
    "version is text": lambda d: d.__setitem__("version", "3.2.0"),
    "tree is null": lambda d: model_part(d)["trees"].__setitem__(0, None),
}


@pytest.fixture
def honest(case):
    model = case.model()
    return model, case.train(model).arrays["0"]


@pytest.mark.parametrize("name", list(HOSTILE))
def test_hostile_booster_is_refused(honest, name):
    model, array = honest
    document = boosters.parse(array)
    HOSTILE[name](document)
    reply = {"0": np.frombuffer(json.dumps(document).encode(), dtype=np.uint8)}
    with pytest.raises(ReplyError):
        model.check_reply(reply, EMPTY)
    with pytest.raises(ReplyError):
        model.load(reply)
    assert model.arrays()["0"].tobytes() == array.tobytes()


@pytest.mark.parametrize(
    "text",
    [
        b"\x80\x04\x95pickle",
        b"{L\x00\x00\x00\x00\x00\x00\x00",
        b"null",
        b"[]",
        b'"text"',
        b"{}",
        b"{",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        '{"learner": "é"}'.encode(),
        '{"learner": 1}'.encode("utf-16"),
        b'{"version":[3,2,0],"version":[3,2,0]}',
        b"1" * 10_000,
        b"binf",
    ],
    ids=range(14),
)
def test_bytes_that_are_no_booster_are_refused(honest, text):
    model, _ = honest
    with pytest.raises(ReplyError):
        model.check_reply({"0": np.frombuffer(text, dtype=np.uint8)}, EMPTY)


def test_repeated_key_is_refused_as_parsers_disagree(honest):
    model, array = honest
    text = array.tobytes().replace(b'"version"', b'"version":[3,2,0],"version"')
    with pytest.raises(ReplyError, match="twice"):
        model.check_reply({"0": np.frombuffer(text, dtype=np.uint8)}, EMPTY)


def test_reply_holds_as_many_trees_as_were_asked_for(case):
    model = case.model(num_local_round=2)
    first = case.train(model).arrays
    whole = case.train(model).arrays
    more = case.train(model).arrays
    with pytest.raises(ReplyError, match="asked for"):
        model.check_reply(more, first)
    with pytest.raises(ReplyError, match="asked for"):
        model.check_reply(whole, first, whole=False)
    with pytest.raises(ReplyError, match="asked for"):
        model.check_reply(first, first, whole=True)
    with pytest.raises(ReplyError, match="no tree"):
        model.check_reply(EMPTY, first)


def test_continued_booster_keeps_earlier_trees(case):
    model = case.model()
    first = case.train(model).arrays
    document = boosters.parse(case.train(model).arrays["0"])
    tree(document)["split_conditions"][-1] += 0.5
    with pytest.raises(ReplyError, match="earlier rounds"):
        model.check_reply({"0": boosters.to_array(document)}, first, whole=True)


def test_larger_trees_than_agreed_are_refused(binary):
    deep = binary.train(binary.model(max_depth=6)).arrays
    with pytest.raises(ReplyError, match="nodes"):
        binary.model(max_depth=2).check_reply(deep, EMPTY)


def test_bound_on_bytes_holds_for_full_trees_of_flower_s_json(case):
    model = case.model(max_depth=5, min_child_weight=0, num_local_round=3)
    arrays = case.train(model).arrays
    spaced = json.dumps(boosters.parse(arrays["0"])).encode()
    assert len(spaced) < model.most_bytes(EMPTY) < 50 * len(spaced)
