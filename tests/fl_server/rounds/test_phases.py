"""When an aggregated model becomes the model of record."""

from __future__ import annotations

import numpy as np
import pytest

from fl_server.rounds.phases import phase_of, verdict

SOUND = {"w": np.ones(2), "steps": np.array(3)}


@pytest.mark.parametrize(
    ("new", "statuses", "accepted", "status", "says"),
    [
        (SOUND, {"ok"}, 2, "ok", ""),
        (SOUND, {"ok", "diverged"}, 2, "ok", ""),
        (None, {"diverged"}, 0, "diverged", "diverged at every site; lower train.lr"),
        (None, {"diverged", "late"}, 0, "diverged", "diverged at every site"),
        (None, {"late"}, 0, "failed", "0 of 2 sites replied"),
        (SOUND, {"ok", "late"}, 1, "failed", "1 of 2 sites replied; previous model kept"),
        (None, {"ok"}, 2, "failed", "returned no model"),
        ({"w": np.array([1.0, np.nan])}, {"ok"}, 2, "diverged", "not finite"),
    ],
)
def test_model_counts_if_enough_replied_and_it_is_finite(new, statuses, accepted, status, says):
    found, reason = verdict(new, statuses, accepted, 2)
    assert found == status
    assert says in reason
    assert bool(reason) is bool(says)


def test_each_split_has_a_phase_of_its_own():
    assert (phase_of("holdout"), phase_of("validation")) == ("evaluate", "validate")
