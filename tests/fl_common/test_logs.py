"""Libraries only warn, unless the user asks to see everything."""

import logging

import pytest

from fl_common import logs


@pytest.fixture(autouse=True)
def as_before():
    loggers = {name: logging.getLogger(name) for name in logs.LIBRARIES}
    levels = {name: logger.level for name, logger in loggers.items()}
    filters = list(loggers["flwr"].filters)
    yield
    for name, level in levels.items():
        loggers[name].setLevel(level)
    loggers["flwr"].filters[:] = filters


def test_libraries_only_warn_and_hydra_is_silent(monkeypatch):
    monkeypatch.delenv("FEDLEAGUE_DEBUG", raising=False)
    logs.quieten()
    assert logging.getLogger("flwr").level == logging.WARNING
    assert logging.getLogger("httpx").level == logging.WARNING
    assert logging.getLogger("hydra").level == logging.CRITICAL
    logs.quieten(logging.ERROR)
    assert logging.getLogger("flwr").level == logging.ERROR


def test_everything_is_shown_on_demand(monkeypatch):
    monkeypatch.setenv("FEDLEAGUE_DEBUG", "1")
    logs.quieten()
    assert {logging.getLogger(name).level for name in logs.LIBRARIES} == {logging.DEBUG}


def test_refusals_in_good_order_are_no_warnings(monkeypatch, caplog):
    monkeypatch.delenv("FEDLEAGUE_DEBUG", raising=False)
    logs.quieten()
    flower = logging.getLogger("flwr")
    flower.warning("[x][ApiError: 404]")
    flower.warning("something else")
    assert "something else" in caplog.text or not flower.propagate
    assert "ApiError" not in caplog.text
