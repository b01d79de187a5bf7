"""A run's folder is all that is needed to continue it."""

import pytest

from fl_common.errors import ConfigError
from fl_server.config.compose import compose_overrides
from fl_server.config.run_config import fingerprint
from fl_server.config.run_folder import resumed_run, write_config

OPTIONS = [
    "usecase=breast_cancer",
    "strategy=fedprox",
    "strategy.proximal_mu=0.3",
    "train.lr=0.02",
    "rounds=3",
    'submission.team="Zürich"',
]


@pytest.fixture
def run(tmp_path):
    config = compose_overrides(OPTIONS, tmp_path / "run")
    write_config(config)
    return config


def test_folder_gives_the_run_back(run):
    again = resumed_run(run.folder, [])
    assert again.resume
    assert (again.rounds, again.submission.team, again.strategy_name) == (3, "Zürich", "fedprox")
    assert again.folder == run.folder
    assert fingerprint(again) == fingerprint(run)


def test_equal_and_adjustable_overrides_are_taken(run):
    same = ["usecase=breast_cancer", "strategy=fedprox", "strategy.proximal_mu=0.3", "model=mlp"]
    again = resumed_run(run.folder, [*same, "rounds=9", "board.url=null", "runtime.threads=1"])
    assert again.rounds == 9
    assert again.board.url is None
    assert fingerprint(again) == fingerprint(run)


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("strategy=fedavg", "contradicts the run in .*strategy=fedprox; leave it out"),
        ("usecase=diabetes", "contradicts .*usecase=breast_cancer"),
        ("train.lr=0.5", r"contradicts .*train\.lr=0\.02"),
        ("seed=7", "contradicts .*seed=0"),
        ("train={lr: 1}", "contradicts"),
        ("roundz=3", "unknown option 'roundz'; did you mean 'rounds'"),
        ("hydra.run.dir=elsewhere", "continues one run as it is; leave out hydra.run.dir"),
        ("seed=1,2", "continues one run as it is; leave out seed=1,2"),
        ("rounds=[", "write KEY=VALUE"),
        ("rounds=-1", "rounds must be a whole number"),
    ],
)
def test_contradiction_is_refused(run, override, says):
    with pytest.raises(ConfigError, match=says):
        resumed_run(run.folder, [override])


def test_folder_without_a_configuration_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"there is no .*config\.yaml; give the folder of a run"):
        resumed_run(tmp_path / "nowhere", [])


@pytest.mark.parametrize("text", ["", "[", "a: 1", "strategy: 3", "\0"])
def test_damaged_configuration_is_named(tmp_path, text):
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(ConfigError, match="not the configuration of a run"):
        resumed_run(tmp_path, [])
