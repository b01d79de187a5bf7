"""Federated XGBoost end to end: exact against XGBoost and Flower, useful, and safe to receive."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from flwr.app import Message
from flwr.serverapp.strategy.strategy_utils import aggregate_bagging
from safetensors.numpy import load_file
from sklearn.datasets import load_wine

from fl_client import runner
from fl_common.errors import ConfigError
from fl_server.cli import main
from fl_server.config.compatibility import check_run
from fl_server.config.compose import compose_overrides
from fl_server.results.result import MODEL, RESULT
from fl_server.results.saved_model import load_run_model
from fl_server.runtimes.execution import execute
from fl_server.runtimes.simulation import InProcessGrid
from strategies.registry import client_update_name
from strategies.requirements import needs_single_updates
from strategies.wire.messages import ARRAYS
from strategies.wire.records import pack_arrays, unpack_arrays
from strategies.xgb_bagging import XgbBagging
from strategies.xgb_cyclic import XgbCyclic
from tasks.contract import DataSource, LocalObjective, Partition, child_seed
from tasks.registry import load_task
from tasks.stats import Stats
from tasks.trees import booster_json as boosters

xgboost = pytest.importorskip("xgboost")

BAGGING, CYCLIC = "strategy=xgb_bagging", "strategy=xgb_cyclic"
FLOWER = {
    "bagging": [CYCLIC, "strategy._target_=flwr.serverapp.strategy.FedXgbBagging"],
    "cyclic": [CYCLIC, "strategy._target_=flwr.serverapp.strategy.FedXgbCyclic"],
}


@pytest.fixture
def compose_trees(tmp_path):
    def make(*overrides, folder="run"):
        base = ["usecase=breast_cancer", "model=xgboost", BAGGING, "rounds=4", "board.url=null"]
        return compose_overrides([*base, *overrides], tmp_path / folder)

    return make


def run(config, grid=None):
    return execute(grid or InProcessGrid(config.site_data), config)


def booster(config):
    return load_file(config.folder / MODEL)["0"]


def open_sites(config):
    """The task and its sites, as a simulation cuts them, with the pooled preprocessing."""
    task = load_task(config.usecase.task, config.schema)
    sites = []
    for entry in config.site_data:
        data = dict(entry["data"])
        part = Partition(**data.pop("partition"))
        source = DataSource(name=entry["name"], partition=part, **data)
        sites.append(task.read(source, config.split_seed))
    return task, sites, task.prepare(Stats.total(task.fit(site, 5) for site in sites))


def central(config, site, rounds, start=None):
    """XGBoost on one site's rows, without any of our code between the rounds."""
    task, sites, fitted = open_sites(config)
    model = task.build(config.model, fitted, config.seed)
    inputs, targets = sites[site].tensors(model.encoder, "train")
    params = {"max_depth": 3, "eta": 0.1, "nthread": 1, "base_score": model.form.base_score}
    params["objective"] = model.form.objective
    if model.form.num_groups > 1:
        params["num_class"] = model.form.num_groups
    weights = None
    if config.train.class_weight == "balanced":
        counts = np.array(fitted["class_counts"])
        weights = (counts.sum() / (len(counts) * counts))[targets.numpy()]
    rows = xgboost.DMatrix(inputs.numpy(), label=targets.numpy(), weight=weights)
    return xgboost.train(params, rows, num_boost_round=rounds, xgb_model=start)


def assert_same_function(config, array, expected):
    """Equal raw scores on every holdout row of every site."""
    task, sites, fitted = open_sites(config)
    model = task.build(config.model, fitted, config.seed)
    found = xgboost.Booster()
    found.load_model(bytearray(array.tobytes()))
    for site in sites:
        rows = xgboost.DMatrix(site.tensors(model.encoder, "holdout").inputs.numpy())
        np.testing.assert_allclose(
            found.predict(rows, output_margin=True),
            expected.predict(rows, output_margin=True),
            atol=1e-6,
        )


USECASES = ["usecase=breast_cancer", "usecase=rare_disease", "usecase=diabetes"]


@pytest.mark.parametrize("strategy", [BAGGING, "strategy=xgb_bagging strategy.combine=sum", CYCLIC])
@pytest.mark.parametrize("usecase", USECASES)
def test_one_site_is_central_training(compose_trees, usecase, strategy):
    config = compose_trees(usecase, *strategy.split(), "data.num_sites=1", "sites.quorum=1")
    run(config)
    assert_same_function(config, booster(config), central(config, 0, 4))


