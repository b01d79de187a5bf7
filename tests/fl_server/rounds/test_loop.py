from __future__ import annotations

import json
import re

import numpy as np
import pytest
from flwr.app import Error, Message
from safetensors.numpy import load_file, save_file

from fl_common.errors import CheckpointError, ConfigError, QuorumError
from fl_server.results.checkpoint import FILE_NAME
from fl_server.results.result import MODEL, RESULT
from fl_server.rounds.loop import RoundLoop
from fl_server.runtimes.execution import execute
from fl_server.runtimes.simulation import InProcessGrid
from strategies.wire.messages import ARRAYS, METRICS, NUM_EXAMPLES
from strategies.wire.records import pack_arrays, unpack_arrays


def run(config, grid=None):
    return execute(grid or InProcessGrid(config.site_data), config)


def weights(config):
    return load_file(config.folder / MODEL)


def result(config):
    return json.loads((config.folder / RESULT).read_text())


def assert_same(left, right):
    assert left.keys() == right.keys()
    for name in left:
        np.testing.assert_array_equal(left[name], right[name], err_msg=name)


class TamperingGrid(InProcessGrid):
    """Changes the training replies of one site."""

    def __init__(self, sites, site: int, tamper) -> None:
        super().__init__(sites)
        self._target = site + 2
        self._tamper = tamper

    def _deliver(self, message: Message) -> Message:
        reply = super()._deliver(message)
        is_target = message.metadata.dst_node_id == self._target
        if is_target and message.metadata.message_type == "train":
            self._tamper(reply)
        return reply


def test_run_records_baseline_and_every_round(compose):
    config = compose()
    outcome = run(config)
    assert [record.round for record in outcome.rounds] == [0, 1, 2, 3]
    assert [record.phase for record in outcome.rounds] == ["baseline"] + ["finetune"] * 3
    final = result(config)
    assert final["score"]["final"] > final["score"]["baseline"]
    assert final["metrics"]["final"]["overall"]["accuracy"] > 0.6
    one_each = {(r["round"], s["phase"]): 0 for r in final["rounds"] for s in r["sites"]}
    for record in final["rounds"]:
        for site in record["sites"]:
            assert site["status"] == "ok"
            assert site["bytes_up"] > 0
            one_each[(record["round"], site["phase"])] += 1
    assert set(one_each.values()) == {3}


def test_same_seed_gives_the_same_model_and_another_seed_another(compose):
    first, second = compose(folder="one"), compose(folder="two")
    other = compose("seed=1", "data.split_seed=0", folder="three")
    for config in (first, second, other):
        run(config)
    assert_same(weights(first), weights(second))
    assert any((weights(first)[k] != weights(other)[k]).any() for k in weights(first))


@pytest.mark.parametrize(
    "strategy", ["fedavg", "flwr_fedavgm", "flwr_fedadam", "flwr_fedyogi", "flwr_fedprox"]
)
def test_killed_run_resumes_to_the_identical_result(compose, monkeypatch, strategy):
    whole = compose(f"strategy={strategy}", "rounds=4", folder="whole")
    run(whole)

    killed = compose(f"strategy={strategy}", "rounds=4", folder="killed")
    real = RoundLoop._round

    def dies(self, number, arrays):
        if number == 3:
            raise KeyboardInterrupt
        return real(self, number, arrays)

    monkeypatch.setattr(RoundLoop, "_round", dies)
    with pytest.raises(KeyboardInterrupt):
        run(killed)
    monkeypatch.undo()
    assert not (killed.folder / RESULT).exists()
    resumed = compose(f"strategy={strategy}", "rounds=4", "resume=true", folder="killed")
    run(resumed)

    assert_same(weights(whole), weights(resumed))
    assert result(whole)["metrics"] == result(resumed)["metrics"]
    assert len(result(resumed)["rounds"]) == 5


def test_resume_refuses_another_configuration(compose):
    run(compose("rounds=1"))
    with pytest.raises(CheckpointError, match="same overrides"):
        run(compose("rounds=2", "train.lr=0.5", "resume=true"))


def test_resume_without_checkpoint_says_so(compose):
    with pytest.raises(CheckpointError, match="no checkpoint to resume from"):
        run(compose("resume=true"))


