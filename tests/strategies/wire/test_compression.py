from __future__ import annotations

import json

import numpy as np
import pytest
from flwr.app import Message
from flwr.supercore.task_identity import TaskIdentity
from safetensors.numpy import load_file

from fl_client.egress.reply_check import check_reply
from fl_client.policy.site import site_from_mapping
from fl_common.errors import ConfigError, EgressError, ReplyError
from fl_server.results.result import MODEL, RESULT
from fl_server.runtimes.execution import execute
from fl_server.runtimes.simulation import InProcessGrid
from strategies.wire.compression import (
    INDICES,
    RESIDUAL,
    SCALES,
    VALUES,
    Compression,
    decode,
    encode,
    encoded_form,
    round_at_random,
)
from strategies.wire.job import Job
from strategies.wire.messages import UPDATE, TrainReply, request
from strategies.wire.records import pack_arrays, unpack_arrays
from tasks.contract import ModelSpec, TrainConfig

RECEIVED = {
    "b": np.linspace(-1, 1, 5).astype(np.float32),
    "a": np.arange(12, dtype=np.float32).reshape(3, 4),
    "count": np.array(3),
}
FORMS = [Compression(dtype, share) for dtype in ("fp32", "fp16", "int8") for share in (None, 0.3)]


class Memory(dict):
    def put(self, name, arrays):
        self[name] = arrays


def trained(rng, scale=0.01):
    return {
        n: (a + scale * rng.normal(size=a.shape)).astype(a.dtype) if a.dtype.kind == "f" else a + 1
        for n, a in RECEIVED.items()
    }


def sent(model, compression, memory=None, seed=0):
    encoded = encode(
        model,
        RECEIVED,
        compression,
        memory if memory is not None else Memory(),
        np.random.default_rng(seed),
    )
    return encoded, decode(encoded, RECEIVED, compression)


@pytest.mark.parametrize("compression", FORMS)
def test_encoded_update_has_the_declared_form(compression):
    encoded, decoded = sent(trained(np.random.default_rng(0)), compression)
    form = {name: (array.shape, str(array.dtype)) for name, array in encoded.items()}
    assert form == encoded_form(RECEIVED, compression)
    assert decoded.keys() == {"a", "b"}
    for name, array in decoded.items():
        assert (array.shape, array.dtype) == (RECEIVED[name].shape, RECEIVED[name].dtype)


@pytest.mark.parametrize(("dtype", "error"), [("fp32", 1e-6), ("fp16", 5e-5), ("int8", 4e-4)])
def test_dense_update_is_close(dtype, error):
    model = trained(np.random.default_rng(0))
    _, decoded = sent(model, Compression(dtype))
    for name, array in decoded.items():
        np.testing.assert_allclose(array, model[name], atol=error)


def test_stochastic_rounding_is_unbiased():
    rng = np.random.default_rng(1)
    values = np.array([-1.75, -0.5, 0.0, 0.1, 0.999, 3.0])
    mean = np.mean([round_at_random(values, rng) for _ in range(20_000)], axis=0)
    np.testing.assert_allclose(mean, values, atol=0.02)


def test_int8_update_is_unbiased_where_rounding_to_nearest_is_not():
    model = trained(np.random.default_rng(0))
    updates = {n: model[n] - RECEIVED[n] for n in ("a", "b")}
    rounds = [sent(model, Compression("int8"), seed=seed)[1] for seed in range(4000)]
    for name, update in updates.items():
        mean = np.mean([r[name].astype(np.float64) - RECEIVED[name] for r in rounds], axis=0)
        step = np.abs(update).max() / 127
        np.testing.assert_allclose(mean, update, atol=0.1 * step)
        nearest = np.rint(update / step) * step
        assert np.abs(nearest - update).max() > 0.2 * step


