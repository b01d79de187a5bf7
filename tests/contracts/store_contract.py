"""What every leaderboard store must do, whatever its database; subclass it with a ``url``."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from fl_common.errors import ConfigError
from fl_server.config.usecase import ScoreRule, UseCaseInfo
from fl_server.leaderboard import standings
from fl_server.leaderboard.store import Store, UnknownEntryError
from fl_server.results import run_status
from fl_server.results.evaluation import ShippedUseCase
from fl_server.results.records import RoundRecord, RunInfo, SiteRecord, SubmissionInfo
from tasks.scores import ScoreCard, Scores

USECASE = UseCaseInfo(
    slug="heart",
    title="Heart disease",
    description="Four hospitals.",
    task="tabular_classification",
    score=ScoreRule("f1_macro"),
    extra_columns=("subgroups/female/f1_macro",),
)


def make_info(key="runs/a", team="aorta", usecase=USECASE, **changes):
    submission = SubmissionInfo(team, "mlp", {"hidden": [8]}, claimed=0.9, num_parameters=1234)
    return replace(RunInfo(key, usecase, submission, "fedavg", "simulation", 7, 3), **changes)


def make_record(number, score, **changes):
    value = 0.5 if score is None or not math.isfinite(score) else score
    overall = Scores(
        values={"f1_macro": value, "auroc": 0.8},
        absent={"ece": "needs 100 rows"},
        bounds={"auroc": 0.002},
        arrays={"confusion_matrix": [[3, 1], [0, 4]]},
    )
    card = ScoreCard(
        overall, {"female": Scores(values={"f1_macro": value - 0.1})}, {}, {"age": 0.3}
    )
    phase = "finetune" if number else "baseline"
    sites = (
        SiteRecord("berlin", "evaluate", "ok", 100, 0.5, 10, 20),
        SiteRecord("paris", "evaluate", "late", reason="no reply within 5 s"),
    )
    record = RoundRecord(number, phase, "ok", score, card, sites, 1.5, 10, 20, train_loss=0.4)
    return replace(record, **changes)


def teams(entries):
    return [(entry.team_name, entry.rank) for entry in entries]


class StoreContract:
    """Subclasses define the fixture ``url``: the address of an empty database."""

    @pytest.fixture
    def store(self, url):
        with Store(url) as store:
            yield store

    def test_empty_store_lists_nothing(self, store):
        assert store.usecases() == []

    @pytest.mark.parametrize("read", ["usecase", "leaderboard"])
    def test_unknown_use_case_is_said(self, store, read):
        with pytest.raises(UnknownEntryError, match="no use case 'nope'"):
            getattr(store, read)("nope")

    @pytest.mark.parametrize("read", ["run", "rounds"])
    def test_unknown_run_is_said(self, store, read):
        with pytest.raises(UnknownEntryError, match="no run 99"):
            getattr(store, read)(99)

    def test_writing_to_an_unknown_run_changes_nothing(self, store):
        with pytest.raises(UnknownEntryError):
            store.record_round(99, make_record(0, 0.5))
        with pytest.raises(UnknownEntryError):
            store.finish_run(99, "finished")
        with pytest.raises(UnknownEntryError):
            store.drop_rounds_after(99, 0)

    def test_run_round_trips(self, store):
        run_id = store.open_run(make_info(config={"lr": 0.1}))
        store.record_round(run_id, make_record(0, 0.5))
        store.record_round(run_id, make_record(1, 0.75))
        store.finish_run(run_id, "finished")

        run = store.run(run_id)
        assert (run.team_name, run.model, run.params) == ("aorta", "mlp", {"hidden": [8]})
        assert (run.status, run.config, run.num_parameters) == ("finished", {"lr": 0.1}, 1234)
        assert (run.baseline_score, run.final_score, run.final_round) == (0.5, 0.75, 1)
        assert run.improvement == 0.25
        assert run.curve == [(0, 0.5), (1, 0.75)]
        assert run.finished_date is not None
        assert run.finished_date >= run.created_date
        metrics = {(item.scope, item.name): item for item in run.metrics}
        assert metrics["overall", "f1_macro"].baseline.value == 0.5
        assert metrics["overall", "f1_macro"].final.value == 0.75
        assert metrics["overall", "auroc"].bound == 0.002
        assert metrics["overall", "ece"].final.absent == "needs 100 rows"
        assert metrics["subgroups/female", "f1_macro"].final.value == 0.65

    def test_round_keeps_sites_arrays_and_reasons(self, store):
        run_id = store.open_run(make_info())
        store.record_round(run_id, make_record(0, 0.5))
        (found,) = store.rounds(run_id)
        assert [(site.site, site.status) for site in found.sites] == [
            ("berlin", "ok"),
            ("paris", "late"),
        ]
        assert found.sites[1].reason == "no reply within 5 s"
        assert (found.num_sites, found.num_sites_ok) == (2, 1)
        assert found.arrays == {"overall": {"confusion_matrix": [[3, 1], [0, 4]]}}
        assert found.attributions == {"age": 0.3}
        assert (found.seconds, found.bytes_up, found.train_loss) == (1.5, 10, 0.4)

    def test_epsilon_is_kept_by_round_and_by_site(self, store):
        run_id = store.open_run(make_info())
        site = SiteRecord("berlin", "train", "ok", epsilon=2.5)
        store.record_round(run_id, make_record(0, 0.5))
        store.record_round(run_id, make_record(1, 0.6, sites=(site,), epsilon=2.5))
        assert [item.epsilon for item in store.rounds(run_id)] == [None, 2.5]
        assert store.rounds(run_id)[1].sites[0].epsilon == 2.5
        assert [item.epsilon for item in store.run(run_id).rounds] == [None, 2.5]
        (entry,) = store.leaderboard("heart").results
        assert entry.epsilon == 2.5

    def test_opening_the_same_key_continues_the_run(self, store):
        run_id = store.open_run(make_info())
        store.record_round(run_id, make_record(0, 0.5))
        store.finish_run(run_id, "stopped", "interrupted")
        started = store.run(run_id).created_date
        assert store.open_run(make_info(num_rounds=9)) == run_id
        run = store.run(run_id)
        assert (run.status, run.reason, run.finished_date) == ("running", "", None)
        assert (run.num_rounds, len(run.rounds), run.created_date) == (9, 1, started)

    def test_a_key_cannot_change_hands(self, store):
        store.open_run(make_info())
        with pytest.raises(ConfigError, match=r"heart / aorta / mlp.*another folder"):
            store.open_run(make_info(team="mitral"))

    def test_recording_a_round_again_replaces_it(self, store):
        run_id = store.open_run(make_info())
        store.record_round(run_id, make_record(0, 0.5))
        store.record_round(run_id, make_record(0, 0.6, sites=(), card=ScoreCard()))
        (found,) = store.rounds(run_id)
        assert (found.score, found.metrics, found.sites) == (0.6, [], [])
        assert store.run(run_id).baseline_score == 0.6

    def test_dropping_rounds_moves_the_run_back(self, store):
        run_id = store.open_run(make_info())
        for number in range(4):
            store.record_round(run_id, make_record(number, 0.5 + number / 10))
        store.drop_rounds_after(run_id, 1)
        run = store.run(run_id)
        assert [item.round for item in run.rounds] == [0, 1]
        assert (run.final_score, run.num_rounds_done) == (0.6, 1)
        store.drop_rounds_after(run_id, -1)
        assert store.run(run_id).final_score is None

    def test_a_failed_round_does_not_become_the_final_score(self, store):
        run_id = store.open_run(make_info())
        store.record_round(run_id, make_record(0, 0.5))
        store.record_round(run_id, make_record(1, 0.7))
        store.record_round(run_id, make_record(2, None, status="diverged", reason="nan"))
        run = store.run(run_id)
        assert (run.final_score, run.final_round, run.num_rounds_done) == (0.7, 1, 2)
        assert run.curve[-1] == (2, None)

    def test_a_run_without_rounds_is_scored_out_of_the_box(self, store):
        run_id = store.open_run(make_info(num_rounds=0))
        store.record_round(run_id, make_record(0, 0.5))
        assert store.run(run_id).final_score == 0.5

    def test_leaderboard_ranks_and_explains(self, store):
        for team, score in (("b", 0.7), ("a", 0.8), ("c", 0.8)):
            run_id = store.open_run(make_info(key=team, team=team))
            store.record_round(run_id, make_record(0, 0.5))
            store.record_round(run_id, make_record(1, score))
            store.finish_run(run_id, "finished")
        failed = store.open_run(make_info(key="d", team="d"))
        store.record_round(failed, make_record(1, 0.99))
        store.finish_run(failed, "failed", "1 of 4 sites answered")
        store.open_run(make_info(key="e", team="e"))

        board = store.leaderboard("heart")
        assert [(item.team_name, item.rank) for item in board.results] == [
            ("a", 1),
            ("c", 1),
            ("b", 3),
            ("d", None),
            ("e", None),
        ]
        assert board.results[0].improvement == pytest.approx(0.3)
        cell = board.results[0].subgroups["subgroups/female/f1_macro"]
        assert (cell.value, cell.absent) == (pytest.approx(0.7), None)
        assert board.results[3].note == "1 of 4 sites answered"
        assert board.results[4].note == "no round finished yet"
        assert board.results[4].subgroups["subgroups/female/f1_macro"].absent == "not measured"
        assert board.usecase.high_score == 0.8
        assert (board.usecase.total_participants, board.usecase.num_running) == (5, 1)
        assert [item.team_name for item in board.usecase.top_leaderboard_entries] == ["a", "c", "b"]
        assert store.usecases() == [board.usecase] == [store.usecase("heart")]

    def test_a_run_scored_by_something_else_is_not_ranked(self, store):
        old = store.open_run(make_info())
        store.record_round(old, make_record(1, 0.99))
        changed = replace(USECASE, score=ScoreRule("accuracy"))
        new = store.open_run(make_info(key="new", team="b", usecase=changed))
        store.record_round(new, make_record(1, 0.5))
        board = store.leaderboard("heart")
        assert [(item.id, item.rank) for item in board.results] == [(old, 1)]
        (apart,) = board.apart
        assert [item.id for item in apart.results] == [new]
        assert apart.reason == "custom evaluation: score differs"

    def test_a_run_changes_no_use_case_that_exists(self, store):
        runs = [store.open_run(make_info(key=f"run {n}", team=f"t{n}")) for n in range(9)]
        for number, run_id in enumerate(runs):
            store.record_round(run_id, make_record(1, 0.5 + number / 100))
        before = store.usecase("heart")
        changed = replace(
            *(USECASE,), title="X", description="Y", score=ScoreRule("mse", "min"), extra_columns=()
        )
        custom = store.open_run(make_info(key="new", usecase=changed))
        store.record_round(custom, make_record(1, 0.1))
        board = store.leaderboard("heart")
        assert [item.id for item in board.results] == runs[::-1]
        assert [item.rank for item in board.results] == list(range(1, 10))
        kept = ("title", "description", "score_formula_display", "extra_columns", "high_score")
        assert [getattr(board.usecase, name) for name in kept] == [
            getattr(before, name) for name in kept
        ]
        (apart,) = board.apart
        assert apart.reason == (
            "custom evaluation: score, title, description and extra_columns differ"
        )
        run = store.run(custom)
        assert (run.apart, run.score_direction) == (apart.reason, "min")
        assert run.improvement is None
        assert store.run(runs[0]).apart == ""

    def test_only_equal_evaluations_are_ranked_together(self, store):
        def play(key, score, **changed):
            evaluation = {"holdout_fraction": 0.2, "split_seed": 0, "sites": {"a": [4, 0, 1]}}
            info = make_info(key=key, team=key, evaluation=evaluation | changed)
            store.record_round(run_id := store.open_run(info), make_record(1, score))
            return run_id

        first = play("first", 0.7)
        lucky = play("lucky", 1.0, holdout_fraction=0.02, sites={"a": [5, 0, 0]})
        better = play("better", 0.8)
        play("away", 0.9, sites={"b": [4, 0, 1]})
        play("again", 0.95, holdout_fraction=0.02, sites={"a": [5, 0, 0]})
        play("both", 0.9, holdout_fraction=0.1, split_seed=3)
        board = store.leaderboard("heart")
        assert [(item.id, item.rank) for item in board.results] == [(better, 1), (first, 2)]
        assert board.usecase.high_score == 0.8
        assert {
            part.reason: [(e.team_name, e.rank) for e in part.results] for part in board.apart
        } == {
            "not comparable: holdout_fraction differs": [("lucky", 1), ("again", 2)],
            "not comparable: sites differ": [("away", 1)],
            "not comparable: holdout_fraction and split_seed differ": [("both", 1)],
        }
        assert store.run(lucky).apart == "not comparable: holdout_fraction differs"
        assert store.run(lucky).evaluation["holdout_fraction"] == 0.02
        prints = [store.run(run_id).evaluation_fingerprint for run_id in (first, better, lucky)]
        assert prints[0] == prints[1] != prints[2]

    def test_the_use_case_as_shipped_is_what_is_ranked(self, store):
        shipped = ShippedUseCase(USECASE, {"split_seed": 0})
        changed = replace(USECASE, title="Mine")
        for key, seed, usecase in (("odd", 1, USECASE), ("mine", 0, changed), ("as", 0, USECASE)):
            evaluation = {"split_seed": seed, "sites": {"a": [4, 0, 1]}}
            info = make_info(key=key, usecase=usecase, evaluation=evaluation, shipped=shipped)
            store.record_round(store.open_run(info), make_record(1, 0.5))
        board = store.leaderboard("heart")
        assert [store.run(item.id).key for item in board.results] == ["as"]
        assert board.usecase.title == "Heart disease"
        assert [part.reason for part in board.apart] == [
            "not comparable: split_seed differs",
            "custom evaluation: title differs",
        ]

    def test_a_use_case_that_ships_with_other_words_is_no_custom_one(self, store):
        store.open_run(make_info())
        reworded = replace(USECASE, title="Heart disease, reworded")
        shipped = ShippedUseCase(reworded, {})
        store.open_run(make_info(key="new", team="b", usecase=reworded, shipped=shipped))
        board = store.leaderboard("heart")
        assert (len(board.results), board.apart) == (2, [])
        assert board.usecase.title == "Heart disease"

    def test_runs_without_an_evaluation_stay_ranked_among_themselves(self, store):
        for team, score in (("old a", 0.8), ("old b", 0.9)):
            old = store.open_run(make_info(key=team, team=team))
            store.record_round(old, make_record(1, score))
        assert [item.team_name for item in store.leaderboard("heart").results] == ["old b", "old a"]
        new = store.open_run(make_info(key="new", team="new", evaluation={"split_seed": 0}))
        store.record_round(new, make_record(1, 0.1))
        board = store.leaderboard("heart")
        assert [item.team_name for item in board.results] == ["new"]
        (apart,) = board.apart
        assert [(item.team_name, item.rank) for item in apart.results] == [
            ("old b", 1),
            ("old a", 2),
        ]
        assert apart.reason.startswith("not comparable: from before")

    def test_only_running_and_finished_runs_have_a_place(self, store):
        for team in ("running", "finished", "stopped", "failed"):
            run_id = store.open_run(make_info(key=team, team=team))
            store.record_round(run_id, make_record(0, 0.5))
            store.record_round(run_id, make_record(1, 0.8))
            store.finish_run(run_id, team, f"why {team}")
        board = store.leaderboard("heart")
        places = {item.team_name: item.rank for item in board.results}
        assert places == {"running": 1, "finished": 1, "stopped": None, "failed": None}
        notes = {item.team_name: item.note for item in board.results if item.rank is None}
        assert notes == {"stopped": "why stopped", "failed": "why failed"}
        assert [len(item.curve) for item in board.results] == [2] * 4

    def test_silent_run_is_lost_until_it_gives_a_sign_of_life(self, store, monkeypatch):
        run_id = store.open_run(make_info())
        store.record_round(run_id, make_record(1, 0.8))
        before = store.run(run_id)
        assert before.status == "running"
        monkeypatch.setattr(run_status, "LOST_AFTER_SECONDS", -1.0)
        run = store.run(run_id)
        assert run.status == "lost"
        assert "no sign of life since" in run.reason
        assert "fl-server resume=RUN" in run.reason
        board = store.leaderboard("heart")
        assert (board.results[0].rank, board.results[0].status) == (None, "lost")
        assert board.results[0].note == run.reason
        assert board.usecase.num_running == 0
        monkeypatch.undo()
        store.sign_of_life(run_id)
        run = store.run(run_id)
        assert (run.status, run.reason, run.updated_date) == ("running", "", before.updated_date)

    def test_run_that_becomes_lost_moves_the_stamp(self, store, monkeypatch):
        run_id = store.open_run(make_info())
        stamps = [store.usecase("heart").updated_date]
        monkeypatch.setattr(standings, "is_lost", lambda *_: True)
        for view in (
            store.run(run_id),
            store.usecase("heart"),
            *store.leaderboard("heart").results,
        ):
            assert view.updated_date > stamps[0]

    def test_stopped_and_failed_runs_need_a_reason(self, store):
        run_id = store.open_run(make_info())
        for state in ("stopped", "failed"):
            with pytest.raises(ConfigError, match="needs a reason"):
                store.finish_run(run_id, state, " ")
        with pytest.raises(ConfigError, match="'lost'"):
            store.finish_run(run_id, "lost", "gone")
        assert store.run(run_id).status == "running"

    def test_non_finite_numbers_become_absent(self, store):
        card = ScoreCard(Scores(values={"f1_macro": math.nan, "mse": math.inf}))
        run_id = store.open_run(make_info(config={"lr": math.nan, "clip": [math.inf]}))
        store.record_round(run_id, make_record(1, math.nan, card=card, train_loss=math.inf))
        (found,) = store.rounds(run_id)
        assert (found.score, found.train_loss) == (None, None)
        assert {item.name: item.absent for item in found.metrics} == {
            "f1_macro": "not finite (nan)",
            "mse": "not finite (inf)",
        }
        assert store.run(run_id).config == {"lr": "nan", "clip": ["inf"]}
        assert store.leaderboard("heart").results[0].note == "not finite (nan)"

    def test_secrets_in_the_configuration_are_masked(self, store):
        config = {
            "board": {"url": "postgresql://fed:hunter2@db/fed"},
            "registration_token": "hunter2",
            "urls": ["https://:hunter2@host/x", "https://host:80/@a"],
            "num_tokens": 5,
        }
        assert store.run(store.open_run(make_info(config=config))).config == {
            "board": {"url": "postgresql://fed:***@db/fed"},
            "registration_token": "***",
            "urls": ["https://:***@host/x", "https://host:80/@a"],
            "num_tokens": 5,
        }

    def test_hostile_text_is_kept_or_cleaned(self, store):
        team = "'; DROP TABLE run; --\0\ud800<script>"
        run_id = store.open_run(make_info(team=team))
        assert store.run(run_id).team_name == "'; DROP TABLE run; --\ufffd?<script>"
        assert store.open_run(make_info(team=team)) == run_id

    def test_status_and_direction_are_checked(self, store):
        run_id = store.open_run(make_info())
        with pytest.raises(ConfigError, match="choose queued, running, finished"):
            store.finish_run(run_id, "done")
        with pytest.raises(ConfigError, match="choose max, min, zero"):
            ScoreRule("f1_macro", "up")  # so no store can be given one

    def test_every_write_moves_the_stamp(self, store):
        run_id = store.open_run(make_info())
        stamps = [store.usecase("heart").updated_date]
        store.record_round(run_id, make_record(0, 0.5))
        stamps.append(store.usecase("heart").updated_date)
        store.finish_run(run_id, "finished")
        stamps.append(store.usecase("heart").updated_date)
        assert stamps == sorted(set(stamps))

    def test_concurrent_writers_lose_nothing(self, url):
        def play(team):
            with Store(url) as store:
                run_id = store.open_run(make_info(key=team, team=team))
                for number in range(4):
                    store.record_round(run_id, make_record(number, 0.5))
                store.finish_run(run_id, "finished")

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(play, [f"team {index}" for index in range(8)]))
        with Store(url) as store:
            board = store.leaderboard("heart")
        assert [len(item.curve) for item in board.results] == [4] * 8