@pytest.mark.parametrize("usecase", USECASES)
def test_cyclic_is_training_continued_at_the_next_site(compose_trees, usecase):
    config = compose_trees(usecase, CYCLIC, "data.num_sites=3", "rounds=7")
    outcome = run(config)
    visited = [[s.site for s in r.sites if s.phase == "train"] for r in outcome.rounds[1:]]
    assert visited == [[f"site_{n % 3}"] for n in range(7)]
    expected = None
    for number in range(7):
        expected = central(config, number % 3, 1, expected)
    assert_same_function(config, booster(config), expected)


@pytest.mark.parametrize("usecase", USECASES)
@pytest.mark.parametrize("combine", ["sum", "mean"])
def test_bagging_adds_what_each_site_grew_on_the_same_booster(compose_trees, usecase, combine):
    config = compose_trees(usecase, "rounds=1", "data.num_sites=3", f"strategy.combine={combine}")
    run(config)
    task, sites, fitted = open_sites(config)
    model = task.build(config.model, fitted, config.seed)
    inputs = sites[0].tensors(model.encoder, "holdout").inputs
    rows = xgboost.DMatrix(inputs.numpy())
    base = model.outputs(inputs).astype(np.float64)
    total = np.zeros_like(base)
    num_rows = sum(site.num_train for site in sites)
    for index, site in enumerate(sites):
        raw = central(config, index, 1).predict(rows, output_margin=True)
        raw = raw.reshape(len(base), -1)
        if len(model.encoder.classes) == 2:
            raw = np.hstack([np.zeros_like(raw), raw])
        total += (raw - base) * (site.num_train / num_rows if combine == "mean" else 1.0)
    model.load({"0": booster(config)})
    np.testing.assert_allclose(model.outputs(inputs), base + total, atol=2e-6)


def grown(config, trees=1):
    """The booster of round 1 and every site's further tree on it, as bytes."""
    task, sites, fitted = open_sites(config)
    model = task.build(config.model, fitted, config.seed)
    start = task.train(model, sites[0], config.train, LocalObjective(), 0).arrays
    parts = []
    for site in sites:
        model.load(start)
        whole = task.train(model, site, config.train, LocalObjective(), 0).arrays["0"]
        parts.append(boosters.added(whole, start["0"]))
    return start["0"], parts


def test_joined_boosters_are_flower_s_on_two_classes(compose_trees):
    start, parts = grown(compose_trees())
    expected = start.tobytes()
    for part in parts:
        expected = aggregate_bagging(expected, part.tobytes())
    assert json.loads(boosters.joined(start, parts).tobytes()) == json.loads(expected)


def test_flower_would_lose_the_trees_of_all_classes_but_one(compose_trees):
    start, parts = grown(compose_trees("usecase=rare_disease"))
    ours = json.loads(boosters.joined(start, parts).tobytes())
    flower = start.tobytes()
    for part in parts:
        flower = aggregate_bagging(flower, part.tobytes())
    kept = json.loads(flower)["learner"]["gradient_booster"]["model"]
    model = ours["learner"]["gradient_booster"]["model"]
    assert (len(model["trees"]), len(kept["trees"])) == (3 + 4 * 3, 3 + 4)
    assert model["tree_info"] == [0, 1, 2] * 5
    assert kept["tree_info"] == [0, 1, 2] + [0] * 4


@pytest.mark.parametrize("kind", list(FLOWER))
def test_flower_s_own_strategies_give_the_same_booster(compose_trees, kind):
    theirs = compose_trees(*FLOWER[kind], "data.num_sites=2", folder="flower")
    outcome = run(theirs)
    assert [record.status for record in outcome.rounds] == ["ok"] * len(outcome.rounds)
    found = json.loads(booster(theirs).tobytes())
    if kind == "bagging":
        ours = compose_trees("strategy.combine=sum", "data.num_sites=2", folder="ours")
        run(ours)
        expected = xgboost.Booster()
        expected.load_model(bytearray(booster(ours).tobytes()))
        assert_same_function(theirs, booster(theirs), expected)
    else:  # visits the sites in an order of its own
        visited = [[s.site for s in r.sites if s.phase == "train"] for r in outcome.rounds[1:]]
        expected = None
        for (site,) in visited:
            expected = central(theirs, int(site.removeprefix("site_")), 1, expected)
        assert found == json.loads(bytes(expected.save_raw("json")))


def scores(task, fitted, sites, model):
    pooled = Stats.total(task.evaluate(model, site) for site in sites)
    return task.finalise(pooled, fitted).overall.values


