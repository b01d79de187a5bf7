import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from fl_common.errors import CheckpointError
from fl_server.config.instantiation import make_strategy
from strategies.fedavg import FedAvg
from strategies.privacy.central import CentralDp
from strategies.privacy.modes import CentralFixed
from strategies.requirements import Requirements
from strategies.snapshot import restore, snapshot
from strategies.wire.records import pack_arrays, unpack_arrays


class Remembers(FedAvg):
    """One attribute of each kind that a strategy may keep."""

    requirements = Requirements(not_saved=("scratch",))

    def __init__(self):
        super().__init__()
        self.momentum = None
        self.count = 0
        self.scratch = np.ones(3)
        self.history = []


def _filled():
    strategy = Remembers()
    strategy.momentum = {"a::b": np.ones(2), "c": np.float64(2.0)}
    strategy.count = 7
    strategy.array = np.arange(3)
    strategy.many = [np.zeros(2), np.ones((2, 2))]
    strategy.record = pack_arrays({"w": np.full(2, 3.0)})
    return strategy


def test_every_kind_of_state_comes_back():
    arrays, numbers = snapshot(_filled())
    fresh = _filled()
    fresh.momentum, fresh.count = None, 0
    fresh.array, fresh.many, fresh.record = np.zeros(3), [np.zeros(1)], pack_arrays({})
    restore(fresh, arrays, numbers)
    assert fresh.count == 7
    np.testing.assert_array_equal(fresh.momentum["a::b"], [1, 1])
    assert fresh.momentum["c"] == 2.0
    np.testing.assert_array_equal(fresh.array, [0, 1, 2])
    assert [a.shape for a in fresh.many] == [(2,), (2, 2)]
    np.testing.assert_array_equal(unpack_arrays(fresh.record)["w"], [3, 3])


def test_transient_attributes_are_left_alone():
    arrays, numbers = snapshot(_filled())
    assert not any(name.startswith(("scratch", "sent_record")) for name in (*arrays, *numbers))


def test_none_undoes_what_a_failed_round_set():
    strategy = Remembers()
    before = snapshot(strategy)
    strategy.momentum = {"w": np.ones(1)}
    restore(strategy, *before)
    assert strategy.momentum is None


def test_wrapped_strategies_are_entered():
    wrapped = CentralDp(_filled(), CentralFixed())
    arrays, numbers = snapshot(wrapped)
    assert "strategy.momentum::dict::c" in arrays
    assert numbers["strategy.count"] == 7
    wrapped.strategy.momentum, wrapped.strategy.count = None, 0
    restore(wrapped, arrays, numbers)
    assert wrapped.strategy.count == 7
    assert wrapped.strategy.momentum["c"] == 2.0


def test_snapshot_of_another_strategy_is_refused():
    arrays, numbers = snapshot(_filled())
    with pytest.raises(CheckpointError, match="FedAvg lacks"):
        restore(FedAvg(), arrays, numbers)


@pytest.mark.parametrize(
    "value",
    [
        np.float32(1.5),
        np.int64(3),
        [1.0, 2.5],
        (1, "a", None),
        {"site": 0.5, "list": [1, (2, 3)]},
        {},
        [],
    ],
    ids=repr,
)
def test_numbers_in_any_container_come_back_through_json(value):
    strategy = Remembers()
    strategy.history = value
    arrays, numbers = snapshot(strategy)
    assert not arrays
    fresh = Remembers()
    fresh.history = "later"
    restore(fresh, arrays, json.loads(json.dumps(numbers)))
    assert fresh.history == value
    assert isinstance(fresh.history, type(value)) or np.isscalar(value)


def test_what_no_checkpoint_holds_is_said_once(caplog):
    strategy = Remembers()
    strategy.odd = object()
    strategy.mixed = {"a": np.ones(2), "b": "text"}
    for _ in range(2):
        snapshot(strategy)
    assert len(caplog.messages) == 2
    assert "Remembers.odd (object) is in no checkpoint" in caplog.messages[0]
    assert "Requirements(not_saved=...) of Remembers" in caplog.messages[0]


def test_the_shelf_keeps_nothing_that_no_checkpoint_holds(caplog):
    for path in sorted(Path("conf/strategy").glob("*.yaml")):
        raw = yaml.safe_load(path.read_text())
        snapshot(make_strategy({k: 0.1 if "${" in str(v) else v for k, v in raw.items()}))
    assert caplog.messages == []
