"""A resumed run and its sites' memories stay in step, or both start anew."""

from __future__ import annotations

import logging
import shutil

import numpy as np
import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid
from safetensors.numpy import load_file

from fl_server.results.checkpoint import read_checkpoint
from fl_server.results.records import RoundRecord, SiteRecord
from fl_server.results.result import MODEL
from fl_server.rounds.client_state import ClientState, accepted_rounds
from fl_server.rounds.plain_exchange import PlainExchange
from fl_server.runtimes.execution import execute
from fl_server.runtimes.simulation import InProcessGrid
from strategies.wire.messages import CONFIG, LAST_COMMITTED
from tasks.scores import ScoreCard, Scores
from tests.fl_server.rounds.fake_grid import FakeGrid, registry_of, site

STRATEGIES = {
    "scaffold": ("strategy=scaffold", "train.optimizer=sgd"),
    "feddyn": ("strategy=feddyn",),
    "ditto": ("strategy=ditto",),
    "top_k": ("compression.top_k=0.2",),
}


class DeployedGrid(Grid):
    """Sites with files of their own, of which the server sees nothing but messages."""

    def __init__(self, config, memory, sites=(0, 1, 2)):
        entries = [
            {**site, "memory": str(memory / site["name"])} if memory else site
            for i, site in enumerate(config.site_data)
            if i in sites
        ]
        self._inner = InProcessGrid(entries)

    set_run = create_message = None

    @property
    def run(self):
        return self._inner.run

    def get_node_ids(self):
        return self._inner.get_node_ids()

    def push_messages(self, messages):
        return self._inner.push_messages(messages)

    def pull_messages(self, message_ids):
        return self._inner.pull_messages(message_ids)

    def send_and_receive(self, messages, *, timeout=None):
        return self._inner.send_and_receive(messages, timeout=timeout)


def weights(config):
    return load_file(config.folder / MODEL)


def assert_same(left, right):
    assert left.keys() == right.keys()
    for name in left:
        np.testing.assert_array_equal(left[name], right[name], err_msg=name)


@pytest.fixture
def killed(compose, tmp_path, monkeypatch):
    """Return a function: run on sites with files until the server dies in a round."""

    def run(*options, at, phase="evaluate", memory=tmp_path / "memory"):
        real = getattr(PlainExchange, phase)

        def dies(self, number, arrays, *split):
            if number == at:
                raise KeyboardInterrupt
            return real(self, number, arrays, *split)

        monkeypatch.setattr(PlainExchange, phase, dies)
        config = compose(*options, "rounds=4", folder="deployed")
        with pytest.raises(KeyboardInterrupt):
            execute(DeployedGrid(config, memory), config)
        monkeypatch.setattr(PlainExchange, phase, real)
        return read_checkpoint(config.folder)

    return run


@pytest.fixture
def resumed(compose, tmp_path):
    """Return a function: go on with new processes on both sides."""

    def run(*options, memory=tmp_path / "memory", sites=(0, 1, 2)):
        config = compose(*options, "rounds=4", "resume=true", folder="deployed")
        execute(DeployedGrid(config, memory, sites), config)
        return config

    return run


@pytest.mark.parametrize("phase", ["train", "evaluate"])
@pytest.mark.parametrize("name", STRATEGIES)
def test_resumed_run_is_the_whole_run(compose, killed, resumed, name, phase, caplog):
    """In whatever half of round 3 the server dies: the sites have trained it, or not."""
    options = STRATEGIES[name]
    whole = compose(*options, "rounds=4", folder="whole")
    execute(InProcessGrid(whole.site_data), whole)
    before = killed(*options, at=3, phase=phase)
    config = resumed(*options)
    assert_same(weights(config), weights(whole))
    assert read_checkpoint(config.folder).run == before.run != ""
    assert not [r for r in caplog.records if r.levelno >= logging.WARNING]


def test_second_kill_of_a_resumed_run_changes_nothing(compose, killed, resumed):
    options = STRATEGIES["scaffold"]
    whole = compose(*options, "rounds=4", folder="whole")
    execute(InProcessGrid(whole.site_data), whole)
    killed(*options, at=2)
    killed(*options, "resume=true", at=2)
    killed(*options, "resume=true", at=4)
    assert_same(weights(resumed(*options)), weights(whole))


