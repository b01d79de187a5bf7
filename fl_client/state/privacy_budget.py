"""What private training has spent at this site, over all rounds and runs; the server has no say.

The releases are kept in the site's own file (``privacy_budget`` in ``site.yaml``), or, where it has
none, in a file of the run in its ``memory`` folder, or, where it has no files (a simulation), with
what the site remembers of the run. They are written before the training they pay for.
"""

from __future__ import annotations

import fcntl
import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import numpy as np

from fl_client.policy.policy import Policy
from fl_client.state.memory import make_private
from fl_common.errors import PolicyError
from fl_common.files import write_atomically
from strategies.privacy.accounting import Release, epsilon_of
from strategies.site_state import PRIVACY_BUDGET, SiteState
from tasks.contract import TrainConfig


class ReleaseStore(Protocol):
    """Where releases are kept."""

    def read(self) -> list[Release]:
        """Return all releases."""

    def write(self, releases: list[Release]) -> None:
        """Keep all releases, safely before this returns."""


class PrivacyBudget:
    """Charge trainings to the site's budget."""

    def __init__(self, policy: Policy, path: Path | None, state: SiteState) -> None:
        self._policy = policy
        self._path = path
        self._releases: ReleaseStore = (
            ReleaseFile(path) if path is not None else ReleaseState(state)
        )

    def spend(self, config: TrainConfig, num_examples: int) -> None:
        """Write down one training, or refuse it.

        Raises
        ------
        PolicyError
            If the site has a budget and the training has no noise, or would spend more.
        """
        budget = self._policy.epsilon_budget
        if config.dp is None:
            if budget is not None:
                raise PolicyError(
                    f"policy.epsilon_budget is {budget:g}, the server asks for training without "
                    "noise (privacy=local_dpsgd)"
                )
            return
        rate, steps = _schedule(config, num_examples)
        with _alone(self._path):
            releases = _added(self._releases.read(), (config.dp.noise_multiplier, rate, steps))
            spent = epsilon_of(releases, self._policy.epsilon_delta)
            if budget is not None and not spent <= budget:
                raise PolicyError(
                    f"policy.epsilon_budget is {budget:g}, this training would bring the spent "
                    f"epsilon to {spent:.4g} (delta {self._policy.epsilon_delta:g})"
                )
            self._releases.write(releases)

    def spent(self, delta: float) -> float:
        """Return the epsilon of all trainings so far."""
        return epsilon_of(self._releases.read(), delta)


class ReleaseFile:
    """A JSON file, replaced atomically."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> list[Release]:
        """Return all releases.

        Raises
        ------
        PolicyError
            If the file is damaged: what was spent is unknown then, so nothing more is.
        """
        try:
            raw = json.loads(self._path.read_text(encoding="utf-8"))
            return [(float(z), float(q), int(count)) for z, q, count in raw["releases"]]
        except FileNotFoundError:
            return []
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise PolicyError(f"{self._path}: what was spent cannot be read: {error}") from error

    def write(self, releases: list[Release]) -> None:
        """Replace the file, on disk before this returns."""
        text = json.dumps({"format": 1, "releases": releases})
        write_atomically(self._path, text.encode(), private=True)


class ReleaseState:
    """The site's memory of the run, as an array of shape (releases, 3)."""

    def __init__(self, state: SiteState) -> None:
        self._state = state

    def read(self) -> list[Release]:
        """Return all releases."""
        known = self._state.get(PRIVACY_BUDGET)
        rows = known["releases"] if known is not None else np.zeros((0, 3))
        return [(float(z), float(q), int(count)) for z, q, count in rows]

    def write(self, releases: list[Release]) -> None:
        """Keep all releases."""
        self._state.put(PRIVACY_BUDGET, {"releases": np.array(releases, dtype=np.float64)})


def _schedule(config: TrainConfig, num_examples: int) -> tuple[float, int]:
    """Return rate and steps; refuse numbers that no accountant was made for."""
    numbers = (config.batch_size, config.local_epochs, config.local_steps or 0)
    noise = config.dp.noise_multiplier if config.dp is not None else math.nan
    if any(type(n) is not int or n < 0 for n in numbers) or config.batch_size < 1:
        raise PolicyError(f"batch size, epochs and steps must be whole numbers, got {numbers}")
    if type(noise) not in (int, float) or not 0 <= noise < math.inf:
        raise PolicyError(f"the noise multiplier must be a number from 0, got {noise!r}")
    return config.private_steps(num_examples)


def _added(releases: list[Release], new: Release) -> list[Release]:
    """Append a release; the same mechanism as the last one only raises its count."""
    noise, rate, count = new
    if releases and releases[-1][:2] == (noise, rate):
        return [*releases[:-1], (noise, rate, releases[-1][2] + count)]
    return [*releases, new]


@contextmanager
def _alone(path: Path | None) -> Iterator[None]:
    """Keep a second client of the same site from spending the same budget."""
    if path is None:
        yield
        return
    make_private(path.parent)
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