@pytest.mark.parametrize("damage", ["truncate", "flip"])
def test_damaged_checkpoint_is_named(compose, damage):
    config = compose("rounds=1")
    run(config)
    path = config.folder / FILE_NAME
    data = bytearray(path.read_bytes())
    if damage == "truncate":
        data = data[: len(data) // 2]
    else:
        data[-1] ^= 0xFF
    path.write_bytes(bytes(data))
    with pytest.raises(CheckpointError, match=r"checkpoint\.safetensors: damaged"):
        run(compose("rounds=2", "resume=true"))


def test_raising_the_rounds_of_a_finished_run_continues_it(compose):
    run(compose("rounds=2", folder="grown"))
    grown = compose("rounds=4", "resume=true", folder="grown")
    run(grown)
    straight = compose("rounds=4", folder="straight")
    run(straight)
    assert_same(weights(grown), weights(straight))


def _nan(reply):
    arrays = unpack_arrays(reply.content.array_records[ARRAYS])
    next(iter(arrays.values()))[...] = np.nan
    reply.content[ARRAYS] = pack_arrays(arrays)


def _wrong_shape(reply):
    arrays = unpack_arrays(reply.content.array_records[ARRAYS])
    name = next(iter(arrays))
    arrays[name] = np.zeros((1, 1), dtype=np.float32)
    reply.content[ARRAYS] = pack_arrays(arrays)


def _wrong_dtype(reply):
    arrays = unpack_arrays(reply.content.array_records[ARRAYS])
    reply.content[ARRAYS] = pack_arrays({k: a.astype(np.float64) for k, a in arrays.items()})


def _extra_array(reply):
    arrays = unpack_arrays(reply.content.array_records[ARRAYS])
    reply.content[ARRAYS] = pack_arrays({**arrays, "stowaway": np.zeros(3)})


def _inflated(reply):
    reply.content.metric_records[METRICS][NUM_EXAMPLES] = 10**9


def _negative(reply):
    reply.content.metric_records[METRICS][NUM_EXAMPLES] = -1


def _nan_loss(reply):
    reply.content.metric_records[METRICS]["train-loss"] = float("nan")


def _no_metrics(reply):
    del reply.content[METRICS]


def _lying_bytes(reply):
    record = reply.content.array_records[ARRAYS]
    next(iter(record.values())).data = b"\x93NUMPY rubbish"


@pytest.mark.parametrize(
    ("tamper", "says"),
    [
        (_nan, "not finite"),
        (_wrong_shape, "expected float32"),
        (_wrong_dtype, "float64"),
        (_extra_array, "stowaway"),
        (_inflated, "claims 1000000000 examples"),
        (_negative, "claims -1 examples"),
        (_nan_loss, "loss is nan"),
        (_no_metrics, "lacks"),
        (_lying_bytes, "cannot be decoded"),
    ],
)
def test_bad_reply_is_refused_and_named_and_the_others_count(compose, tamper, says):
    config = compose("rounds=1", folder="tampered")
    outcome = run(config, TamperingGrid(config.site_data, 1, tamper))
    sites = {s.site: s for s in outcome.rounds[1].sites if s.phase == "train"}
    assert outcome.rounds[1].status == "ok"
    assert sites["b"].status == "refused"
    assert says in sites["b"].reason
    assert sites["a"].status == sites["c"].status == "ok"

    # the sum is exactly that of the two honest sites
    without = compose("rounds=1", folder="without")
    silent = TamperingGrid(without.site_data, 1, lambda reply: reply.content.clear())
    run(without, silent)
    assert_same(weights(config), weights(without))


def test_huge_update_is_refused_above_the_norm_bound(compose):
    def boost(reply):
        arrays = unpack_arrays(reply.content.array_records[ARRAYS])
        reply.content[ARRAYS] = pack_arrays({k: a * 1000 for k, a in arrays.items()})

    config = compose("rounds=1", "sites.max_update_norm=50")
    outcome = run(config, TamperingGrid(config.site_data, 0, boost))
    refused = [s for s in outcome.rounds[1].sites if s.status == "refused"]
    assert [s.site for s in refused] == ["a"]
    assert "max_update_norm" in refused[0].reason


def test_diverged_round_keeps_the_previous_model(compose):
    config = compose("rounds=2", "train.optimizer=sgd", "train.lr=1e30")
    outcome = run(config)
    assert [record.status for record in outcome.rounds] == ["ok", "diverged", "diverged"]
    assert outcome.rounds[0].card.overall.values == outcome.rounds[2].card.overall.values
    assert {s.status for s in outcome.rounds[1].sites if s.phase == "train"} == {"diverged"}


def test_failing_site_costs_its_own_contribution(compose):
    config = compose("rounds=2")

    class OneBadSite(InProcessGrid):
        def _deliver(self, message):
            if message.metadata.dst_node_id == 3 and message.metadata.message_type == "train":
                message.metadata.__dict__["_message_id"] = "x"
                return Message(Error(1099, "the site failed"), reply_to=message)
            return super()._deliver(message)

    outcome = run(config, OneBadSite(config.site_data))
    train = {s.site: s.status for s in outcome.rounds[1].sites if s.phase == "train"}
    assert train == {"a": "ok", "b": "failed", "c": "ok"}
    assert outcome.rounds[2].status == "ok"


def test_round_below_quorum_keeps_the_previous_model(compose):
    config = compose("rounds=1", "sites.quorum=3")
    outcome = run(config, TamperingGrid(config.site_data, 1, _nan))
    assert outcome.rounds[1].status == "failed"
    assert "2 of 3 sites replied" in outcome.rounds[1].reason
    assert outcome.rounds[0].card.overall.values == outcome.rounds[1].card.overall.values


def test_too_few_sites_is_an_error_with_the_cure(compose):
    config = compose("sites.quorum=5", "sites.wait_seconds=0.3")
    with pytest.raises(QuorumError, match=r"3 of 5 sites joined within 0\.3 s"):
        run(config)


def test_early_stopping_does_not_choose_a_round_on_the_holdout(compose):
    third = "data.validation_fraction=0.25"
    config = compose("rounds=30", "early_stopping.patience=2", "train.lr=0.05", third)
    outcome = run(config)
    assert outcome.stopped_early
    chosen_by = [record.validation_score for record in outcome.rounds]
    chosen = chosen_by.index(max(chosen_by))
    assert len(chosen_by) == chosen + 3
    score = outcome.rounds[chosen].score
    assert score == result(config)["score"]["final"]
    assert result(config)["final_round"] == chosen

    model = f"initial_weights={config.folder / MODEL}"
    again = compose("rounds=1", model, third, folder="again")
    assert run(again).rounds[0].score == score


def test_starting_weights_are_scored_as_submitted(compose):
    config = compose("rounds=2")
    final = run(config).rounds[-1]
    submitted = compose("rounds=0", f"initial_weights={config.folder / MODEL}", folder="submitted")
    assert run(submitted).rounds[0].card.overall.values == final.card.overall.values


def test_weights_of_another_model_are_refused(compose, tmp_path):
    path = tmp_path / "other.safetensors"
    save_file({"w": np.zeros((2, 2), dtype=np.float32)}, path)
    with pytest.raises(ConfigError, match="does not fit the model"):
        run(compose(f"initial_weights={path}"))
    path.write_bytes(b"rubbish")
    with pytest.raises(ConfigError, match="not a safetensors file"):
        run(compose(f"initial_weights={path}"))


def test_broken_strategy_fails_the_round_with_its_file_and_line(compose, tmp_path, monkeypatch):
    (tmp_path / "my_strategy.py").write_text(
        "from strategies.fedavg import FedAvg\n"
        "class Mine(FedAvg):\n"
        "    def aggregate_train(self, server_round, replies):\n"
        "        list(replies)\n"
        "        return 1 / 0\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    outcome = run(
        compose("rounds=2", "strategy._target_=my_strategy.Mine", "allow_targets=[my_strategy]")
    )
    assert [record.status for record in outcome.rounds] == ["ok", "failed", "failed"]
    assert "ZeroDivisionError" in outcome.rounds[1].reason
    assert "my_strategy.py:5" in outcome.rounds[1].reason


BROKEN = {
    "helper": ("return added(self.sent, 1.0, {})", "KeyError", 6),
    "library": ("return np.stack([np.zeros(2), np.zeros(3)])", "ValueError", 6),
    "shapes": ("return {n: np.zeros(3, np.float32) for n in fold.mean}", "expected", 5),
    "names": ("return {'mine': np.zeros(3)}", "changed the weights", 5),
    "nan": ("return {n: a * np.nan for n, a in fold.mean.items()}", "not finite", 5),
    "exit": ("raise SystemExit(3)", "SystemExit: 3", 6),
    "lines": ("raise ValueError('one\\ntwo')", "ValueError: one two", 6),
    "ours": ("raise ReplyError('odd')", "odd", 6),
}


@pytest.mark.parametrize("how", BROKEN)
def test_whatever_a_strategy_does_wrong_is_told_with_its_own_line(
    compose, tmp_path, monkeypatch, how
):
    body, says, line = BROKEN[how]
    module = f"broken_{how}"
    (tmp_path / f"{module}.py").write_text(
        "import numpy as np\n"
        "from strategies.fedavg import FedAvg\n"
        "from strategies.arrays import added; from fl_common.errors import ReplyError\n"
        "class Mine(FedAvg):\n"
        "    def update(self, fold):\n"
        f"        {body}\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    outcome = run(
        compose("rounds=1", f"strategy._target_={module}.Mine", f"allow_targets=[{module}]")
    )
    assert outcome.rounds[1].status != "ok"
    assert says in outcome.rounds[1].reason
    assert f"{module}.py:{line})" in outcome.rounds[1].reason
    before, after = (record.card.overall.values for record in outcome.rounds)
    assert before == after


def test_stock_strategy_with_one_site_does_not_wait_for_ever(compose, csv_sites):
    config = compose("strategy=flwr_fedavg", f"data.sites=[{csv_sites[0]}]")
    assert run(config).rounds[-1].status == "ok"


def test_sampling_a_fraction_is_fixed_by_the_seed(compose):
    def chosen(folder, seed):
        config = compose("rounds=4", "sampling.fraction=0.4", f"seed={seed}", folder=folder)
        return [
            tuple(s.site for s in r.sites if s.phase == "train") for r in run(config).rounds[1:]
        ]

    assert chosen("one", 3) == chosen("two", 3)
    assert all(len(sites) == 1 for sites in chosen("three", 3))
    assert len({tuple(chosen(f"s{seed}", seed)) for seed in range(4)}) > 1


@pytest.mark.parametrize(
    ("tamper", "says"),
    [
        (lambda stats: stats.pop("overall/confusion"), "lacks the summands"),
        (lambda stats: stats.update({"overall/confusion": np.zeros((7, 7), np.int64)}), "(7|\\[7)"),
        (lambda stats: stats.update({"rows": np.arange(40.0)}), "unknown summand 'rows'"),
        (lambda stats: stats.update({"overall/confusion": -np.ones((2, 2), np.int64)}), "outside"),
        (lambda stats: stats.update({"overall/loss_sums": np.full(2, np.nan)}), "not finite"),
    ],
)
def test_first_site_cannot_spoil_the_evaluation_for_the_others(compose, tamper, says):
    """Site `a` answers first: what it sends must not decide what the others may send."""

    class Grid(InProcessGrid):
        def _deliver(self, message):
            reply = super()._deliver(message)
            is_first = message.metadata.dst_node_id == 2
            if is_first and message.metadata.message_type == "evaluate":
                stats = unpack_arrays(reply.content.array_records["stats"])
                tamper(stats)
                reply.content["stats"] = pack_arrays(stats)
            return reply

    config = compose("rounds=0")
    (baseline,) = run(config, Grid(config.site_data)).rounds
    status = {s.site: (s.status, s.reason) for s in baseline.sites}
    assert status["b"][0] == status["c"][0] == "ok"
    assert status["a"][0] == "refused"
    assert re.search(says, status["a"][1])
    matrix = np.array(baseline.card.overall.arrays["confusion_matrix"])
    assert matrix.sum() == 8 + 10  # the holdouts of b and c


def test_resume_closes_a_gap_on_the_leaderboard(compose, tmp_path, monkeypatch):
    """A server killed between its checkpoint and the leaderboard must not lose the round there."""
    from fl_server.leaderboard.store import Store
    from fl_server.observers.leaderboard import BoardObserver

    url = f"board.url=sqlite:///{tmp_path / 'board.sqlite'}"
    real = BoardObserver.round_finished

    def dies(self, record):
        if record.round == 2:
            raise KeyboardInterrupt
        real(self, record)

    monkeypatch.setattr(BoardObserver, "round_finished", dies)
    with pytest.raises(KeyboardInterrupt):
        run(compose(url, folder="gap"))
    monkeypatch.undo()
    run(compose(url, "resume=true", folder="gap"))
    with Store(url.removeprefix("board.url=")) as store:
        (entry,) = store.leaderboard("tabular_classification").results
        assert [r.round for r in store.rounds(entry.id)] == [0, 1, 2, 3]
