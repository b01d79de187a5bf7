"""What a site remembers of a run outlives its process, in step with the rounds."""

from __future__ import annotations

import os
import stat

import numpy as np
import pytest
from flwr.app import Context, RecordDict

from fl_client.policy.site import read_site
from fl_client.state import memory as module
from fl_client.state.memory import MAX_RUNS, RunMemory
from fl_common.errors import DataError
from strategies.wire.messages import DESCRIBE, EVALUATE, EXTRA, FIT, METRICS, TRAIN, request
from strategies.wire.records import pack_arrays, unpack_arrays
from strategies.wire.refusal import Refusal

SGD = {"optimizer": "sgd", "local_epochs": 1}


def state(value: float, **more):
    return {"variate": {"w": np.full((2, 3), value, np.float32), **more}}


def files(folder):
    return sorted(p.name for p in folder.iterdir()) if folder.exists() else []


@pytest.fixture
def memory(tmp_path):
    return RunMemory(tmp_path / "memory", "clinic", "run one")


def test_arrays_come_back_bit_for_bit_and_in_order(memory):
    arrays = {
        "z": np.array([np.nan, -0.0, 1e-310]),
        "a::b/c": np.float32(3.5).reshape(()),
        "empty": np.zeros((0, 4), np.int64),
        "turned": np.arange(6, dtype=np.uint8).reshape(2, 3).T,
        "flag": np.array([True, False]),
    }
    memory.write(1, {"one": arrays, "two::three": {"w": np.ones(2)}}, 1)
    number, records = memory.newest(2)
    assert number == 1
    assert list(records) == ["one", "two::three"]
    assert list(records["one"]) == list(arrays)
    for name, array in arrays.items():
        assert records["one"][name].dtype == array.dtype
        np.testing.assert_array_equal(records["one"][name], array)
    assert np.signbit(records["one"]["z"][1])


def test_replayed_round_starts_from_where_it_started(memory):
    for number in (1, 2, 3):
        memory.write(number, state(number), number)
    assert memory.newest(4)[0] == 3
    assert memory.newest(3)[0] == 2
    assert memory.newest(2) is None  # two states are kept
    memory.write(2, state(20), 2)  # the server went back: round 3 never finished
    assert memory.newest(9)[0] == 2
    assert memory.newest(9)[1]["variate"]["w"][0, 0] == 20
    memory.write(7, state(7), 7)  # was not sampled in between
    assert (memory.newest(8)[0], memory.newest(7)[0]) == (7, 2)


def test_state_of_a_round_that_never_counted_is_passed_over_and_dropped(memory):
    memory.write(4, state(4), 4)
    memory.write(5, state(5), 5)  # refused by the server
    for number in (6, 7):  # and refused again
        assert memory.newest(5)[0] == 4
        memory.write(number, state(number), 5)
    assert memory.newest(5)[0] == 4
    assert memory.newest(9)[0] == 7


def test_write_that_is_interrupted_leaves_the_old_state(memory, tmp_path, monkeypatch):
    memory.write(1, state(1), 1)

    def power_cut(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(module.os, "replace", power_cut)
    for number in (1, 2):
        with pytest.raises(KeyboardInterrupt):
            memory.write(number, state(9), number)
    monkeypatch.undo()
    assert any(name.endswith(".part") for name in files(tmp_path / "memory"))
    assert memory.newest(9) is not None
    assert memory.newest(9)[1]["variate"]["w"][0, 0] == 1
    memory.write(2, state(2), 2)
    assert not [name for name in files(tmp_path / "memory") if name.endswith(".part")]


def test_disk_that_is_full_is_named_and_leaves_the_old_state(memory, monkeypatch):
    memory.write(1, state(1), 1)

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.os, "fsync", full)
    with pytest.raises(DataError, match=r"-2\.safetensors: .*No space left.*memory: null"):
        memory.write(2, state(2), 2)
    monkeypatch.undo()
    assert memory.newest(9)[0] == 1


