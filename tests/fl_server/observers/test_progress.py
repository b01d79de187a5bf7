"""What a person reads during a run, where the output is a file."""

from __future__ import annotations

from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from fl_server.config.compose import compose_overrides
from fl_server.config.usecase import ScoreRule
from fl_server.observers.progress import Progress
from fl_server.results.records import RoundRecord, RunOutcome, SiteRecord
from fl_server.rounds.sites import Site
from tasks.scores import ScoreCard, Scores

MEMBERS = [Site("berlin", 2, 60, 15), Site("paris", 3, 40, 10)]


class Screen:
    """A run's progress and the lines that it printed."""

    def __init__(self, config, **options):
        self._text = StringIO()
        self.progress = Progress(config, Console(file=self._text, width=200, **options))

    def lines(self):
        return [line.rstrip() for line in self._text.getvalue().splitlines() if line.strip()]

    def rows(self):
        """Return the cells of the tables' bodies."""
        split = (line.strip("│┃ ").split("│") for line in self.lines() if line.startswith("│"))
        return [[cell.strip() for cell in cells] for cells in split]


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
        "usecase.title=Hearts",
        "usecase.score=f1_macro",
    ]
    return compose_overrides(overrides, Path("run"))


@pytest.fixture
def config(composed, tmp_path):
    return replace(composed, folder=tmp_path)


@pytest.fixture
def screen(config):
    return Screen(config)


def record(number, score, **more):
    values = {} if score is None else {"f1_macro": score}
    given = {"status": "ok", "sites": (), "card": ScoreCard(Scores(values)), **more}
    phase = "finetune" if number else "baseline"
    return RoundRecord(
        round=number, phase=phase, score=score, seconds=1.5, bytes_up=0, bytes_down=0, **given
    )


def test_sites_and_their_rows_are_counted(screen):
    screen.progress.admitted(MEMBERS)
    assert screen.lines() == ["Hearts: 2 sites, 125 rows (berlin, paris)"]


def test_only_eight_of_many_sites_are_named(screen):
    screen.progress.admitted([Site(f"s{number}", number, 1, 1) for number in range(11)])
    names = "s0, s1, s2, s3, s4, s5, s6, s7"
    assert screen.lines() == [f"Hearts: 11 sites, 22 rows ({names} and 3 more)"]


def test_sites_without_validation_rows_are_named(screen):
    idle = "without any, these take no part in that: berlin, paris"
    screen.progress.admitted([*MEMBERS, Site("rome", 4, 10, 5, num_validation=5)])
    assert screen.lines() == [
        "Hearts: 3 sites, 145 rows (berlin, paris, rome)",
        f"  5 validation rows choose the round whose model counts; {idle}",
    ]


def test_nobody_is_named_where_every_site_has_validation_rows(screen):
    screen.progress.admitted([replace(member, num_validation=3) for member in MEMBERS])
    assert screen.lines()[1] == "  6 validation rows choose the round whose model counts"


def test_each_round_is_a_line(screen):
    screen.progress.round_finished(record(0, 0.5))
    screen.progress.round_finished(record(1, 0.75, validation_score=0.625, epsilon=1.2345))
    screen.progress.round_finished(record(2, None, status="diverged", reason="a loss is nan"))
    assert screen.lines() == [
        "  baseline   f1_macro 0.5000   (1.50 s)",
        "  round 1    f1_macro 0.7500  validation 0.6250  epsilon 1.23   (1.50 s)",
        "  round 2    f1_macro absent  diverged: a loss is nan   (1.50 s)",
    ]


def test_sites_that_did_not_answer_are_lines_of_their_own(screen):
    sites = (
        SiteRecord("berlin", "train", "ok"),
        SiteRecord("rome", "train", "training"),
        SiteRecord("paris", "evaluate", "late", reason="no reply within 5 s"),
    )
    screen.progress.round_finished(record(1, 0.75, sites=sites))
    assert screen.lines() == [
        "  round 1    f1_macro 0.7500   (1.50 s)",
        "  paris: late in evaluate: no reply within 5 s",
    ]


def test_terminal_shows_only_rounds_that_failed_as_lines(config):
    screen = Screen(config, force_terminal=True, color_system=None)
    screen.progress.round_finished(record(1, 0.75))
    assert screen.lines() == []
    screen.progress.round_finished(record(2, 0.75, status="failed", reason="nobody answered"))
    assert screen.lines() == ["  round 2    f1_macro 0.7500  failed: nobody answered   (1.50 s)"]


def test_bar_counts_the_baseline_and_names_what_is_next(screen):
    (task,) = screen.progress._bar.tasks
    assert (task.description, task.completed, task.total) == ("waiting for sites", 0, 4)
    screen.progress.admitted(MEMBERS)
    assert task.description == "baseline"
    for number in range(4):
        screen.progress.round_finished(record(number, 0.5))
        assert (task.completed, task.description) == (number + 1, f"round {number + 1}")
    assert (task.finished, task.fields["last"]) == (True, "f1_macro 0.5000")