@pytest.mark.parametrize(
    ("usecase", "rounds", "score"),
    [
        ("heart_disease", 20, "f1_macro"),
        ("breast_cancer", 20, "f1_macro"),
        ("breast_cancer", 20, "log_loss"),
    ],
)
@pytest.mark.parametrize("combine", ["mean", "sum"])
def test_bagging_beats_the_baseline_and_the_mean_local_model(
    compose_trees, usecase, rounds, score, combine, request, capsys
):
    if usecase == "heart_disease":
        request.getfixturevalue("heart_disease")
    base = [f"usecase={usecase}", f"rounds={rounds}", f"strategy.combine={combine}"]
    config = compose_trees(*base)
    outcome = run(config)
    capsys.readouterr()
    task, sites, _ = open_sites(config)
    local = []
    for entry, own in zip(config.site_data, sites, strict=True):  # all alone, as many trees
        alone = task.prepare(task.fit(own, 5))
        model = task.build(config.model, alone, config.seed)
        for number in range(1, rounds + 1):
            seed = child_seed(config.seed, "train", entry["name"], number)
            task.train(model, own, config.train, LocalObjective(), seed)
        local.append(scores(task, alone, sites, model)[score])
    baseline, final = (outcome.rounds[i].card.overall.values[score] for i in (0, -1))
    with capsys.disabled():
        print(
            f"\n{usecase} {combine}: {score} baseline {baseline:.3f}, federated {final:.3f}, "
            f"local only {np.mean(local):.3f} ({', '.join(f'{v:.3f}' for v in local)})"
        )
    sign = -1 if score == "log_loss" else 1
    assert sign * final > sign * baseline
    assert sign * final > sign * np.mean(local)


@pytest.mark.parametrize("strategy", [BAGGING, CYCLIC])
def test_three_cultivars_are_told_apart(tmp_path, strategy):
    frame = load_wine(as_frame=True).frame.sample(frac=1.0, random_state=0)
    for index in range(3):
        frame.iloc[index::3].to_csv(tmp_path / f"{index}.csv", index=False)
    files = ",".join(str(tmp_path / f"{index}.csv") for index in range(3))
    base = ["usecase=tabular_classification", "usecase.target=target", "usecase.classes=[0,1,2]"]
    more = ["model=xgboost", strategy, "rounds=30", "board.url=null", f"data.sites=[{files}]"]
    outcome = run(compose_overrides([*base, *more], tmp_path / "run"))
    first, last = (outcome.rounds[i].card.overall.values for i in (0, -1))
    assert first["log_loss"] == pytest.approx(np.log(3), abs=1e-6)
    assert last["f1_macro"] > 0.9
    assert last["log_loss"] < 0.35


def test_rare_classes_are_found(compose_trees):
    outcome = run(compose_trees("usecase=rare_disease", "rounds=10"))
    first, last = (outcome.rounds[i].card.overall.values for i in (0, -1))
    assert last["f1_macro"] > first["f1_macro"] + 0.3
    assert last["log_loss"] < first["log_loss"] - 0.2


@pytest.mark.parametrize("strategy", [BAGGING, CYCLIC])
def test_resumed_run_is_the_whole_run(compose_trees, strategy):
    sampled = [strategy, "rounds=6", "model.params.subsample=0.7"]
    whole, killed = compose_trees(*sampled), compose_trees(*sampled, "rounds=3", folder="killed")
    run(whole), run(killed)
    resumed = compose_trees(*sampled, "resume=true", folder="killed")
    outcome = run(resumed)
    assert booster(resumed).tobytes() == booster(whole).tobytes()
    assert len(outcome.rounds) == 7


def test_order_of_replies_does_not_matter(compose_trees):
    class Reversed(InProcessGrid):
        def send_and_receive(self, messages, *, timeout=None):
            replies = list(super().send_and_receive(messages, timeout=timeout))
            return iter(replies[::-1])

    one, other = compose_trees(folder="one"), compose_trees(folder="other")
    run(one), run(other, Reversed(other.site_data))
    assert booster(one).tobytes() == booster(other).tobytes()


class TamperingGrid(InProcessGrid):
    """Changes the training replies of the first site."""

    def __init__(self, sites, tamper):
        super().__init__(sites)
        self._tamper = tamper

    def _deliver(self, message: Message) -> Message:
        reply = super()._deliver(message)
        if message.metadata.message_type == "train" and message.metadata.dst_node_id == 2:
            reply.content[ARRAYS] = self._tamper(unpack_arrays(reply.content[ARRAYS])["0"])
        return reply


def edited(change):
    def tamper(array):
        document = boosters.parse(array)
        change(document)
        text = json.dumps(document).encode()
        return pack_arrays({"0": np.frombuffer(text, dtype=np.uint8)})

    return tamper