@pytest.mark.parametrize("damage", ["empty", "short", "flipped", "text", "other", "folder"])
def test_damaged_file_is_named_and_counts_as_none(memory, tmp_path, caplog, damage):
    for number in (1, 2):
        memory.write(number, state(number), number)
    path = tmp_path / "memory" / files(tmp_path / "memory")[-1]
    whole = path.read_bytes()
    if damage == "other":
        from safetensors.numpy import save_file

        save_file({"w": np.ones(2)}, path)
    elif damage == "folder":
        path.unlink()
        path.mkdir()
    else:
        flipped = bytearray(whole)
        flipped[-1] ^= 1
        parts = {"empty": b"", "short": whole[:-5], "flipped": bytes(flipped), "text": b"x" * 99}
        path.write_bytes(parts[damage])
    assert memory.newest(3) is None  # not the older one, which is out of step
    assert str(path) in caplog.text
    assert "damaged" in caplog.text
    assert memory.newest(2)[0] == 1


def test_only_the_site_s_user_may_read(memory, tmp_path):
    previous = os.umask(0)
    try:
        memory.write(1, state(1), 1)
    finally:
        os.umask(previous)
    folder = tmp_path / "memory"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert [stat.S_IMODE(p.stat().st_mode) for p in folder.iterdir()] == [0o600]


def test_runs_and_sites_do_not_see_each_other(memory, tmp_path):
    memory.write(1, state(1), 1)
    assert RunMemory(tmp_path / "memory", "clinic", "run two").newest(9) is None
    assert RunMemory(tmp_path / "memory", "other", "run one").newest(9) is None


def test_oldest_runs_of_the_site_are_forgotten(memory, tmp_path):
    folder = tmp_path / "memory"
    RunMemory(folder, "other", "run").write(1, state(1), 1)
    (folder / "notes.txt").write_text("the operator's own")
    os.utime(next(folder.glob("*.safetensors")), (1, 1))
    runs = [RunMemory(folder, "clinic", f"run {i}") for i in range(MAX_RUNS + 3)]
    for age, run in enumerate(runs):
        for number in (1, 2):
            run.write(number, state(number), number)
        run.budget_file.write_text("{}")
        for path in folder.glob(f"{run._stem}*"):
            os.utime(path, (100 + age, 100 + age))
    runs[-1].write(3, state(3), 3)
    assert [run.newest(9) is not None for run in runs] == [False] * 3 + [True] * MAX_RUNS
    assert [run.budget_file.exists() for run in runs] == [False] * 3 + [True] * MAX_RUNS
    assert RunMemory(folder, "other", "run").newest(9) is not None
    assert (folder / "notes.txt").exists()


@pytest.mark.parametrize("run", ["../../etc/passwd", "/etc/passwd", "a\0b", "é" * 400, "."])
def test_name_that_a_server_sends_is_no_file_name(tmp_path, run):
    RunMemory(tmp_path / "memory", "clinic", run).write(1, state(1), 1)
    assert files(tmp_path) == ["memory"]
    assert len(files(tmp_path / "memory")) == 1


def restarted(site):
    """Forget everything that a process would."""
    site.context = Context(
        run_id=site.context.run_id + 1,  # as after a restart of the server
        node_id=2,
        node_config=site.context.node_config,
        state=RecordDict(),
        run_config={},
    )


def scaffold_round(site, number, job, arrays):
    content = site.with_weights(job, arrays, **{"server-round": number})
    content[EXTRA] = pack_arrays({n: np.zeros_like(a) for n, a in unpack_arrays(arrays).items()})
    reply = site.ask(TRAIN, content)
    assert not reply.has_error(), site.audit[-1]
    return unpack_arrays(reply.content[EXTRA])


def same(left, right):
    return all(np.array_equal(left[name], right[name]) for name in left)


@pytest.fixture
def trains(make_site):
    """Return a site, and a function that lets it train a round of SCAFFOLD."""
    site = make_site()
    job, arrays = site.fitted_job(strategy="scaffold", train=SGD, run="one")
    return site, lambda number, **changes: scaffold_round(
        site,
        number,
        *(
            (job, arrays)
            if not changes
            else site.fitted_job(strategy="scaffold", train=SGD, **changes)
        ),
    )


def test_restarted_site_goes_on_as_if_nothing_had_happened(trains, make_site):
    site, train = trains
    first, second = train(1), train(2)
    assert not same(first, second)
    restarted(site)
    assert same(train(2), second)  # replayed
    third = train(3)
    restarted(site)
    assert same(train(3), third)
    anew = train(1, run="two")  # another run starts without
    assert same(anew, first)


