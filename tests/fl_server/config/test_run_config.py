"""The configuration as a type: old names, unknown keys, what a runtime says."""

from __future__ import annotations

from dataclasses import FrozenInstanceError

import pytest

from fl_common.errors import ConfigError
from fl_server.config.compose import compose_overrides
from fl_server.config.run_config import DeploymentRuntime, SimulationRuntime, fingerprint


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("+weights=a.safetensors", "'weights' was renamed to 'initial_weights'"),
        ("+serve=true", "'serve' was renamed to 'board.serve'"),
        ("+runtime.serve=true", "'runtime.serve' was renamed to 'board.serve'"),
        ("+communication.top_k=0.1", "'communication' was renamed to 'compression'"),
        ("+model.params.weights=a.pt", "renamed to 'model.params.pretrained'"),
        ("+usecase.columns_shown=[]", "renamed to 'usecase.extra_columns'"),
        ("+usecase.on_bad=drop", "renamed to 'usecase.on_invalid'"),
        ("+data.on_bad=drop", "renamed to 'data.on_invalid'"),
        ("weights=a.safetensors", "'weights' was renamed to 'initial_weights'"),
        ("communication=int8", "'communication' was renamed to 'compression'"),
        ("runtime.serve=true", "'runtime.serve' was renamed to 'board.serve'"),
        ("communication.top_k=0.1", "'communication' was renamed to 'compression'"),
        ("+round=9", "unknown key 'round'; did you mean 'rounds'?"),
        ("+data.validation=0.2", "unknown key 'data.validation'; did you mean 'data.validation_"),
        ("+submission.taem=x", "did you mean 'submission.team'?"),
        ("+board.prot=1", "did you mean 'board.port'?"),
        ("+runtime.thread=1", "did you mean 'runtime.threads'?"),
        ("+partition.alhpa=1", "did you mean 'partition.alpha'?"),
        ("+compression.dtyp=int8", "did you mean 'compression.dtype'?"),
        ("+usecase.score.directoin=max", "unknown key 'usecase.score.directoin'"),
        ("+train.dp={noise_multiplier:0}", "privacy=local_dpsgd"),
        ("+schema={}", "unknown key 'schema'"),
        ("rounds=-1", "rounds must be a whole number, at least 0, got -1"),
    ],
)
def test_old_and_unknown_keys_are_refused_at_every_level(override, says, tmp_path):
    with pytest.raises(ConfigError) as caught:
        compose_overrides([override], tmp_path)
    assert says in str(caught.value)


def test_old_argument_of_ditto_is_told_its_new_name(tmp_path):
    with pytest.raises(ConfigError, match=r"'strategy\.strength' was renamed to 'strategy\.lam'"):
        compose_overrides(["strategy=ditto", "+strategy.strength=1"], tmp_path)


def test_the_page_is_served_in_a_deployment_unless_said_otherwise(tmp_path):
    assert not compose_overrides([], tmp_path).board.serve
    assert compose_overrides(["board.serve=true"], tmp_path).board.serve
    deployed = compose_overrides(["runtime=deployment"], tmp_path)
    assert deployed.board.serve
    assert deployed.sources == ()
    assert isinstance(deployed.runtime, DeploymentRuntime)
    assert compose_overrides([], tmp_path).runtime == SimulationRuntime()


def test_a_run_cannot_be_changed(tmp_path):
    with pytest.raises(FrozenInstanceError):
        compose_overrides([], tmp_path).rounds = 3


@pytest.mark.parametrize(
    ("override", "same"),
    [("rounds=9", True), ("submission.team=x", True), ("seed=3", False), ("train.lr=1", False)],
)
def test_fingerprint_is_of_what_must_not_change(override, same, tmp_path):
    one, other = compose_overrides([], tmp_path), compose_overrides([override], tmp_path)
    assert (fingerprint(one) == fingerprint(other)) is same
