"""What a configuration may name as ``_target_``: no more than the organiser means."""

from __future__ import annotations

import sys

import pytest

from fl_common.errors import ConfigError
from fl_server.config.instantiation import make_privacy, make_sampler, make_strategy

FEDAVG = {"_target_": "strategies.fedavg.FedAvg"}
ATTACKS = [
    {"_target_": "os.system", "command": "touch owned"},
    {"_target_": "subprocess.Popen", "args": ["touch", "owned"]},
    {"_target_": "builtins.eval", "_args_": ["open('owned', 'w')"]},
    {"_target_": "builtins.open", "_args_": ["owned", "w"]},
    {"_target_": "hydra.utils.call"},
    {"_target_": "_io.FileIO", "_args_": ["owned", "w"]},
    {"_target_": "zipimport.zipimporter", "_args_": ["x"]},
    {"_target_": "strategies.registry.importlib.import_module", "name": "evil"},
    {"_target_": "strategies.arrays.np.memmap", "filename": "owned"},
    {"_target_": "strategies.registry.client_update", "name": "evil:run", "custom_code": True},
    {"_target_": "flwr.serverapp.strategy.fedavg.os.system", "_args_": ["touch owned"]},
    {"_target_": "strategies"},
    {"_target_": "strategies.fedavg.FedAvg()"},
    {"_target_": "../evil"},
    {"_target_": ["os.system"]},
]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A module outside the working folder that must not even be imported."""
    monkeypatch.chdir(tmp_path)
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "evil.py").write_text("open('owned', 'w').close()\nclass Mine: pass\n")
    (outside / "research.py").write_text(
        "from strategies.fedavg import FedAvg\nclass Mine(FedAvg): pass\n"
    )
    monkeypatch.syspath_prepend(outside)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in ("evil", "research", "mine"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("attack", [*ATTACKS, {"_target_": "evil.Mine"}], ids=str)
@pytest.mark.parametrize("where", ["itself", "argument", "list"])
def test_what_is_no_class_of_ours_is_neither_called_nor_imported(folder, attack, where):
    nested = {"itself": attack, "argument": {**FEDAVG, "x": {"y": attack}}}
    config = nested.get(where, {**FEDAVG, "x": [1, [attack]]})
    for make in (make_strategy, make_sampler, make_privacy):
        with pytest.raises(ConfigError):
            make(config)
    assert not (folder / "owned").exists()
    assert "evil" not in sys.modules


@pytest.mark.parametrize("target", ["os.system", "_io.FileIO", "builtins.open", "sys.exit"])
def test_what_is_built_in_does_not_lie_in_the_working_folder(target):
    with pytest.raises(ConfigError, match=r"may be named|allow its package"):
        make_strategy({"_target_": target})


def test_the_cure_is_named():
    with pytest.raises(ConfigError, match=r"allow_targets=\[research\]"):
        make_strategy({"_target_": "research.Mine"})


def test_what_the_organiser_allows_may_be_named():
    assert type(make_strategy({"_target_": "research.Mine"}, ["research"])).__name__ == "Mine"


def test_a_module_in_the_working_folder_may_be_named(folder):
    source = "from strategies.fedavg import FedAvg\nclass Mine(FedAvg): pass\n"
    (folder / "mine.py").write_text(source)
    assert type(make_strategy({"_target_": "mine.Mine"})).__name__ == "Mine"


@pytest.mark.parametrize("target", ["strategies.fedavg.FedAvg", "flwr.serverapp.strategy.FedAdam"])
def test_ours_and_flowers_may_be_named(target):
    assert make_strategy({"_target_": target})