def leaf(value):
    def change(document):
        model = document["learner"]["gradient_booster"]["model"]
        model["trees"][0]["split_conditions"][-1] = value

    return change


def text(content):
    return lambda _: pack_arrays({"0": np.frombuffer(content, dtype=np.uint8)})


HOSTILE = {
    "infinite leaf": (edited(leaf(float("inf"))), "no number"),
    "leaf beyond float32": (edited(leaf(1e200)), "tree 0 of the booster: it holds a value"),
    "other features": (
        edited(lambda d: d["learner"]["learner_model_param"].update(num_feature="7")),
        "7 features",
    ),
    "stowaway": (edited(lambda d: d.update(rows=[4711])), "other parts"),
    "pickle": (text(b"\x80\x04\x95"), "no JSON"),
    "empty": (text(b""), "no tree"),
    "deep": (text(b"[" * 5_000), "no JSON"),
    "bomb": (text(b" " * 2_000_000), "oversized"),
    "floats": (lambda _: pack_arrays({"0": np.zeros(3, dtype=np.float32)}), "no bytes"),
    "table": (lambda _: pack_arrays({"0": np.zeros((3, 2), dtype=np.uint8)}), "no bytes"),
    "second array": (lambda a: pack_arrays({"0": a, "1": a}), "not asked for"),
}


@pytest.mark.parametrize("name", list(HOSTILE))
def test_hostile_booster_costs_its_site_the_round_and_no_more(compose_trees, name):
    tamper, words = HOSTILE[name]
    config = compose_trees("rounds=2")
    outcome = run(config, TamperingGrid(config.site_data, tamper))
    for record in outcome.rounds[1:]:
        assert record.status == "ok"
        trained = {s.site: s for s in record.sites if s.phase == "train"}
        assert trained["site_0"].status == "refused"
        assert words in trained["site_0"].reason
        assert [trained[f"site_{i}"].status for i in (1, 2, 3)] == ["ok"] * 3
    document = boosters.parse(booster(config))
    assert len(boosters.trees_of(document)) == 2 * 3


def test_whole_booster_is_no_reply_to_bagging(compose_trees):
    config = compose_trees("rounds=2")
    seen = []

    def whole(array):
        seen.append(array)
        return pack_arrays({"0": boosters.joined(seen[0], seen[1:])})

    outcome = run(config, TamperingGrid(config.site_data, whole))
    first, second = ([s for s in r.sites if s.phase == "train"] for r in outcome.rounds[1:])
    assert first[0].status == "ok"
    assert "asked for were 1 ones" in second[0].reason


def test_site_lets_nothing_but_trees_out(compose_trees, monkeypatch):
    """The guard parses what leaves, whatever the client update returned."""
    real = runner.train

    def stowaway(*args):
        result = real(*args)
        document = boosters.parse(result.outcome.arrays["0"])
        document["learner"]["attributes"]["row"] = "patient 4711"
        arrays = {"0": boosters.to_array(document)}
        return replace(result, outcome=replace(result.outcome, arrays=arrays))

    monkeypatch.setattr(runner, "train", stowaway)
    config = compose_trees("rounds=1")
    outcome = run(config)
    record = outcome.rounds[1]
    assert record.status == "failed"
    reasons = {s.reason for s in record.sites if s.phase == "train"}
    assert len(reasons) == 1
    assert "egress guard" in reasons.pop()


def test_other_models_still_send_the_shapes_they_received(compose):
    config = compose("rounds=1")

    class Grid(TamperingGrid):
        def _deliver(self, message):
            reply = InProcessGrid._deliver(self, message)
            if message.metadata.message_type == "train" and message.metadata.dst_node_id == 2:
                text = np.frombuffer(b"{}", dtype=np.uint8)
                reply.content[ARRAYS] = pack_arrays(dict.fromkeys(reply.content[ARRAYS], text))
            return reply

    outcome = run(config, Grid(config.site_data, None))
    refused = [s for s in outcome.rounds[1].sites if s.status == "refused"]
    assert len(refused) == 1
    assert "expected float32" in refused[0].reason


def test_saved_model_predicts_as_it_was_evaluated(compose_trees, tmp_path):
    config = compose_trees("rounds=6")
    run(config)
    task, model = load_run_model(config.folder)
    _, sites, fitted = open_sites(config)
    final = json.loads((config.folder / RESULT).read_text())["metrics"]["final"]["overall"]
    assert scores(task, fitted, sites, model)["accuracy"] == final["accuracy"]
    from tasks.tabular.datasets import load_dataset

    frame = load_dataset("breast_cancer")
    frame.to_csv(tmp_path / "rows.csv", index=False)
    found = task.predict(model, tmp_path / "rows.csv")
    assert isinstance(found, pd.DataFrame)
    assert (found["prediction"].to_numpy() == frame["diagnosis"].to_numpy()).mean() > 0.9


