"""Which states there are, and when a silent run is lost."""

from datetime import UTC, datetime, timedelta

import pytest

from fl_server.results import run_status

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)


def test_states_are_the_six_of_the_documentation():
    assert run_status.STATUSES == ("queued", "running", "finished", "stopped", "failed", "lost")
    assert "lost" not in run_status.RECORDED
    assert set(run_status.RANKED) == {"running", "finished"}


@pytest.mark.parametrize(("silent", "lost"), [(0, False), (60, False), (90, False), (91, True)])
def test_running_run_is_lost_after_the_stated_time(silent, lost):
    assert run_status.is_lost("running", NOW - timedelta(seconds=silent), NOW) is lost


@pytest.mark.parametrize("state", ["queued", "finished", "stopped", "failed"])
def test_run_that_does_not_run_cannot_be_lost(state):
    assert not run_status.is_lost(state, NOW - timedelta(days=9), NOW)


def test_several_signs_of_life_fit_into_the_stated_time():
    assert run_status.LOST_AFTER_SECONDS >= 3 * run_status.SIGN_OF_LIFE_SECONDS
