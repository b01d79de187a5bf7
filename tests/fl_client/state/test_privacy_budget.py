"""What private training spends: written first, kept over restarts, never above the budget."""

import json
import math
import stat
from dataclasses import replace

import numpy as np
import pytest

from fl_client.policy.policy import Policy
from fl_client.state import privacy_budget as module
from fl_client.state.privacy_budget import PrivacyBudget, ReleaseFile, ReleaseState
from fl_common.errors import PolicyError
from strategies.site_state import PRIVACY_BUDGET
from tasks.contract import DpSgd, TrainConfig

pytest.importorskip("opacus")

DELTA = 1e-5
TRAINING = TrainConfig(batch_size=10, local_epochs=1, dp=DpSgd(1.5, 1.0, 0.5))
"""Ten steps of a tenth of 100 rows; the delta that the server names is not the site's."""


class State(dict):
    """What a site remembers of a run."""

    def put(self, name, arrays):
        self[name] = arrays


class NoState:
    """Whatever a budget with a file must not touch."""

    def get(self, name):
        raise AssertionError(f"asked for {name}")

    put = get


def reference(releases):
    """Google's accountant, an independent one."""
    pytest.importorskip("dp_accounting")
    from dp_accounting import dp_event
    from dp_accounting.rdp import RdpAccountant

    accountant = RdpAccountant(orders=[1 + x / 10 for x in range(1, 100)] + list(range(12, 64)))
    for noise, rate, count in releases:
        sampled = dp_event.PoissonSampledDpEvent(rate, dp_event.GaussianDpEvent(noise))
        accountant.compose(sampled, count)
    return accountant.get_epsilon(DELTA)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "private" / "epsilon.json"


@pytest.fixture(params=["file", "memory"])
def ledger(request, path):
    """Open the same ledger in a new process: ``ledger(**policy)``."""
    state = State()

    def opened(**policy):
        if request.param == "file":
            return PrivacyBudget(Policy(**policy), path, NoState())
        return PrivacyBudget(Policy(**policy), None, state)

    return opened


def test_nothing_is_spent_before_the_first_training(ledger):
    assert ledger().spent(DELTA) == 0.0


def test_spent_is_that_of_an_independent_accountant_over_restarts(ledger):
    for number in (1, 2, 3):
        ledger().spend(TRAINING, 100)
        spent = ledger().spent(DELTA)
        expected = reference([(1.5, 0.1, 10 * number)])
        assert 0.99 * expected <= spent <= expected * (1 + 1e-9)


def test_other_noise_or_rate_is_a_release_of_its_own(ledger):
    ledger().spend(TRAINING, 100)
    ledger().spend(TRAINING, 200)
    ledger().spend(replace(TRAINING, dp=DpSgd(2.0, 1.0, DELTA)), 100)
    expected = reference([(1.5, 0.1, 10), (2.0, 0.1, 10), (1.5, 0.05, 20)])
    assert 0.99 * expected <= ledger().spent(DELTA) <= expected * (1 + 1e-9)


def test_training_that_exceeds_the_budget_is_refused_and_not_written(ledger):
    ledger().spend(TRAINING, 100)
    once = ledger().spent(DELTA)
    ledger().spend(TRAINING, 100)
    twice = ledger().spent(DELTA)
    assert 0 < once < twice
    budget = math.nextafter(twice, 0)
    for _ in range(2):
        with pytest.raises(PolicyError) as caught:
            ledger(epsilon_budget=budget).spend(TRAINING, 100)
        assert f"policy.epsilon_budget is {budget:g}" in str(caught.value)
        assert "delta 1e-05" in str(caught.value)
    assert ledger().spent(DELTA) == twice


def test_budget_may_be_spent_to_the_last_bit(ledger):
    ledger().spend(TRAINING, 100)
    ledger().spend(TRAINING, 100)
    twice = ledger().spent(DELTA)
    fresh = State()
    for _ in range(2):
        PrivacyBudget(Policy(epsilon_budget=twice), None, fresh).spend(TRAINING, 100)
    with pytest.raises(PolicyError, match="would bring the spent epsilon to"):
        PrivacyBudget(Policy(epsilon_budget=twice), None, fresh).spend(TRAINING, 100)