def test_run_that_starts_anew_in_the_same_folders_does_not_remember_the_last(compose, tmp_path):
    options = STRATEGIES["scaffold"]
    configs = [compose(*options, folder=f"run{i}") for i in range(2)]
    for config in configs:
        execute(DeployedGrid(config, tmp_path / "memory"), config)
    assert_same(*(weights(config) for config in configs))


@pytest.mark.parametrize("loss", ["folder", "damage", "away", "old"])
def test_pair_of_which_a_site_lost_its_half_starts_anew(
    compose, killed, resumed, tmp_path, loss, caplog
):
    options = STRATEGIES["scaffold"]
    memory, backup = tmp_path / "memory", tmp_path / "backup"
    killed(*options, at=2, phase="train")
    shutil.copytree(memory / "b", backup)
    before = killed(*options, "resume=true", at=4, phase="train")
    if loss != "away":
        shutil.rmtree(memory / "b")
    if loss in ("old", "damage"):
        shutil.copytree(backup, memory / "b")
    if loss == "damage":
        for path in (memory / "b").iterdir():
            path.write_bytes(b"x")
    patience = ("sites.wait_seconds=1", "sites.quorum=2")
    config = resumed(*options, *patience, sites=(0, 2) if loss == "away" else (0, 1, 2))
    assert "not remembered by b: all sites start anew" in caplog.text
    assert "variate" in caplog.text
    assert read_checkpoint(config.folder).run not in ("", before.run)
    names = sorted(p.name for p in (memory / "a").glob("*.safetensors"))
    assert len({name.rsplit("-", 1)[0] for name in names}) == 2  # a new name: no old c_i


def test_site_that_lost_its_personal_model_does_not_cost_the_others_theirs(
    compose, killed, resumed, tmp_path, caplog
):
    options = STRATEGIES["ditto"]
    before = killed(*options, at=3)
    shutil.rmtree(tmp_path / "memory/b")
    config = resumed(*options)
    assert read_checkpoint(config.folder).run == before.run
    assert "start anew" not in caplog.text


def test_sites_without_files_start_anew(killed, resumed, caplog):
    options = STRATEGIES["feddyn"]
    killed(*options, at=3, memory=None)
    resumed(*options, memory=None)
    assert "not remembered by a, b, c:" in caplog.text
    assert "correction" in caplog.text


def test_site_ahead_of_the_model_is_told_the_round_to_go_on_from():
    grid = FakeGrid({})
    state = ClientState(grid, registry_of(site("a", 2), site("b", 3)))
    state.note(1, [SiteRecord("a", "train", "ok"), SiteRecord("b", "train", "ok")], succeeded=True)
    state.note(
        2, [SiteRecord("a", "train", "ok"), SiteRecord("b", "train", "late")], succeeded=True
    )
    content = RecordDict({CONFIG: ConfigRecord({"job": "x"})})
    first, second = state.addressed([Message(content, node, "train") for node in (2, 3)])
    assert first.content is content
    assert dict(second.content[CONFIG]) == {"job": "x", LAST_COMMITTED: 1}
    assert LAST_COMMITTED not in content[CONFIG]
    state.note(3, [SiteRecord("b", "train", "ok")], succeeded=True)
    (back,) = state.addressed([Message(content, 3, "train")])
    assert back.content is content


def test_round_that_failed_or_still_trains_does_not_count_as_accepted():
    def record(number, status, *sites):
        return RoundRecord(number, "finetune", status, None, ScoreCard(Scores()), sites, 0.0, 0, 0)

    trained = SiteRecord("a", "train", "ok")
    busy = SiteRecord("a", "train", "training")
    assert accepted_rounds(
        [
            record(1, "ok", trained, SiteRecord("b", "train", "refused")),
            record(2, "failed", trained),
            record(3, "ok", busy, SiteRecord("a", "evaluate", "ok")),
        ]
    ) == {"a": 1}
