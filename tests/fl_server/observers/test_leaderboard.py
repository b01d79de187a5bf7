"""A run is followed on the leaderboard, to whatever end it comes."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from signal import SIGTERM
from threading import Event

import numpy as np
import pytest

from fl_common.errors import ConfigError, QuorumError, StoppedError
from fl_server.config.compose import compose_overrides
from fl_server.leaderboard.store import Store
from fl_server.observers import leaderboard
from fl_server.observers.leaderboard import BoardObserver
from fl_server.results.records import RunOutcome
from fl_server.rounds.sites import Site
from tests.contracts.store_contract import make_record

ARRAYS = {"w": np.zeros((3, 4)), "b": np.zeros(4)}
SITES = [Site("berlin", 2, 60, 15)]


@pytest.fixture
def url(tmp_path):
    return f"sqlite:///{tmp_path}/board.sqlite"


@pytest.fixture(scope="module")
def composed():
    """Compose once for all tests: nothing here looks into a site's file."""
    overrides = [
        "usecase=tabular_classification",
        "usecase.target=y",
        "usecase.classes=[n,p]",
        "data.sites=[a.csv,b.csv]",
        "rounds=3",
        "board.url=null",
        "model.params.hidden=[8]",
        "submission.team=aorta",
        "submission.claimed=0.9",
    ]
    return compose_overrides(overrides, Path("run"))


@pytest.fixture
def config(composed, url, tmp_path):
    return replace(composed, board=replace(composed.board, url=url), folder=tmp_path / "run")


@pytest.fixture
def read(url):
    """Return a function: the stored run."""

    def read():
        with Store(url) as store:
            return store.run(1)

    return read


@pytest.fixture
def beats(monkeypatch):
    """Signs of life without delay, and those that were given."""
    monkeypatch.setattr(leaderboard, "SIGN_OF_LIFE_SECONDS", 0.001)
    return Beats(monkeypatch)


class Beats:
    def __init__(self, monkeypatch):
        self.given, self.threads, self.error = [], [], None
        self.enough = Event()
        monkeypatch.setattr(Store, "sign_of_life", self._beat)

    def _beat(self, run_id):
        self.given.append(run_id)
        self.threads.append(threading.current_thread())
        if len(self.given) >= 2:
            self.enough.set()
        if self.error:
            raise self.error


def test_run_is_registered_with_what_it_is(config, read):
    with BoardObserver(config) as board:
        assert board.open_run(ARRAYS, SITES) == ""
        run = read()
    assert (run.status, run.team_name, run.model, run.claimed_score) == (
        *("running", "aorta", "mlp"),
        0.9,
    )
    assert (run.num_rounds, run.num_parameters) == (3, 16)
    assert run.params["hidden"] == [8]
    assert run.key == str(config.folder.resolve())


def test_rounds_are_stored_as_they_finish(config, read):
    with BoardObserver(config) as board:
        board.open_run(ARRAYS, SITES)
        board.admitted(SITES)
        for number, score in enumerate((0.5, 0.75)):
            board.round_finished(make_record(number, score))
            assert read().curve[-1] == (number, score)
        assert read().status == "running"


def test_finished_run_is_closed_without_a_reason(config, read):
    rounds = (make_record(0, 0.5), make_record(1, 0.75))
    with BoardObserver(config) as board:
        board.open_run(ARRAYS, SITES)
        board.finished(RunOutcome(ARRAYS, rounds))
    assert (read().status, read().reason) == ("finished", "")


def test_run_that_stopped_early_says_after_which_round(config, read):
    rounds = (make_record(0, 0.5), make_record(1, 0.75))
    with BoardObserver(config) as board:
        board.open_run(ARRAYS, SITES)
        board.finished(RunOutcome(ARRAYS, rounds, stopped_early=True))
    assert (read().status, read().reason) == ("finished", "stopped early after round 1")


def test_run_of_which_no_round_succeeded_has_failed_with_its_reason(config, read):
    bad = make_record(1, None, status="diverged", reason="a loss is nan")
    with BoardObserver(config) as board:
        board.open_run(ARRAYS, SITES)
        board.finished(RunOutcome(ARRAYS, (make_record(0, 0.5), bad)))
    reason = "none of 1 rounds succeeded, the last one: a loss is nan"
    assert (read().status, read().reason) == ("failed", reason)


