"""Synthetic(alpha, beta) against its recipe, and against the FedProx authors' own files."""

import json

import numpy as np
import pandas as pd
import pytest

from fl_common.errors import DataError
from fl_server.config.compose import compose_overrides
from fl_server.runtimes.execution import execute
from fl_server.runtimes.simulation import InProcessGrid
from tasks.contract import Partition
from tasks.datasets.folder import data_root
from tasks.datasets.synthetic import NUM_CLASSES, NUM_FEATURES, NUM_USERS, synthetic
from tasks.sites.partition import partition_rows
from tasks.tabular.datasets import load_dataset

VARIANTS = ("synthetic_iid", "synthetic_0_0", "synthetic_0.5_0.5", "synthetic_1_1")
SIGMA = np.arange(1, NUM_FEATURES + 1) ** -1.2


def inputs_of(frame):
    return frame.filter(like="x_").to_numpy()


def moments(users):
    """Within-user variances relative to Sigma; variance of the users' means; of their B_k."""
    centred = np.concatenate([x - x.mean(axis=0) for x in users])
    rows, spare = len(centred), len(centred) / (len(centred) - len(users))
    means = np.array([x.mean(axis=0) for x in users])  # (users, features)
    noise = np.mean([SIGMA.mean() / len(x) for x in users])
    within = (centred**2).sum(axis=0) / rows * spare / SIGMA
    return within, means.var(axis=0).mean() - noise, means.mean(axis=1).var()


def check_moments(users, beta, iid):
    """Hold users' inputs to the recipe; thirty users leave B_k's variance uncertain."""
    within, between, of_b = moments(users)
    np.testing.assert_allclose(within.mean(), 1, atol=0.05)
    assert within.min() > 0.7
    assert within.max() < 1.4
    if iid:
        assert between < 0.02
        return
    assert between == pytest.approx(1 + beta**2, rel=0.5)
    assert of_b == pytest.approx(beta**2 + 1 / NUM_FEATURES, rel=0.6, abs=0.02)


@pytest.mark.parametrize("name", VARIANTS)
def test_shape_classes_and_sizes(name):
    frame = load_dataset(name)
    assert list(frame.columns) == [*(f"x_{j:02d}" for j in range(1, 61)), "label", "user"]
    sizes = frame.groupby("user").size()
    assert len(sizes) == NUM_USERS
    assert sizes.min() >= 50
    assert sizes.max() > 10 * sizes.median()  # lognormal with sigma 2: very unequal
    assert set(frame["label"]) <= {f"c{k}" for k in range(NUM_CLASSES)}
    assert frame["label"].nunique() >= 9
    assert not frame.isna().any().any()


def test_the_same_rows_each_time_and_other_ones_for_another_seed():
    pd.testing.assert_frame_equal(synthetic(1, 1), synthetic(1, 1))
    assert len(synthetic(1, 1, seed=1)) != len(synthetic(1, 1))


@pytest.mark.parametrize(
    ("name", "beta", "iid"),
    [
        ("synthetic_iid", 0, True),
        ("synthetic_0_0", 0, False),
        ("synthetic_0.5_0.5", 0.5, False),
        ("synthetic_1_1", 1, False),
    ],
)
def test_inputs_follow_the_recipe(name, beta, iid):
    users = [inputs_of(part) for _, part in load_dataset(name).groupby("user")]
    check_moments(users, beta, iid)


@pytest.mark.parametrize(
    ("variant", "beta", "iid"),
    [("synthetic_iid", 0, True), ("synthetic_0_0", 0, False), ("synthetic_1_1", 1, False)],
)
def test_the_authors_files_have_the_same_moments_and_label_skew(variant, beta, iid):
    try:
        path = data_root() / "fedprox_synthetic" / variant / "mytest.json"
    except DataError as absent:
        pytest.skip(str(absent))
    if not path.is_file():
        pytest.skip(f"{path} is not on this machine")
    theirs = json.loads(path.read_text())
    assert len(theirs["users"]) == NUM_USERS
    users = [np.array(theirs["user_data"][user]["x"]) for user in theirs["users"]]
    check_moments(users, beta, iid)
    skew = [_classes_for_most_rows(theirs["user_data"][user]["y"]) for user in theirs["users"]]
    frame = load_dataset(variant)
    ours = [_classes_for_most_rows(part["label"]) for _, part in frame.groupby("user")]
    assert np.mean(ours) == pytest.approx(np.mean(skew), rel=0.4)
    # a tenth of each user's rows is in their test file
    sizes = sorted(10 * len(x) for x in users)
    assert 50 <= sizes[0] <= 70
    assert np.log(np.array(sizes) - 45).mean() == pytest.approx(4, abs=1)


def _classes_for_most_rows(labels):
    """How many classes make up 80 % of a user's rows."""
    shares = pd.Series(labels).value_counts(normalize=True).cumsum()
    return int((shares < 0.8).sum()) + 1


def test_alpha_and_beta_make_users_differ():
    spread = {}
    for name in VARIANTS:
        shares = pd.crosstab(*(load_dataset(name)[c] for c in ("user", "label")), normalize="index")
        spread[name] = float(shares.std(axis=0).mean())
    assert spread["synthetic_iid"] < 0.1
    assert min(spread[name] for name in VARIANTS[1:]) > 2 * spread["synthetic_iid"]


def test_users_are_the_sites_of_a_column_partition():
    frame = load_dataset("synthetic_1_1")
    users = frame["user"].to_numpy()
    rows = partition_rows(
        frame["label"].to_numpy(), users, Partition("column", NUM_USERS, 7, column="user")
    )
    assert set(users[rows]) == {"u07"}


def test_use_case_runs_and_learns(tmp_path, capsys):
    config = compose_overrides(
        ["usecase=synthetic", "rounds=2", "train.local_epochs=1", "board.url=null"], tmp_path
    )
    outcome = execute(InProcessGrid(config.site_data), config)
    capsys.readouterr()
    assert len(config.site_data) == NUM_USERS
    assert outcome.rounds[-1].score > outcome.rounds[0].score + 0.1