def test_sites_own_delta_counts_not_the_servers(ledger):
    ledger().spend(TRAINING, 100)
    at_sites_delta = ledger().spent(DELTA)
    assert ledger().spent(0.5) < at_sites_delta
    with pytest.raises(PolicyError, match="epsilon_budget"):
        ledger(epsilon_budget=at_sites_delta).spend(TRAINING, 100)


def test_training_without_noise_needs_a_site_without_a_budget(ledger):
    plain = replace(TRAINING, dp=None)
    ledger().spend(plain, 100)
    with pytest.raises(PolicyError, match=r"budget is 3, .* without noise \(privacy=local_dpsgd\)"):
        ledger(epsilon_budget=3.0).spend(plain, 100)
    assert ledger().spent(DELTA) == 0.0


def test_noise_of_zero_is_infinite_and_no_budget_allows_it(ledger):
    silent = replace(TRAINING, dp=DpSgd(0.0, 1.0, DELTA))
    with pytest.raises(PolicyError, match="spent epsilon to inf"):
        ledger(epsilon_budget=1e9).spend(silent, 100)
    assert ledger().spent(DELTA) == 0.0
    ledger().spend(silent, 100)  # a site without a budget counts it all the same
    assert ledger().spent(DELTA) == math.inf
    with pytest.raises(PolicyError):
        ledger(epsilon_budget=1e9).spend(TRAINING, 100)


def test_steps_are_charged_where_they_are_asked_for_and_not_epochs(ledger):
    ledger().spend(replace(TRAINING, local_epochs=50, local_steps=3), 100)
    expected = reference([(1.5, 0.1, 3)])
    assert 0.99 * expected <= ledger().spent(DELTA) <= expected * (1 + 1e-9)


def test_file_is_private_whole_and_readable(path):
    PrivacyBudget(Policy(), path, NoState()).spend(TRAINING, 100)
    PrivacyBudget(Policy(), path, NoState()).spend(TRAINING, 100)
    assert json.loads(path.read_text()) == {"format": 1, "releases": [[1.5, 0.1, 20]]}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert sorted(p.name for p in path.parent.iterdir()) == ["epsilon.json", "epsilon.lock"]


def test_release_is_written_before_the_training_it_pays_for(path, monkeypatch):
    """A crash while writing leaves what was spent before, and stops the training."""
    budget = PrivacyBudget(Policy(), path, NoState())
    budget.spend(TRAINING, 100)
    before = path.read_bytes()

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "write_atomically", full)
    with pytest.raises(OSError, match="No space"):
        budget.spend(TRAINING, 100)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        "{}",
        '{"releases": null}',
        '{"releases": [[1.0, 0.1]]}',
        '{"releases": [5]}',
    ],
)
def test_damaged_file_stops_the_spending_and_is_left_as_it_is(path, text):
    path.parent.mkdir()
    path.write_text(text)
    budget = PrivacyBudget(Policy(), path, NoState())
    for ask in (lambda: budget.spend(TRAINING, 100), lambda: budget.spent(DELTA)):
        with pytest.raises(PolicyError, match="what was spent cannot be read"):
            ask()
    assert path.read_text() == text


@pytest.mark.parametrize("releases", [[], [(1.5, 0.1, 10)], [(1.5, 0.1, 10), (2.0, 1.0, 3)]])
def test_both_stores_give_back_what_was_written(path, releases):
    path.parent.mkdir()
    state = State()
    for store in (ReleaseFile(path), ReleaseState(state)):
        assert store.read() == []
        store.write(releases)
        assert store.read() == releases
        assert all(type(count) is int for *_, count in store.read())
    assert state.keys() == {PRIVACY_BUDGET}
    assert state[PRIVACY_BUDGET]["releases"].dtype == np.float64