@pytest.mark.parametrize(
    ("error", "status", "reason"),
    [
        (QuorumError("1 of 3 sites"), "failed", "1 of 3 sites"),
        (RuntimeError("patient 4711"), "failed", "an error nobody foresaw (RuntimeError)"),
        (StoppedError(SIGTERM, "stopped here"), "stopped", "stopped here"),
        (KeyboardInterrupt(), "stopped", "an error nobody foresaw (KeyboardInterrupt)"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_error_that_ends_a_run_is_its_reason(config, read, error, status, reason):
    def run():
        with BoardObserver(config) as board:
            board.open_run(ARRAYS, SITES)
            raise error

    with pytest.raises(type(error)):
        run()
    assert (read().status, read().reason) == (status, reason)


@pytest.mark.parametrize("error", [None, QuorumError("1 of 3 sites")])
def test_signs_of_life_end_with_the_run(config, beats, error):
    board = BoardObserver(config)
    with board:
        board.open_run(ARRAYS, SITES)
        assert beats.enough.wait(5)
        if error is not None:
            board.__exit__(type(error), error, None)
    for thread in set(beats.threads):
        thread.join(5)
        assert not thread.is_alive()
        assert thread.daemon
    assert len(set(beats.threads)) == 1
    assert set(beats.given) == {1}


def test_database_that_is_away_for_a_while_does_not_end_the_signs_of_life(config, beats):
    beats.error = ConfigError("the database is away")
    with BoardObserver(config) as board:
        board.open_run(ARRAYS, SITES)
        assert beats.enough.wait(5)
    assert len(set(beats.threads)) == 1


def test_resumed_run_keeps_its_place_and_loses_what_came_after(config, read):
    with BoardObserver(config) as board:
        board.open_run(ARRAYS, SITES)
        for number, score in enumerate((0.5, 0.6, 0.7)):
            board.round_finished(make_record(number, score))
    finished = (make_record(0, 0.5), make_record(1, 0.65))
    with BoardObserver(config) as board:
        board.open_run(ARRAYS, SITES, finished)
        assert read().curve == [(0, 0.5), (1, 0.65)]
        assert board.stopped(SIGTERM).startswith("stopped by the organiser (SIGTERM) after round 1")


def test_run_that_is_not_comparable_is_told_so(config):
    with BoardObserver(config) as board:
        board.open_run(ARRAYS, SITES)
    with BoardObserver(replace(config, folder=config.folder.with_name("other"))) as board:
        said = board.open_run(ARRAYS, [Site("berlin", 2, 60, 14)])
    slug = config.usecase.slug
    assert said == (
        "not comparable: sites differ: the leaderboard lists this run apart from the "
        f"ranking of '{slug}'; usecase.slug=NAME gives it a ranking of its own"
    )


@pytest.mark.parametrize(
    ("rounds", "done"),
    [((), None), ((0,), "the baseline"), ((0, 1), "round 1")],
)
def test_stopped_run_is_told_how_to_go_on(config, rounds, done):
    with BoardObserver(config) as board:
        board.open_run(ARRAYS, SITES)
        for number in rounds:
            board.round_finished(make_record(number, 0.5))
        said = board.stopped(SIGTERM)
    start = "stopped by the organiser (SIGTERM)"
    if done is None:
        assert said == f"{start} before the baseline was evaluated; start it anew"
    else:
        assert said == f"{start} after {done}; continue with fl-server resume={config.folder}"


# Without a board, and before there is one


def test_without_a_board_nothing_is_written(config, tmp_path):
    """It says the same of a run that is stopped, and touches neither disk nor thread."""
    config = replace(config, board=replace(config.board, url=None, serve=True))
    before = sorted(tmp_path.rglob("*")), set(threading.enumerate())
    with BoardObserver(config) as board:
        assert board.open_run(ARRAYS, SITES) == ""
        board.round_finished(make_record(0, 0.5))
        assert "after the baseline" in board.stopped(SIGTERM)
        board.finished(RunOutcome(ARRAYS, (make_record(0, 0.5),)))
        board.__exit__(QuorumError, QuorumError("gone"), None)
    assert (sorted(tmp_path.rglob("*")), set(threading.enumerate())) == before


def test_new_database_is_made_only_when_the_run_starts(config, tmp_path):
    file = tmp_path / "board.sqlite"
    with BoardObserver(config) as board:
        assert not file.exists()
        board.open_run(ARRAYS, SITES)
        assert file.exists()


def test_run_that_fails_before_it_starts_makes_no_database(config, tmp_path):
    with pytest.raises(QuorumError), BoardObserver(config):
        raise QuorumError("nobody came")
    assert not (tmp_path / "board.sqlite").exists()


def test_database_that_cannot_be_used_is_said_before_the_run(config, tmp_path):
    (tmp_path / "board.sqlite").write_text("no database at all, and long enough " * 40)
    with pytest.raises(ConfigError, match=r"board\.sqlite"):
        BoardObserver(config)