def test_bar_runs_only_inside_the_with(screen):
    with screen.progress as progress:
        assert progress._bar.live.is_started
    assert not screen.progress._bar.live.is_started


def test_text_of_a_site_is_no_markup(screen):
    screen.progress.say("[red]a[/red] [/] " + "x" * 300)
    assert screen.lines() == ["[red]a[/red] [/] " + "x" * 300]


def test_table_compares_the_baseline_with_the_final_round(config):
    usecase = replace(config.usecase, extra_columns=("subgroups/women/f1_macro",))
    metrics = replace(config.metrics, headline=("auroc", "f1_macro"), per_class="recall")
    screen = Screen(replace(config, usecase=usecase, metrics=metrics))
    first = ScoreCard(Scores({"f1_macro": 0.5, "recall_n": 0.25}, {"auroc": "one class"}))
    women = {"women": Scores({"f1_macro": 0.125})}
    last = ScoreCard(Scores({"f1_macro": 0.75, "auroc": 0.9, "recall_p": 1.0}), women)
    rounds = (record(0, 0.5, card=first), record(1, 0.75, card=last))
    screen.progress.finished(RunOutcome({}, rounds))
    lines = screen.lines()
    assert lines[0].strip() == f"{config.usecase.slug}: f1_macro (↑ higher is better)"
    assert screen.rows() == [
        ["f1_macro", "0.5000", "0.7500"],
        ["auroc", "–", "0.9000"],
        ["subgroups/women/f1_macro", "–", "0.1250"],
        ["recall_n", "0.2500", "–"],
        ["recall_p", "–", "1.0000"],
    ]
    assert lines[-1] == f"results: {config.folder / 'result.json'}"


@pytest.mark.parametrize(
    ("direction", "said"),
    [("min", "↓ lower is better"), ("zero", "→0 closest to zero is best")],
)
def test_table_says_which_way_is_better(config, direction, said):
    usecase = replace(config.usecase, score=ScoreRule("f1_macro", direction))
    screen = Screen(replace(config, usecase=usecase))
    screen.progress.finished(RunOutcome({}, (record(0, 0.5),)))
    assert f"f1_macro ({said})" in " ".join(line.strip() for line in screen.lines())


def test_table_of_sites_adds_up_what_each_did(config):
    screen = Screen(config)
    screen.progress.admitted(MEMBERS)
    sites = (
        SiteRecord("berlin", "train", "ok", bytes_up=1_000_000, bytes_down=2_000_000),
        SiteRecord("berlin", "evaluate", "ok", bytes_up=250_000),
        SiteRecord("paris", "train", "late", bytes_down=2_000_000),
    )
    rounds = (record(0, 0.5), *(record(number, 0.5, sites=sites) for number in (1, 2)))
    screen.progress.finished(RunOutcome({}, rounds))
    assert screen.rows()[-2:] == [
        ["berlin", "60", "15", "2 of 2", "2.50", "4.00"],
        ["paris", "40", "10", "0 of 2", "0.00", "4.00"],
    ]


def test_table_of_sites_has_validation_rows_where_there_are_some(screen):
    screen.progress.admitted([replace(MEMBERS[0], num_validation=7), MEMBERS[1]])
    screen.progress.finished(RunOutcome({}, (record(0, 0.5),)))
    assert screen.rows()[-2:] == [
        ["berlin", "60", "7", "15", "0 of 0", "0.00", "0.00"],
        ["paris", "40", "0", "10", "0 of 0", "0.00", "0.00"],
    ]
    assert any("validation rows" in line and "train rows" in line for line in screen.lines())


def test_table_of_sites_ends_after_twenty(screen):
    screen.progress.admitted([Site(f"site {number}", number, 1, 1) for number in range(23)])
    screen.progress.finished(RunOutcome({}, (record(0, 0.5),)))
    names = [row[0] for row in screen.rows() if row[0].startswith("site ")]
    assert names == [f"site {number}" for number in range(20)]
    assert "and 3 more" in [line.strip() for line in screen.lines()]


@pytest.mark.parametrize(
    ("best", "early", "said"),
    [
        (0, False, "the model of the baseline is the best on the validation rows, and counts"),
        (1, False, "the model of round 1 is the best on the validation rows, and counts"),
        (1, True, "stopped early: the model of round 1 is the best on the validation rows, "),
    ],
)
def test_round_that_the_validation_rows_chose_is_named(screen, best, early, said):
    rounds = [record(n, 0.5, validation_score=0.9 if n == best else 0.1) for n in range(3)]
    screen.progress.finished(RunOutcome({}, tuple(rounds), stopped_early=early))
    assert screen.lines()[-2].startswith(said)
