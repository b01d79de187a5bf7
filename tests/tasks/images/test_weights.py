"""Weights files: the shapes that training scripts save, and plain words for what is refused."""

from __future__ import annotations

import os

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from fl_common.errors import ConfigError
from tasks.images.weights import load_checkpoint, read_state

STATE = {"conv.weight": torch.ones(2, 1), "conv.bias": torch.zeros(2)}


@pytest.mark.parametrize(
    "content",
    [
        STATE,
        {"state_dict": STATE, "epoch": 3},
        {"model": STATE, "optimizer": {"lr": 0.1}},
        {"model_state_dict": STATE},
        {f"module.{name}": value for name, value in STATE.items()},
        {"model": {f"module._orig_mod.{name}": value for name, value in STATE.items()}},
    ],
)
@pytest.mark.parametrize("name", ["w.pt", "w.pth"])
def test_usual_checkpoints_are_state_dicts(content, name, tmp_path):
    torch.save(content, tmp_path / name)
    assert read_state(tmp_path / name).keys() == STATE.keys()


def test_safetensors_are_read(tmp_path):
    save_file({f"module.{k}": v for k, v in STATE.items()}, tmp_path / "w.safetensors")
    assert torch.equal(read_state(tmp_path / "w.safetensors")["conv.weight"], STATE["conv.weight"])


class Runs:
    """Would run a command if it were unpickled."""

    def __reduce__(self):
        return os.system, ("touch ran",)


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (nn.Sequential(nn.Linear(2, 2)), "torch.nn.modules.container.Sequential"),
        ({"model": nn.Linear(2, 2), "epoch": 1}, "torch.nn.modules.linear.Linear"),
        ({"state_dict": STATE, "hook": Runs()}, "posix.system"),
    ],
)
def test_what_would_have_to_be_run_is_named_and_not_run(content, named, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(ConfigError, match=r"save model\.state_dict") as caught:
        read_state(tmp_path / "w.pt")
    message = str(caught.value)
    assert named in message
    assert "trust" not in message
    assert "\x1b" not in message
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("junk.pt", b"this is no checkpoint", "damaged, or not written by torch.save"),
        ("junk.pth", b"", "damaged, or not written by torch.save"),
        ("cut.pt", None, "damaged, or not written by torch.save"),
        ("w.onnx", b"x", "neither .safetensors nor .pt nor .pth"),
        ("bad.safetensors", b"xxxx", "is damaged"),
    ],
)
def test_damaged_files_are_named_in_one_line(name, content, message, tmp_path):
    path = tmp_path / name
    if content is None:
        torch.save(STATE, path)
        content = path.read_bytes()[:-200]
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=message) as caught:
        read_state(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "\x1b" not in str(caught.value)


@pytest.mark.parametrize("content", [[1, 2], {"epoch": 3}, torch.ones(2)])
def test_a_file_without_weights_by_name_is_refused(content, tmp_path):
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(ConfigError, match="holds no weights by name"):
        read_state(tmp_path / "w.pt")


def test_classes_that_a_caller_allows_may_be_in_a_file(tmp_path):
    torch.save(nn.Sequential(nn.Linear(2, 2)), tmp_path / "w.pt")
    with pytest.raises(ConfigError):
        load_checkpoint(tmp_path / "w.pt")
    allowed = [nn.Sequential, nn.Linear]
    with torch.serialization.safe_globals(allowed):
        assert isinstance(load_checkpoint(tmp_path / "w.pt"), nn.Sequential)
    with torch.serialization.safe_globals(allowed[:1]), pytest.raises(ConfigError) as caught:
        load_checkpoint(tmp_path / "w.pt")
    assert "linear.Linear" in str(caught.value)
    assert "Sequential" not in str(caught.value)
