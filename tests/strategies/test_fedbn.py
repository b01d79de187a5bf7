"""FedBN end to end: the real tabular task, its layer normalisation, sites of shifted features."""

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from fl_common.errors import ConfigError
from fl_server.config.compose import compose_overrides
from fl_server.runtimes.execution import execute
from fl_server.runtimes.simulation import InProcessGrid
from strategies.wire.messages import ARRAYS
from strategies.wire.records import unpack_arrays
from tasks.networks.layers import layer_kinds


def shifted_sites(folder, seed):
    """The same question at every site, its features scaled and moved by an own instrument."""
    rng, paths = np.random.default_rng(seed), []
    for k in range(4):
        hidden = rng.normal(size=(160, 3))
        truth = hidden @ [2, -1, 1] + 0.3 * rng.normal(size=160) > 0
        measured = hidden * np.exp(0.7 * rng.normal(size=3)) + 2.1 * rng.normal(size=3)
        table = pd.DataFrame(measured, columns=list("abc"))
        table["y"] = np.where(truth, "p", "n")
        paths.append(folder / f"site{seed}_{k}.csv")
        table.to_csv(paths[-1], index=False)
    return paths


def compose(folder, paths, *overrides):
    return compose_overrides(
        [
            "usecase=tabular_classification",
            "usecase.target=y",
            "usecase.classes=[n,p]",
            f"data.sites=[{','.join(map(str, paths))}]",
            "model.params.hidden=[16]",
            "rounds=8",
            "train.optimizer=sgd",
            "train.lr=0.1",
            "train.local_epochs=2",
            "train.batch_size=16",
            "board.url=null",
            *overrides,
        ],
        folder,
    )


def final_loss(folder, paths, *overrides):
    config = compose(folder, paths, *overrides)
    outcome = execute(InProcessGrid(config.site_data), config)
    return outcome.rounds[-1].card.overall.values["log_loss"]


def test_beats_fedavg_under_feature_shift(tmp_path):
    norm = "model.params.layer_norm=true"
    for seed in (0, 1):
        paths = shifted_sites(tmp_path, seed)
        ours = final_loss(tmp_path / f"bn{seed}", paths, norm, "strategy=fedbn")
        plain = final_loss(tmp_path / f"avg{seed}", paths, norm, "strategy=fedavg")
        assert ours < 0.85 * plain


def test_normalisation_stays_at_the_site(tmp_path):
    paths = shifted_sites(tmp_path, 0)
    config = compose(
        tmp_path / "run", paths, "model.params.layer_norm=true", "strategy=fedbn", "rounds=2"
    )
    replies = []

    class Listens(InProcessGrid):
        def _deliver(self, message):
            reply = super()._deliver(message)
            if message.metadata.message_type == "train":
                replies.append(unpack_arrays(reply.content[ARRAYS]))
            return reply

    grid = Listens(config.site_data)
    outcome = execute(grid, config)
    kept = {path.split("::")[2] for path in grid.client_state()}
    assert kept == {"1.weight", "1.bias"}
    for arrays in replies:
        np.testing.assert_array_equal(arrays["1.weight"], np.ones(16, np.float32))
    assert (outcome.arrays["1.weight"] == 1).all()
    own = [array for path, array in grid.client_state().items() if path.endswith("1.weight")]
    assert len(own) == 4
    assert all((array != 1).any() for array in own)


def test_model_without_normalisation_is_refused_at_launch(tmp_path):
    paths = shifted_sites(tmp_path, 0)
    config = compose(tmp_path / "run", paths, "strategy=fedbn")
    with pytest.raises(ConfigError, match=r"kind:norm.*no weight.*0\.weight \(body\)"):
        execute(InProcessGrid(config.site_data), config)


def test_layer_kinds_of_a_module():
    body = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU())
    module = nn.Sequential(body, nn.Flatten(), nn.Linear(2, 2), nn.LayerNorm(2))
    kinds = layer_kinds(module)
    assert kinds.keys() == module.state_dict().keys()
    assert {name for name, kind in kinds.items() if kind == "head"} == {"2.weight", "2.bias"}
    norms = {name for name, kind in kinds.items() if kind == "norm"}
    assert {"0.1.running_mean", "0.1.num_batches_tracked", "3.weight"} <= norms
    assert kinds["0.0.weight"] == "body"
    assert torch.is_tensor(module.state_dict()["0.0.weight"])