def test_top_k_sends_the_largest_and_remembers_the_rest():
    model = {n: a.copy() for n, a in RECEIVED.items()}
    model["a"][2, 1] += 5
    model["b"][0] -= 3
    model["b"][1] += 0.5
    memory = Memory()
    encoded, decoded = sent(model, Compression("fp32", 2 / 17), memory)
    assert encoded[INDICES].tolist() == [9, 12]
    np.testing.assert_allclose(encoded[VALUES], [5, -3])
    np.testing.assert_array_equal(decoded["b"][1], RECEIVED["b"][1])
    residual = memory[RESIDUAL]["residual"]
    assert np.flatnonzero(residual).tolist() == [13]
    again, _ = sent(RECEIVED, Compression("fp32", 2 / 17), memory)  # nothing new: the rest follows
    assert 13 in again[INDICES]


@pytest.mark.parametrize("dtype", ["fp32", "int8"])
def test_error_feedback_converges_where_plain_top_k_does_not(dtype):
    """Stich et al. 2018, section 4: two sites pull one weight apart and agree on a small one.

    Each sends the one largest entry of two. Without memory the disagreement is all that is ever
    sent, and the shared direction never moves.
    """
    rng = np.random.default_rng(0)
    targets = [np.array([10.0, 1.0]), np.array([-10.0, 1.0])]

    def distance(feedback):
        model, memories = {"w": np.zeros(2)}, [Memory(), Memory()]
        for _ in range(1500):
            moves = []
            for target, memory in zip(targets, memories, strict=True):
                local = {"w": model["w"] + 0.005 * (target - model["w"])}
                state = memory if feedback else Memory()
                form = Compression(dtype, 0.5)
                encoded = encode(local, model, form, state, rng)
                moves.append(decode(encoded, model, form)["w"] - model["w"])
            model = {"w": model["w"] + np.mean(moves, axis=0)}
        return abs(model["w"][1] - 1.0)

    assert distance(feedback=True) < 0.1
    assert distance(feedback=False) > 0.9


@pytest.mark.parametrize(
    "spoil",
    [
        lambda e: e | {INDICES: e[INDICES][::-1].copy()},
        lambda e: e | {INDICES: np.full_like(e[INDICES], 3)},
        lambda e: e | {INDICES: e[INDICES] + np.uint32(2**31)},
        lambda e: e | {VALUES: np.full_like(e[VALUES], np.nan)},
    ],
)
def test_spoilt_update_is_refused(spoil):
    compression = Compression("fp32", 0.3)
    encoded, _ = sent(trained(np.random.default_rng(0)), compression)
    with pytest.raises(ReplyError):
        decode(spoil(encoded), RECEIVED, compression)


def test_int8_scale_that_is_not_finite_is_refused():
    encoded, _ = sent(trained(np.random.default_rng(0)), Compression("int8"))
    with pytest.raises(ReplyError):
        decode(encoded | {SCALES: encoded[SCALES] * np.inf}, RECEIVED, Compression("int8"))


@pytest.mark.parametrize(
    ("dtype", "share"), [("fp64", None), ("int8", 0), ("int8", 1.5), ("fp32", True), (8, None)]
)
def test_refuses_a_form_that_does_not_exist(dtype, share):
    with pytest.raises(ConfigError, match="compression"):
        Compression(dtype, share)


def run(config, grid=None):
    outcome = execute(grid or InProcessGrid(config.site_data), config)
    return outcome, json.loads((config.folder / RESULT).read_text())


def trained_bytes(result):
    sites = [s for r in result["rounds"] for s in r["sites"] if s["phase"] == "train"]
    assert all(site["status"] == "ok" for site in sites)
    return sum(site["bytes_up"] for site in sites)


WIDE = ("model.params.hidden=[64,64]", "rounds=2")


def test_bytes_drop_as_declared_and_the_model_stays_close(compose):
    plain, whole = run(compose(*WIDE, folder="fp32"))
    size = trained_bytes(whole)
    for name, share, loss in (("fp16", 0.53, 0.01), ("int8", 0.30, 0.05), ("top_k", 0.25, 0.2)):
        outcome, result = run(compose(*WIDE, f"compression={name}", folder=name))
        assert trained_bytes(result) < share * size, name
        final = outcome.rounds[-1]
        assert final.train_loss == pytest.approx(plain.rounds[-1].train_loss, abs=loss)


