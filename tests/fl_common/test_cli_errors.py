"""How a command ends, and how its words reach Hydra."""

import os
import signal

import pytest

from fl_common.cli_errors import as_hydra_reads, friendly_errors, stopped_by_signals
from fl_common.errors import ConfigError, StoppedError


@pytest.mark.parametrize(
    ("typed", "read"),
    [
        ("rounds=3", "rounds=3"),
        ("-m", "-m"),
        ("submission.team=28146592", 'submission.team="28146592"'),
        ("submission.team=007", 'submission.team="007"'),
        ("submission.team=null", "submission.team=null"),
        ("submission.team=a,b", "submission.team=a,b"),
        ('submission.team="28"', 'submission.team="28"'),
        ("submission.team=Zürich", 'submission.team="Zürich"'),
        ("usecase.title=Größe in cm", 'usecase.title="Größe in cm"'),
        ("usecase.title='Größe'", "usecase.title='Größe'"),
        ("data.names=[Bern,Genève]", 'data.names=[Bern,"Genève"]'),
        ("data.sites=[{name: Zürich, train: a.csv}]", 'data.sites=[{name:"Zürich", train: a.csv}]'),
        ("submission.team=Zürich,東京", 'submission.team="Zürich","東京"'),
    ],
)
def test_letters_and_numbers_reach_hydra_as_text(typed, read):
    assert as_hydra_reads([typed], texts=("submission.team",)) == [read]


def test_user_error_is_one_line_and_code_2(capsys):
    with pytest.raises(SystemExit) as ended, friendly_errors("fl-x"):
        raise ConfigError("a\nb")
    assert ended.value.code == 2
    assert capsys.readouterr().err == "fl-x: a b\n"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signal_ends_a_command_with_its_own_code(capsys, number, code):
    before = signal.getsignal(number)
    with pytest.raises(SystemExit) as ended, friendly_errors("fl-x"), stopped_by_signals():
        _send_and_catch_exceptions(number)
    assert ended.value.code == code
    assert capsys.readouterr().err == f"fl-x: stopped ({number.name})\n"
    assert signal.getsignal(number) == before


def test_second_signal_does_not_disturb_the_end_of_the_first():
    with pytest.raises(StoppedError), stopped_by_signals():
        _send_again_at_the_end()


def _send_and_catch_exceptions(number):
    try:
        os.kill(os.getpid(), number)
        signal.pause()
    except Exception:  # as the round loop does around a strategy
        pytest.fail("a stop must pass")


def _send_again_at_the_end():
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        signal.pause()
    finally:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
