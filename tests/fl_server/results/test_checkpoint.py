"""A checkpoint says after a restart what it said before, or that it is damaged."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from fl_common.errors import CheckpointError
from fl_common.files import PART
from fl_server.results.checkpoint import FILE_NAME, Checkpoint, read_checkpoint, write_checkpoint
from fl_server.results.records import RoundRecord, SiteRecord
from tasks.scores import ScoreCard, Scores

CARD = ScoreCard(
    Scores({"f1": 0.75}, {"ece": "too few rows"}, {"auroc": 0.01}, {"confusion_matrix": [[1, 2]]}),
    {"women": Scores({"f1": 0.5})},
    {"mean": Scores(absent={"f1": "one class"})},
    {"age": 0.25},
)
SITES = (
    SiteRecord("berlin", "train", "ok", 100, 0.5, 10, 20, loss=0.25, epsilon=1.5),
    SiteRecord("paris", "train", "late", reason="no reply within 5 s"),
)
ROUNDS = (
    RoundRecord(0, "baseline", "ok", 0.5, ScoreCard(), (), 1.0, 0, 0),
    RoundRecord(
        *(1, "finetune", "diverged", None, CARD, SITES, 2.5, 30, 40),
        reason="nan",
        train_loss=0.125,
        strategy_metrics={"tau": 2.0},
        epsilon=1.5,
        validation_score=0.625,
    ),
)
CHECKPOINT = Checkpoint(
    fingerprint='{"seed": 1}',
    fitted={"mean": [0.5, 1.5], "categories": {"sex": ["f", "m"]}},
    rounds=ROUNDS,
    model={"z": np.arange(6, dtype=np.float32).reshape(2, 3), "a": np.array(3, np.int64)},
    strategy_arrays={"m::record::w": np.array([math.nan, math.inf, -0.0])},
    strategy_numbers={"t": 3, "eta": 0.1, "label": "x", "none": None},
    best={"z": np.zeros((2, 3), np.float32)},
    site_memory={"2::variate::w": np.ones(4, np.float16)},
    run="run 1",
)
ARRAYS = ("model", "strategy_arrays", "best", "site_memory")


def rewrite(path, change):
    """Write the file anew, as a valid one of other content."""
    with safe_open(path, framework="np") as file:
        metadata = file.metadata()
    arrays = load_file(path)
    change(arrays, metadata)
    save_file(arrays, path, metadata=metadata)


def test_checkpoint_round_trips_with_all_its_parts(tmp_path):
    write_checkpoint(tmp_path, CHECKPOINT)
    found = read_checkpoint(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [FILE_NAME]
    nothing = dict.fromkeys(ARRAYS)
    assert replace(found, **nothing) == replace(CHECKPOINT, **nothing)
    for part in ARRAYS:
        left, right = getattr(found, part), getattr(CHECKPOINT, part)
        assert list(left) == list(right)
        for name, array in right.items():
            assert (left[name].dtype, left[name].shape) == (array.dtype, array.shape)
            assert left[name].tobytes() == array.tobytes()


def test_arrays_keep_their_order_whatever_their_names(tmp_path):
    names = ["head.weight", "body.weight", "10", "9", "Z", "a", "_"]
    model = {name: np.full(2, float(i)) for i, name in enumerate(names)}
    write_checkpoint(tmp_path, replace(CHECKPOINT, model=model))
    found = read_checkpoint(tmp_path).model
    assert list(found) == names
    assert [float(array[0]) for array in found.values()] == [0, 1, 2, 3, 4, 5, 6]
    assert list(load_file(tmp_path / FILE_NAME)) != names


def test_array_that_does_not_lie_in_rows_keeps_its_values(tmp_path):
    weight = np.arange(6.0).reshape(2, 3).T
    write_checkpoint(tmp_path, replace(CHECKPOINT, model={"w": weight[:, ::-1]}))
    np.testing.assert_array_equal(
        read_checkpoint(tmp_path).model["w"], [[3.0, 0.0], [4.0, 1.0], [5.0, 2.0]]
    )


def test_what_was_not_there_is_not_there_again(tmp_path):
    least = Checkpoint("print", {}, (), {"w": np.zeros(1)})
    write_checkpoint(tmp_path, least)
    found = read_checkpoint(tmp_path)
    assert (found.best, found.site_memory, found.strategy_arrays) == (None, {}, {})
    assert (found.rounds, found.strategy_numbers, found.run) == ((), {}, "")


def test_checkpoint_replaces_the_one_before(tmp_path):
    write_checkpoint(tmp_path, CHECKPOINT)
    write_checkpoint(tmp_path, replace(CHECKPOINT, rounds=ROUNDS[:1], best=None))
    found = read_checkpoint(tmp_path)
    assert (found.rounds, found.best) == (ROUNDS[:1], None)


def test_folder_without_a_checkpoint_is_said(tmp_path):
    with pytest.raises(CheckpointError, match=r"no checkpoint to resume from; give resume=FOLDER"):
        read_checkpoint(tmp_path)


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: b"no safetensors",
        lambda data: data[:-1],
        lambda data: data[: len(data) // 2],
        lambda data: b"\xff" * 8 + data[8:],
    ],
)
def test_damaged_file_is_said_with_its_name(tmp_path, damage):
    write_checkpoint(tmp_path, CHECKPOINT)
    path = tmp_path / FILE_NAME
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(CheckpointError, match=r"checkpoint\.safetensors: damaged \(") as raised:
        read_checkpoint(tmp_path)
    assert str(raised.value).endswith("delete it and start anew")


def test_flipped_bit_of_a_weight_is_found(tmp_path):
    write_checkpoint(tmp_path, CHECKPOINT)
    path = tmp_path / FILE_NAME
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="checksum differs"):
        read_checkpoint(tmp_path)


def _other_value(arrays, metadata):
    arrays["model/z"] = arrays["model/z"] + 1


def _other_shape(arrays, metadata):
    arrays["model/z"] = arrays["model/z"].reshape(3, 2)


def _other_type(arrays, metadata):
    arrays["model/a"] = arrays["model/a"].view(np.float64)


def _other_state(arrays, metadata):
    state = json.loads(metadata["state"])
    metadata["state"] = json.dumps({**state, "fingerprint": "other"})


def _other_order(arrays, metadata):
    state = json.loads(metadata["state"])
    metadata["state"] = json.dumps({**state, "order": state["order"][::-1]})


def _no_checksum(arrays, metadata):
    del metadata["sha256"]


@pytest.mark.parametrize(
    "change", [_other_value, _other_shape, _other_type, _other_state, _other_order, _no_checksum]
)
def test_content_other_than_was_written_is_found(tmp_path, change):
    write_checkpoint(tmp_path, CHECKPOINT)
    rewrite(tmp_path / FILE_NAME, lambda arrays, metadata: None)
    assert read_checkpoint(tmp_path).run == "run 1"
    rewrite(tmp_path / FILE_NAME, change)
    with pytest.raises(CheckpointError, match="checksum differs"):
        read_checkpoint(tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"order": ["model/none"]}'])
def test_state_that_cannot_be_read_is_damage(tmp_path, text):
    write_checkpoint(tmp_path, CHECKPOINT)
    rewrite(tmp_path / FILE_NAME, lambda _arrays, metadata: metadata.update(state=text))
    with pytest.raises(CheckpointError, match="damaged"):
        read_checkpoint(tmp_path)


def test_weights_without_a_state_are_damage(tmp_path):
    save_file({"w": np.zeros(1)}, tmp_path / FILE_NAME)
    with pytest.raises(CheckpointError, match="damaged"):
        read_checkpoint(tmp_path)


def test_folder_that_cannot_be_written_names_the_cure_and_keeps_the_last(tmp_path, monkeypatch):
    write_checkpoint(tmp_path, CHECKPOINT)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("fl_common.files.os.replace", full)
    with pytest.raises(CheckpointError, match=r"no space left.*fl-server resume=") as raised:
        write_checkpoint(tmp_path, replace(CHECKPOINT, run="run 2"))
    assert str(raised.value).endswith(f"fl-server resume={tmp_path}")
    assert read_checkpoint(tmp_path).run == "run 1"
    assert not list(tmp_path.glob(f"*{PART}"))