def test_fp32_is_the_path_without_compression_bit_for_bit(compose):
    plain, same = compose(folder="plain"), compose("compression=fp32", folder="fp32")
    run(plain), run(same)
    left, right = load_file(plain.folder / MODEL), load_file(same.folder / MODEL)
    for name in left:
        np.testing.assert_array_equal(left[name], right[name])


@pytest.mark.parametrize("strategy", ["scaffold", "krum", "fedadam", "flwr_fedavg", "fedbn"])
def test_any_strategy_works_on_decoded_updates(compose, strategy):
    options = ("compression=int8", "compression.top_k=0.5", f"strategy={strategy}")
    norm = ("model.params.layer_norm=true", "train.optimizer=sgd", "rounds=2")
    if strategy == "krum":
        norm += ("strategy.num_malicious_nodes=0",)
    outcome, _ = run(compose(*options, *norm))
    assert [record.status for record in outcome.rounds] == ["ok"] * 3


def test_residual_stays_at_the_site_and_survives_a_resumption(compose):
    options = ("compression=top_k", "train.optimizer=sgd")
    whole = compose(*options, "rounds=3", folder="whole")
    run(whole)
    run(compose(*options, "rounds=2", folder="cut"))
    cut = compose(*options, "rounds=3", "resume=true", folder="cut")
    run(cut)
    left, right = load_file(whole.folder / MODEL), load_file(cut.folder / MODEL)
    for name in left:
        np.testing.assert_array_equal(left[name], right[name])


class Spoiling(InProcessGrid):
    """Changes what one site's training reply holds after it left the site."""

    def __init__(self, sites, change):
        super().__init__(sites)
        self._change = change

    def _deliver(self, message):
        reply = super()._deliver(message)
        if message.metadata.message_type == "train" and message.metadata.dst_node_id == 2:
            self._change(reply.content)
        return reply


def _cut(content):
    arrays = unpack_arrays(content[UPDATE])
    content[UPDATE] = pack_arrays(arrays | {VALUES: arrays[VALUES][:-1]})


def _swap(content):
    arrays = unpack_arrays(content[UPDATE])
    content[UPDATE] = pack_arrays(arrays | {VALUES: arrays[VALUES].astype(np.float32)})


def _lack(content):
    del content[UPDATE]


@pytest.mark.parametrize("change", [_cut, _swap, _lack])
def test_server_refuses_another_form_than_it_asked_for(compose, change):
    config = compose("compression=int8", "rounds=1")
    outcome, _ = run(config, Spoiling(config.site_data, change))
    status = {s.site: s.status for s in outcome.rounds[1].sites if s.phase == "train"}
    assert status == {"a": "refused", "b": "ok", "c": "ok"}


@pytest.mark.parametrize(
    ("asked", "answered", "leaves"),
    [
        (Compression("int8"), Compression("int8"), True),
        (Compression("int8", 0.5), Compression("int8", 0.5), True),
        (Compression("int8"), Compression("fp16"), False),
        (Compression("int8", 0.5), Compression("int8", 0.3), False),
        (Compression(), Compression("int8"), False),
    ],
)
def test_guard_lets_out_only_the_form_that_was_asked_for(tmp_path, asked, answered, leaves):
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1
    site = site_from_mapping({"name": "a", "data": {"train": "a.csv"}}, "test", tmp_path)
    job = Job("quadratic", {}, ModelSpec("mlp"), TrainConfig(), compression=asked).to_json()
    message = Message(request(job, 1, pack_arrays(RECEIVED)), 2, "train")
    model = trained(np.random.default_rng(0))
    encoded, _ = sent(model, answered)
    reply = Message(TrainReply(model, 3).to_compressed(encoded), reply_to=message)
    if leaves:
        check_reply(message, reply, site)
        reply.content[UPDATE] = pack_arrays(encoded | {"rows": np.zeros(3, np.float32)})
    with pytest.raises(EgressError, match="encoded update"):
        check_reply(message, reply, site)
