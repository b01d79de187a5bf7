"""A failing strategy is told by its own file and line."""

from __future__ import annotations

from pathlib import Path

from fl_common.errors import ReplyError
from fl_server.rounds.strategy_errors import definition, failure
from strategies.fedavg import FedAvg

HERE = Path(__file__).name


class Mine(FedAvg):
    def update(self, fold):
        return {}[fold]

    def refuse(self):
        raise ReplyError("odd\nreply")


class Wrapping(FedAvg):
    def __init__(self, strategy):
        self.strategy = strategy


def raised(call):
    try:
        call()
    except Exception as error:
        return error
    raise AssertionError


def test_error_is_told_with_the_line_of_the_researchers_class():
    error = raised(lambda: Mine().update("w"))
    line = Mine.update.__code__.co_firstlineno + 1
    assert failure(Mine(), error).startswith("KeyError: 'w' (")
    assert failure(Mine(), error).endswith(f"{HERE}:{line})")


def test_error_of_ours_is_told_without_its_class_in_one_line():
    said = failure(Mine(), raised(Mine().refuse))
    assert said.startswith("odd reply (")
    assert HERE in said


def test_error_in_a_shipped_strategy_names_where_it_was_raised():
    said = failure(FedAvg(), raised(lambda: 1 / 0))
    assert said.startswith("ZeroDivisionError: division by zero (")
    assert failure(FedAvg(), raised(Mine().refuse)) == "odd reply"


def test_definition_is_that_of_the_rule_in_an_own_class():
    line = Mine.update.__code__.co_firstlineno
    assert definition(Mine()).endswith(f"{HERE}:{line})")
    assert definition(FedAvg()) == ""
    assert definition(Wrapping(Mine())).endswith(f"{HERE}:{line})")
