"""A finished run's model is read back as it was, or the damaged file is named."""

from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from fl_common.errors import ConfigError
from fl_server.results.records import RoundRecord, RunOutcome
from fl_server.results.result import MODEL, MODEL_CARD, write_result
from fl_server.results.saved_model import load_run_model, read_json
from tasks.registry import load_task
from tasks.scores import ScoreCard, Scores


@pytest.fixture
def config(compose):
    return compose()


@pytest.fixture
def task(config):
    return load_task(config.usecase.task, config.schema)


@pytest.fixture
def data(config, task):
    return task.read(config.sources[0], config.split_seed)


@pytest.fixture
def model(config, task, data):
    """A model whose weights are not those of a new one."""
    model = task.build(config.model, task.prepare(task.fit(data, 1)), config.seed)
    model.load({name: array + np.float32(0.125) for name, array in model.arrays().items()})
    return model


@pytest.fixture
def folder(config, task, data, model):
    """What the run of ``model`` leaves behind."""
    baseline = RoundRecord(0, "baseline", "ok", 0.5, ScoreCard(Scores()), (), 1.0, 0, 0)
    fitted = task.prepare(task.fit(data, 1))
    write_result(config, RunOutcome(model.arrays(), (baseline,)), fitted)
    return config.folder


def change_card(folder, **changes):
    path = folder / MODEL_CARD
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_model_comes_back_with_its_weights_and_says_the_same(folder, task, model, data):
    again_task, again = load_run_model(folder)
    assert type(again_task) is type(task)
    assert list(again.arrays()) == list(model.arrays())
    for name, array in model.arrays().items():
        np.testing.assert_array_equal(again.arrays()[name], array)
    before, after = task.evaluate(model, data), again_task.evaluate(again, data)
    assert before.keys() == after.keys()
    for name, value in before.items():
        np.testing.assert_array_equal(after[name], value)


def test_weights_are_those_of_the_file_and_not_of_a_new_model(folder, model):
    arrays = {name: array * 2 for name, array in load_file(folder / MODEL).items()}
    save_file(arrays, folder / MODEL)
    for name, array in load_run_model(folder)[1].arrays().items():
        np.testing.assert_array_equal(array, model.arrays()[name] * 2)


@pytest.mark.parametrize("name", [MODEL, MODEL_CARD])
def test_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(ConfigError, match="no such file; give the folder of a finished run") as bad:
        load_run_model(folder)
    assert str(bad.value).startswith(str(folder / name))


@pytest.mark.parametrize(
    "damage", [lambda data: b"", lambda data: data[:-1], lambda data: b"x" * 9]
)
def test_damaged_weights_are_named(folder, damage):
    path = folder / MODEL
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ConfigError, match=r"model\.safetensors: damaged: .*run the model anew"):
        load_run_model(folder)


@pytest.mark.parametrize("text", [b"", b"{", b"\xff\xfe{}"])
def test_card_that_is_no_json_is_named(folder, text):
    (folder / MODEL_CARD).write_bytes(text)
    with pytest.raises(ConfigError, match=r"model\.json: cannot be read: "):
        load_run_model(folder)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"model": {"name": "mlp"}}, "KeyError 'params'"),
        ({"model": None}, "TypeError"),
        ({"preprocessing": None}, ""),
        ({"preprocessing": {}}, "KeyError"),
        ({"schema": []}, ""),
    ],
)
def test_damaged_card_is_named(folder, changes, error):
    change_card(folder, **changes)
    with pytest.raises(ConfigError, match=rf"model\.json: damaged: .*{error}.*run the model anew"):
        load_run_model(folder)


def test_card_that_is_a_list_is_damaged(folder):
    (folder / MODEL_CARD).write_text("[]")
    with pytest.raises(ConfigError, match=r"model\.json: damaged: TypeError"):
        load_run_model(folder)


def test_card_without_a_task_is_damaged(folder):
    (folder / MODEL_CARD).write_text("{}")
    with pytest.raises(ConfigError, match=r"model\.json: damaged: KeyError 'task'"):
        load_run_model(folder)


@pytest.mark.parametrize("change", ["one less", "one more", "another shape"])
def test_weights_of_another_model_do_not_fit(folder, change):
    arrays = load_file(folder / MODEL)
    name = next(iter(arrays))
    if change == "one less":
        del arrays[name]
    elif change == "one more":
        arrays["more"] = np.zeros(1, np.float32)
    else:
        arrays[name] = np.zeros((9, 9), np.float32)
    save_file(arrays, folder / MODEL)
    with pytest.raises(ConfigError, match=r"model\.safetensors: does not fit model\.json: "):
        load_run_model(folder)


def test_json_is_read_as_it_is(tmp_path):
    (tmp_path / "a.json").write_text('{"title": "Größe", "b": [1, null]}', encoding="utf-8")
    assert read_json(tmp_path / "a.json") == {"title": "Größe", "b": [1, None]}


def test_folder_in_place_of_a_file_is_said(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read: "):
        read_json(tmp_path)
