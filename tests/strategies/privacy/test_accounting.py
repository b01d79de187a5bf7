from __future__ import annotations

import math

import numpy as np
import pytest

from strategies.privacy.accounting import epsilon_of

pytest.importorskip("opacus")


def _reference_opacus(releases, delta):
    from opacus.accountants import create_accountant

    accountant = create_accountant("rdp")
    for noise, rate, count in releases:
        for _ in range(count):
            accountant.step(noise_multiplier=noise, sample_rate=rate)
    return accountant.get_epsilon(delta)


def _reference_dp_accounting(releases, delta, orders):
    """Google's accountant on given orders."""
    pytest.importorskip("dp_accounting")
    from dp_accounting import dp_event
    from dp_accounting.rdp import RdpAccountant

    accountant = RdpAccountant(orders=orders)
    for noise, rate, count in releases:
        event = dp_event.PoissonSampledDpEvent(rate, dp_event.GaussianDpEvent(noise))
        accountant.compose(event, count)
    return accountant.get_epsilon(delta)


CASES = [
    [(1.1, 0.1, 100)],
    [(1.0, 1.0, 5)],
    [(4.0, 1.0, 50)],
    [(0.8, 0.02, 500), (1.5, 0.05, 200)],
]


@pytest.mark.parametrize("releases", CASES)
def test_epsilon_is_that_of_opacus(releases):
    assert epsilon_of(releases, 1e-5) == pytest.approx(_reference_opacus(releases, 1e-5), rel=1e-12)


@pytest.mark.parametrize("releases", CASES)
def test_epsilon_is_that_of_dp_accounting_on_whole_orders(releases, monkeypatch):
    from opacus.accountants import RDPAccountant

    orders = list(range(2, 64))
    monkeypatch.setattr(RDPAccountant, "DEFAULT_ALPHAS", orders)
    expected = _reference_dp_accounting(releases, 1e-5, orders)
    assert epsilon_of(releases, 1e-5) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("releases", CASES)
def test_epsilon_is_within_a_percent_of_dp_accounting(releases):
    """Between whole orders dp-accounting has a bound, opacus the integral itself."""
    from opacus.accountants import RDPAccountant

    expected = _reference_dp_accounting(releases, 1e-5, RDPAccountant.DEFAULT_ALPHAS)
    assert 0.99 * expected <= epsilon_of(releases, 1e-5) <= expected * (1 + 1e-9)


@pytest.mark.parametrize(("noise", "rate", "order"), [(1.1, 0.1, 1.5), (1.1, 0.1, 3.3)])
def test_opacus_has_the_integral_on_fractional_orders(noise, rate, order):
    """Mironov, Talwar, Zhang 2019, eq. 3, by quadrature."""
    from opacus.accountants.analysis.rdp import compute_rdp

    x = np.linspace(-40, 60, 2_000_001)
    density = np.exp(-(x**2) / (2 * noise**2)) / (noise * math.sqrt(2 * math.pi))
    ratio = 1 - rate + rate * np.exp((2 * x - 1) / (2 * noise**2))
    moment = np.trapezoid(density * ratio**order, x)
    found = compute_rdp(q=rate, noise_multiplier=noise, steps=1, orders=order)
    assert found == pytest.approx(math.log(moment) / (order - 1), rel=1e-7)


@pytest.mark.parametrize(
    ("releases", "expected"),
    [
        ([(1.1, 0.1, 100)], 6.6137043),
        ([(1.0, 1.0, 5)], 12.301691480),
        ([(4.0, 1.0, 50)], 9.234958992),
    ],
)
def test_epsilon_is_the_recorded_number(releases, expected):
    assert epsilon_of(releases, 1e-5) == pytest.approx(expected, rel=1e-6)


def test_epsilon_bounds_the_exact_gaussian_mechanism():
    """Balle and Wang 2018, Theorem 8: delta of the Gaussian mechanism, exactly."""
    noise, epsilon = 2.0, epsilon_of([(2.0, 1.0, 1)], 1e-5)

    def phi(x):
        return 0.5 * math.erfc(-x / math.sqrt(2))

    low, high = 1 / (2 * noise) - epsilon * noise, -1 / (2 * noise) - epsilon * noise
    exact = phi(low) - math.exp(epsilon) * phi(high)
    assert 1e-7 < exact <= 1e-5


def test_epsilon_is_zero_for_nothing_and_infinite_without_noise():
    assert epsilon_of([], 1e-5) == 0
    assert epsilon_of([(1.0, 0.5, 0)], 1e-5) == 0
    assert epsilon_of([(1.0, 0.5, 3), (0.0, 0.5, 1)], 1e-5) == math.inf


def test_epsilon_is_never_negative():
    """At a large delta the conversion from Rényi divergences goes below 0."""
    assert epsilon_of([(50.0, 1.0, 1)], 0.5) == 0.0
