import numpy as np
import pytest
from flwr.serverapp import strategy as flower

from strategies.fedavg import FedAvg
from strategies.messages import pack_arrays, unpack_arrays
from strategies.state import restore, snapshot
from tasks.errors import CheckpointError


class Remembers(FedAvg):
    """One attribute of each kind that a strategy may keep."""

    transient = (*FedAvg.transient, "scratch")

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
    wrapped = flower.DifferentialPrivacyServerSideFixedClipping(
        _filled(), noise_multiplier=1.0, clipping_norm=1.0, num_sampled_clients=2
    )
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