def test_damaged_saved_booster_is_one_line(compose_trees):
    from safetensors.numpy import save_file

    config = compose_trees("rounds=1")
    run(config)
    save_file({"0": np.frombuffer(b"{}", dtype=np.uint8)}, config.folder / MODEL)
    with pytest.raises(ConfigError, match=r"does not fit model\.json"):
        load_run_model(config.folder)


def test_result_of_a_run_starts_the_next(compose_trees):
    first = compose_trees("rounds=2", folder="first")
    run(first)
    second = compose_trees("rounds=2", f"initial_weights={first.folder / MODEL}", folder="second")
    outcome = run(second)
    assert len(boosters.trees_of(boosters.parse(booster(second)))) == 16
    values = json.loads((first.folder / RESULT).read_text())["score"]
    assert outcome.rounds[0].score == values["final"]


REFUSED = {
    "fedavg": (["strategy=fedavg"], "do not add up; set strategy=xgb_bagging"),
    "scaffold": (["strategy=scaffold"], "Scaffold combines weights"),
    "cyclic weights": (["strategy=cyclic"], "CyclicWeightTransfer combines weights"),
    "median": (["strategy=flwr_fedmedian"], "FedMedian combines weights"),
    "network": (["model=mlp"], "XgbBagging joins trees, and model=mlp has weights"),
    "network in turn": (["model=linear", CYCLIC], "XgbCyclic joins trees"),
    "update norm": (["sites.max_update_norm=1"], "set sites.max_update_norm=null"),
    "loss": (["train.loss=focal"], "set train.loss=auto"),
    "half precision": (["compression=fp16"], "set compression=fp32"),
    "largest entries": (["compression=top_k"], "set compression=fp32"),
    "combine": (["strategy.combine=median"], "strategy.combine must be sum or mean"),
    "flower, three classes": (
        ["usecase=rare_disease", *FLOWER["bagging"]],
        "keeps one of the 3 new trees",
    ),
    "flower, two rounds": (
        [*FLOWER["bagging"], "model.params.num_local_round=2"],
        "keeps one of the 2 new trees",
    ),
}


@pytest.mark.parametrize("name", list(REFUSED))
def test_what_does_not_go_together_is_refused_at_launch(compose_trees, name):
    overrides, words = REFUSED[name]
    with pytest.raises(ConfigError, match=words):
        check_run(compose_trees(*overrides))


@pytest.mark.parametrize("privacy", ["central_fixed", "central_adaptive", "local_dpsgd", "secagg"])
@pytest.mark.parametrize("strategy", [BAGGING, CYCLIC])
def test_privacy_of_updates_is_refused_with_trees(compose_trees, strategy, privacy):
    try:
        config = compose_trees(strategy, f"privacy={privacy}")
    except ConfigError:
        pytest.skip(f"no conf/privacy/{privacy}.yaml")
    with pytest.raises(ConfigError, match="set privacy=none, or model=mlp"):
        check_run(config)


def test_client_halves_are_found_for_flower_s_classes_too():
    from flwr.serverapp import strategy as flower

    for kind, name in (
        (flower.FedXgbBagging, "xgb_bagging"),
        (flower.FedXgbCyclic, "xgb_cyclic"),
        (XgbBagging, "xgb_bagging"),
        (XgbCyclic, "xgb_cyclic"),
        (flower.FedAvg, "fedavg"),
    ):
        assert client_update_name(kind()) == name
        assert needs_single_updates(kind()) == (name != "fedavg")


def test_aggregation_without_replies_keeps_the_model():
    strategy = XgbBagging()
    strategy.current_bst = b""
    assert strategy.aggregate_train(1, []) == (None, None)


@pytest.mark.parametrize("strategy", [BAGGING, CYCLIC])
def test_command_line_shows_a_sensible_table(strategy, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    command = ["fl-server", "usecase=breast_cancer", "model=xgboost", strategy, "rounds=12"]
    monkeypatch.setattr("sys.argv", [*command, "board.url=null", f"hydra.run.dir={tmp_path}/run"])
    with suppress(SystemExit):
        main()
    shown = capsys.readouterr().out
    assert "f1_macro" in shown
    assert "log_loss" in shown
    result = json.loads((tmp_path / "run" / RESULT).read_text())
    assert result["score"]["final"] > 0.85
    assert sum(result["attributions"].values()) > 0