def test_site_tells_from_which_round_it_remembers(trains):
    site, train = trains
    job = site.job_text(run="one")

    def remembered(kind, first):
        return site.ask(kind, request(job, first)).content[METRICS].get("memory-round")

    assert remembered(FIT, 0) is remembered(DESCRIBE, 5) is None
    train(1)
    train(2)
    restarted(site)
    assert [remembered(FIT, first) for first in (0, 1, 2, 3, 9)] == [None, None, 1, 2, 2]
    assert remembered(DESCRIBE, 3) == 2
    assert site.audit[-1]["values"]["memory-round"] == 2
    for path in (site.path.parent / "memory").iterdir():
        path.write_bytes(b"damaged")
    assert remembered(FIT, 3) is None
    train(3)
    assert remembered(FIT, 4) == 3


def test_reply_does_not_leave_if_it_cannot_be_remembered(trains, refused):
    site, _ = trains
    (site.path.parent / "memory").write_text("a file, not a folder")
    job, arrays = site.fitted_job(strategy="scaffold", train=SGD, run="one")
    refused(site.ask(TRAIN, site.with_weights(job, arrays)), Refusal.DATA)
    assert "memory: null" in site.audit[-1]["why"]


def test_personal_model_is_evaluated_after_a_restart(make_site):
    site = make_site()
    mlp = {"name": "mlp", "params": {"hidden": [4]}}
    job, arrays = site.fitted_job(strategy="ditto", train=SGD, model=mlp, run="one")
    assert not site.ask(TRAIN, site.with_weights(job, arrays)).has_error()

    def evaluated(number):
        reply = site.ask(EVALUATE, site.with_weights(job, arrays, **{"server-round": number}))
        return unpack_arrays(reply.content["stats"])

    as_submitted, personal = evaluated(0), evaluated(1)
    restarted(site)
    assert same(evaluated(1), personal)
    assert same(evaluated(0), as_submitted)
    assert not same(personal, as_submitted)


@pytest.mark.parametrize(
    "changes", [{"strategy": "fedavg", "run": "one"}, {"strategy": "scaffold", "run": ""}]
)
def test_nothing_is_written_where_nothing_is_remembered(make_site, changes):
    """Neither for a strategy without memory, nor for a server that does not name its run."""
    site = make_site()
    job, arrays = site.fitted_job(train=SGD, **changes)
    assert not site.ask(TRAIN, site.with_weights(job, arrays)).has_error()
    assert not (site.path.parent / "memory").exists()


def test_memory_can_be_placed_and_switched_off(tmp_path):
    text = "name: a\ndata: {train: a.csv}\n"
    for line, expected in (
        ("", tmp_path / "memory"),
        ("memory: elsewhere/kept\n", tmp_path / "elsewhere/kept"),
        ("memory: null\n", None),
    ):
        (tmp_path / "site.yaml").write_text(text + line)
        assert read_site(tmp_path / "site.yaml").memory == expected


def test_switched_off_memory_lasts_as_long_as_the_process(make_site):
    site = make_site()
    site.path.write_text(site.path.read_text() + "memory: null\n")
    job, arrays = site.fitted_job(strategy="scaffold", train=SGD, run="one")
    first, second = (scaffold_round(site, n, job, arrays) for n in (1, 2))
    assert not same(first, second)
    assert not (site.path.parent / "memory").exists()


def test_replayed_private_round_is_charged_twice(make_site):
    """What was spent is not rolled back with the rest, and a restart does not forget it."""
    pytest.importorskip("opacus")
    site = make_site()
    dp = {"noise_multiplier": 1.0, "max_grad_norm": 1.0, "delta": 1e-5}
    job, arrays = site.fitted_job(train={**SGD, "dp": dp}, run="one")

    def spent(number):
        reply = site.ask(TRAIN, site.with_weights(job, arrays, **{"server-round": number}))
        return reply.content[METRICS]["epsilon"]

    first, second = spent(1), spent(2)
    restarted(site)
    replayed = spent(2)
    assert first < second < replayed
    folder = site.path.parent / "memory"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert any(name.endswith(".epsilon.json") for name in files(folder))
