from __future__ import annotations

import itertools
import random

import numpy as np
import pytest
from flwr.app import ConfigRecord, Error, Message, RecordDict
from flwr.common.secure_aggregation.secaggplus_utils import pseudo_rand_gen

from fl_client.egress.reply_check import check_reply
from fl_client.policy.site import site_from_mapping
from fl_common.errors import ConfigError, EgressError, PolicyError, QuorumError, ReplyError
from fl_server.config.compose import compose_overrides
from fl_server.runtimes.simulation import InProcessGrid
from strategies.privacy.fixed_point import from_words, layout_of, num_words, to_words
from strategies.privacy.masking import mask
from strategies.privacy.modes import SecureAggregation
from strategies.privacy.secagg import SiteSession
from strategies.privacy.secagg_server import MaskedSum
from strategies.wire.messages import ARRAYS, EXTRA, METRICS, STATS, UPDATE
from strategies.wire.records import pack_arrays, unpack_arrays
from strategies.wire.refusal import Refusal
from strategies.wire.secagg import (
    MASKED,
    SECAGG,
    STAGE,
    VECTOR,
    MaskRequest,
    SharesRequest,
    Stage,
)


def summands(rng):
    return {
        "count:n": rng.integers(0, 2**40, (3, 2)),
        "weight:w": rng.normal(0, 50, (4, 5)),
        "sum:s": rng.normal(0, 1e6, 7) ** 3,
        "sum:scalar": np.array(rng.normal()),
    }


def test_counts_are_exact_and_floats_within_the_stated_bound():
    rng = np.random.default_rng(0)
    sites = [summands(rng) for _ in range(50)]
    layout = layout_of(sites[0])
    total = np.zeros(num_words(layout), np.uint64)
    for site in sites:
        total = total + to_words(site, 50)
    sums = from_words(total, layout)
    exact = {key: sum(site[key] for site in sites) for key in layout}
    np.testing.assert_array_equal(sums["count:n"], exact["count:n"])
    assert sums["count:n"].dtype == np.int64
    assert np.abs(sums["weight:w"] - exact["weight:w"]).max() <= 50 * 2**-25
    for key in ("sum:s", "sum:scalar"):
        bound = 50 * 2**-51 + 50 * np.spacing(np.abs(exact[key]).max() + 1)
        assert np.abs(sums[key] - exact[key]).max() <= bound


def test_counts_beyond_float_precision_are_exact():
    sites = [{"count:n": np.array([2**55 + 1])}, {"count:n": np.array([2**55 + 2])}]
    total = sum(to_words(site, 2) for site in sites)
    assert from_words(total, {"count:n": (1,)})["count:n"][0] == 2**56 + 3


@pytest.mark.parametrize("value", [np.nan, np.inf, 2.0**38, -(2.0**40)])
def test_values_that_might_wrap_around_do_not_leave(value):
    with pytest.raises(EgressError, match="too large"):
        to_words({"weight:w": np.array([value])}, 4)


def looks_uniform(words):
    """Chi-squared over the bytes: 255 degrees of freedom, 6 standard deviations."""
    counts = np.bincount(words.view(np.uint8), minlength=256)
    expected = counts.sum() / 256
    return abs(((counts - expected) ** 2 / expected).sum() - 255) < 6 * np.sqrt(2 * 255)


def test_masks_are_uniform_and_repeatable():
    words = mask(bytes(range(32)), 20_000)
    assert looks_uniform(words)
    np.testing.assert_array_equal(words[:10], mask(bytes(range(32)), 10))
    assert not looks_uniform(np.arange(20_000, dtype=np.uint64))


def test_flowers_masks_repeat_for_other_seeds():
    """Why they are not used: 32 bytes are folded into 4, here both into the same."""
    first, second = bytes([1] * 32), bytes([2] * 32)
    left, right = (pseudo_rand_gen(seed, 2**32, [(50,)])[0] for seed in (first, second))
    np.testing.assert_array_equal(left, right)
    assert (mask(first, 50) != mask(second, 50)).all()


class Federation:
    """The two halves in one process; ``lost`` drops sites before a stage."""

    def __init__(self, num_sites, mode=None, size=40, lost=None):
        self.mode = mode or SecureAggregation(threshold=0.51)
        rng = np.random.default_rng(1)
        self.plain = {n: rng.integers(0, 100, size).astype(np.uint64) for n in range(num_sites)}
        self.lost = lost or {}
        self.masked = {}
        self.sessions = {n: SiteSession.open("sum", n) for n in self.plain}

    def alive(self, nodes, stage):
        return [n for n in nodes if n not in self.lost.get(stage, ())]

    def run(self):
        total = MaskedSum(self.mode, len(self.plain[0]))
        for node in self.alive(self.plain, Stage.KEYS):
            session = self.sessions[node]
            total.add_keys(node, session.mask_public, session.seal_public)
        total.form_groups(random.Random(0))
        nodes = self.alive(self.alive(self.plain, Stage.KEYS), Stage.SHARES)
        for node in nodes:
            total.add_shares(node, *self.sessions[node].share(*total.group(node), 3))
        total.check(nodes)
        nodes = self.alive(nodes, Stage.MASK)
        for node in nodes:
            self.masked[node] = self.sessions[node].mask(
                *total.sealed_shares_for(node), self.plain[node]
            )
            total.add_masked(node, self.masked[node])
        total.check(total.survivors)
        for node in self.alive(nodes, Stage.UNMASK):
            total.add_unmasking(node, self.sessions[node].unmask(*total.status(node)))
        return total.result(), nodes


@pytest.mark.parametrize(
    "lost",
    [
        {},
        {Stage.KEYS: [0]},
        {Stage.SHARES: [4]},
        {Stage.MASK: [2]},
        {Stage.MASK: [0, 6]},
        {Stage.UNMASK: [1, 5]},
        {Stage.KEYS: [3], Stage.MASK: [0], Stage.UNMASK: [6]},
    ],
)
def test_sum_survives_dropouts_at_every_stage(lost):
    federation = Federation(7, lost=lost)
    total, nodes = federation.run()
    np.testing.assert_array_equal(total, sum(federation.plain[n] for n in nodes))
    assert len(nodes) >= 4


@pytest.mark.parametrize("stage", [Stage.SHARES, Stage.MASK, Stage.UNMASK])
def test_sum_stays_masked_when_too_many_drop_out(stage):
    with pytest.raises((ReplyError, PolicyError)):
        Federation(7, lost={stage: [0, 1, 2, 3]}).run()


def test_sum_over_groups_of_neighbours():
    mode = SecureAggregation(num_neighbours=6, threshold=0.51)
    federation = Federation(20, mode, lost={Stage.MASK: [3, 11], Stage.UNMASK: [7]})
    total, nodes = federation.run()
    np.testing.assert_array_equal(total, sum(federation.plain[n] for n in nodes))
    assert {len(s.peers) for s in federation.sessions.values()} == {6}


def test_masked_vectors_look_uniform_alone_and_in_parts():
    federation = Federation(5, size=20_000)
    federation.run()
    for node, words in federation.masked.items():
        assert looks_uniform(words)
        assert looks_uniform(words - federation.plain[node])
        assert not looks_uniform(federation.plain[node])
    for size in (2, 3, 4):
        for nodes in itertools.combinations(federation.masked, size):
            assert looks_uniform(sum(federation.masked[n] for n in nodes))


def at_unmasking(num_sites=5):
    federation = Federation(num_sites, lost={Stage.UNMASK: list(range(num_sites))})
    with pytest.raises(ReplyError, match="stays masked"):
        federation.run()
    return federation.sessions[0]


def test_site_never_gives_both_secrets_of_another():
    with pytest.raises(PolicyError, match="unmask it"):
        at_unmasking().unmask([0, 1, 2, 3], [3])


def test_site_answers_the_unmasking_once():
    session = at_unmasking()
    session.unmask([0, 1, 2, 3, 4], [])
    with pytest.raises(PolicyError, match="stage"):
        session.unmask([0, 1, 2, 4], [3])


def test_site_gives_no_shares_below_the_threshold_or_of_strangers():
    with pytest.raises(PolicyError, match="survived"):
        at_unmasking().unmask([0, 1], [2, 3, 4])
    with pytest.raises(PolicyError, match="survived"):
        at_unmasking().unmask([1, 2, 3, 4], [])
    with pytest.raises(ReplyError):
        at_unmasking().unmask([0, 1, 2, 3, 99], [])


def test_site_masks_once_so_that_no_pad_is_used_twice():
    session = at_unmasking()
    with pytest.raises(PolicyError, match="stage"):
        session.mask([], [], np.zeros(3, np.uint64))


def keys_of(count):
    sessions = [SiteSession.open("sum", node) for node in range(count)]
    publics = ([s.mask_public for s in sessions], [s.seal_public for s in sessions])
    return sessions[0], list(range(count)), *publics


@pytest.mark.parametrize(("count", "threshold"), [(2, 2), (4, 2), (6, 3), (3, 4)])
def test_site_refuses_groups_that_do_not_hide_it(count, threshold):
    session, *group = keys_of(count)
    with pytest.raises(PolicyError, match="does not hide"):
        session.share(*group, threshold, 3)


def test_site_refuses_keys_that_are_not_what_they_seem():
    session, nodes, mask_keys, seal_keys = keys_of(4)
    with pytest.raises(ReplyError, match="other keys"):
        session.share(
            nodes, [SiteSession.open("x", 0).mask_public, *mask_keys[1:]], seal_keys, 3, 3
        )
    session, nodes, mask_keys, seal_keys = keys_of(4)
    with pytest.raises(ReplyError, match="same"):
        session.share(nodes, [*mask_keys[:3], mask_keys[2]], seal_keys, 3, 3)
    session, nodes, mask_keys, seal_keys = keys_of(4)
    with pytest.raises(ReplyError, match="cannot be used"):
        session.share(nodes, mask_keys, [*seal_keys[:3], b"no key"], 3, 3)


def test_sealed_shares_cannot_be_read_or_swapped():
    federation = Federation(4)
    total = MaskedSum(federation.mode, 3)
    for node, session in federation.sessions.items():
        total.add_keys(node, session.mask_public, session.seal_public)
    total.form_groups(random.Random(0))
    for node, session in federation.sessions.items():
        total.add_shares(node, *session.share(*total.group(node), 3))
    sources, sealed = total.sealed_shares_for(0)
    secrets = [s.seed for s in federation.sessions.values()]
    assert not any(secret in shares for secret in secrets for shares in sealed)
    with pytest.raises(ReplyError, match="sealed"):
        federation.sessions[0].mask(sources, sealed[::-1], np.zeros(3, np.uint64))


# End to end


@pytest.fixture
def federated(tmp_path):
    """Compose breast_cancer on some sites."""

    def make(*overrides, sites=5, folder="run"):
        base = ["usecase=breast_cancer", f"data.num_sites={sites}", "board.url=null", "rounds=2"]
        base += ["model.params.hidden=[8]", "train.local_epochs=1"]
        return compose_overrides([*base, *overrides], tmp_path / folder)

    return make


class Spy(InProcessGrid):
    """Keeps every reply, and loses sites at a stage."""

    def __init__(self, sites, lost=None):
        super().__init__(sites)
        self.seen = []
        self._lost = lost or {}

    def _deliver(self, message: Message) -> Message:
        asked = message.content.get(SECAGG)
        stage = asked[STAGE] if asked is not None else Stage.KEYS
        kind = message.metadata.message_type
        if kind in ("train", "evaluate", "query.secagg") and (
            message.metadata.dst_node_id in self._lost.get(stage, ())
        ):
            return Message(Error(1, "gone"), reply_to=message)
        reply = super()._deliver(message)
        if reply.has_content():
            self.seen.append((kind, stage, {k: dict(v) for k, v in reply.content.items()}))
        return reply


@pytest.mark.parametrize(
    "strategy", ["fedavg", "fedadam", "fedavgm", "scaffold", "feddyn", "fedbn", "flwr_fedavg"]
)
def test_run_equals_the_plain_one(federated, run, strategy):
    options = (f"strategy={strategy}", "train.optimizer=sgd", "model.params.layer_norm=true")
    plain, _ = run(federated(*options, folder="plain"))
    masked, result = run(federated(*options, "privacy=secagg", folder="masked"))
    for left, right in zip(plain.rounds, masked.rounds, strict=True):
        assert right.status == "ok"
        assert {s.status for s in right.sites} == {"ok"}
        assert right.card.overall.arrays == left.card.overall.arrays  # the confusion matrix
        assert right.card.overall.values == pytest.approx(left.card.overall.values, abs=1e-6)
        assert right.card.overall.absent == left.card.overall.absent
        if left.round:
            assert right.train_loss == pytest.approx(left.train_loss, abs=1e-6)
            assert all(s.loss is None for s in right.sites)
    for name, array in plain.arrays.items():
        np.testing.assert_allclose(masked.arrays[name], array, atol=2e-5)
    assert result["rounds"][1]["bytes_up"] > 0


def test_one_round_is_within_the_bound_and_metrics_are_exact(federated, run):
    plain, _ = run(federated("rounds=1", folder="plain"))
    masked, _ = run(federated("rounds=1", "privacy=secagg", folder="masked"))
    for name, array in plain.arrays.items():
        bound = 2**-25 + np.spacing(np.abs(array).max())
        assert np.abs(masked.arrays[name].astype(np.float64) - array).max() <= bound
    left, right = plain.rounds[0].card, masked.rounds[0].card
    assert left.overall.arrays == right.overall.arrays
    sums = {"brier", "log_loss"}  # of real numbers; all others come from counts
    for name in left.overall.values.keys() - sums:
        assert left.overall.values[name] == right.overall.values[name], name
    for name in sums & left.overall.values.keys():
        assert right.overall.values[name] == pytest.approx(left.overall.values[name], rel=1e-12)


def test_subgroups_and_regression_pool_as_before(federated, run):
    for usecase in ("heart_failure", "diabetes", "rare_disease"):
        try:
            options = (f"usecase={usecase}", "rounds=1")
            config = federated(*options, sites=4, folder=f"{usecase}-plain")
        except ConfigError:
            continue
        plain, _ = run(config)
        masked, _ = run(federated(*options, "privacy=secagg", sites=4, folder=f"{usecase}-masked"))
        left, right = plain.rounds[0].card, masked.rounds[0].card
        assert right.overall.values == pytest.approx(left.overall.values, rel=1e-9, abs=1e-9)
        assert right.subgroups.keys() == left.subgroups.keys()
        for name, scores in left.subgroups.items():
            assert right.subgroups[name].values == pytest.approx(scores.values, abs=1e-9)
            assert right.subgroups[name].absent == scores.absent


def test_server_never_sees_a_single_result(federated, run):
    plain_grid = Spy(federated().site_data)
    run(federated("rounds=1", folder="plain"), plain_grid)
    plain = [unpack_arrays(c[ARRAYS]) for k, _, c in plain_grid.seen if k == "train"]
    grid = Spy(federated().site_data)
    run(federated("rounds=1", "privacy=secagg", folder="masked"), grid)
    results = [(k, s, c) for k, s, c in grid.seen if k not in ("query.describe", "query.fit")]
    assert not any({ARRAYS, EXTRA, STATS, METRICS, UPDATE} & set(c) for _, _, c in results)
    vectors = [unpack_arrays(c[MASKED])[VECTOR] for _, _, c in results if MASKED in c]
    assert len(vectors) == 3 * 5  # baseline, training, evaluation
    assert all(looks_uniform(vector) for vector in vectors)
    secrets = [a.astype(np.float64).tobytes() for model in plain for a in model.values()]
    words = b"".join(vector.tobytes() for vector in vectors)
    assert not any(secret in words for secret in secrets)


@pytest.mark.parametrize("stage", [Stage.KEYS, Stage.SHARES, Stage.MASK, Stage.UNMASK])
def test_run_survives_a_dropout_between_stages(federated, run, stage):
    config = federated("privacy=secagg", "sites.rejoin_seconds=0")
    outcome, _ = run(config, Spy(config.site_data, {stage: [4]}))
    for record in outcome.rounds:
        assert record.status == "ok"
        status = {(s.site, s.phase): s.status for s in record.sites}
        expected = "ok" if stage == Stage.UNMASK else "failed"
        assert status[("site_2", "evaluate")] == expected
        assert status[("site_0", "evaluate")] == "ok"
    plain = federated("sites.rejoin_seconds=0", folder="plain")
    gone = {} if stage == Stage.UNMASK else {Stage.KEYS: [4]}
    without, _ = run(plain, Spy(plain.site_data, gone))
    for name, array in without.arrays.items():
        np.testing.assert_allclose(outcome.arrays[name], array, atol=1e-5)


def test_run_stops_with_a_reason_when_too_many_drop_out(federated, run):
    config = federated("privacy=secagg", "sites.rejoin_seconds=0")
    with pytest.raises(QuorumError, match="too many sites dropped out"):
        run(config, Spy(config.site_data, {Stage.MASK: [2, 3, 4]}))


def test_training_that_cannot_be_unmasked_keeps_the_model(federated, run):
    class Flaky(Spy):
        def _deliver(self, message):
            kind = message.metadata.message_type
            if kind == "train" and message.metadata.dst_node_id in (2, 3, 4):
                return Message(Error(1, "gone"), reply_to=message)
            return super()._deliver(message)

    config = federated("privacy=secagg", "sites.rejoin_seconds=0", "rounds=1")
    outcome, _ = run(config, Flaky(config.site_data))
    assert outcome.rounds[1].status == "failed"
    assert "2 of 3 sites" in outcome.rounds[1].reason


def test_site_can_insist_on_masks(federated, run):
    plain, masked = federated("rounds=1"), federated("rounds=1", "privacy=secagg", folder="m")
    first, *others = plain.site_data
    sites = [{**first, "policy": {"min_rows": 1, "secure_aggregation": True}}, *others]
    outcome, _ = run(masked, InProcessGrid(sites))
    assert {s.site for s in outcome.rounds[1].sites if s.status == "ok"} >= {"site_0"}
    outcome, _ = run(plain, InProcessGrid(sites))
    assert "site_0" not in {s.site for s in outcome.rounds[1].sites}


def test_site_can_insist_on_more_company(federated, run):
    config = federated("rounds=1", "privacy=secagg")
    first, *others = config.site_data
    sites = [{**first, "policy": {"min_rows": 1, "secagg_min_sites": 5}}, *others]
    outcome, _ = run(config, InProcessGrid(sites))
    trained = {s.site: s for s in outcome.rounds[1].sites if s.phase == "train"}
    assert trained["site_0"].reason == Refusal.POLICY.text
    assert trained["site_1"].status == "ok"


def test_nothing_of_a_session_is_left_at_the_site(federated, run):
    config = federated("rounds=1", "privacy=secagg")
    grid = InProcessGrid(config.site_data)
    run(config, grid)
    for context in grid._contexts.values():
        assert "secagg-summands" not in context.state
        assert not context.state.get("secagg-session")


def asked_for(stage):
    """A request of a stage; its vector has three words."""
    if stage == Stage.SHARES:
        record = SharesRequest(session="a", threshold=3).to_record()
    else:
        record = MaskRequest(session="a", num_sites=3, num_words=3).to_record()
    return Message(RecordDict({SECAGG: ConfigRecord({**record, STAGE: stage})}), 2, "query.secagg")


@pytest.fixture
def checked(tmp_path):
    """Show the guard a reply to a stage."""
    site = site_from_mapping({"name": "a", "data": {"train": "a.csv"}}, "test", tmp_path)

    def check(stage, values, vector):
        message = asked_for(stage)
        content = RecordDict({SECAGG: ConfigRecord(values)})
        if vector is not None:
            content[MASKED] = pack_arrays({VECTOR: vector})
        check_reply(message, Message(content, reply_to=message), site)

    return check


@pytest.mark.parametrize(
    ("stage", "values", "vector", "why"),
    [
        (Stage.SHARES, {"sealed-shares": [b"x" * 2000]}, None, "at most 1024 bytes"),
        (Stage.SHARES, {"rows": [b"x"]}, None, "'rows'"),
        (Stage.SHARES, {"sealed-shares": ["text"]}, None, "'sealed-shares.0'"),
        (Stage.SHARES, {}, np.zeros(3, np.uint64), "records"),
        (Stage.MASK, {}, np.zeros(4, np.uint64), "form"),
        (Stage.MASK, {}, np.zeros(3, np.float64), "form"),
        (Stage.MASK, {}, None, "form"),
        (7, {}, None, "no stage 7"),
    ],
)
def test_guard_lets_out_only_what_a_stage_needs(checked, stage, values, vector, why):
    with pytest.raises(EgressError, match=why):
        checked(stage, values, vector)


def test_guard_lets_out_what_a_stage_needs(checked):
    checked(Stage.SHARES, {"nodes": [1, 2], "sealed-shares": [b"x" * 900] * 2}, None)
    checked(Stage.MASK, {}, np.zeros(3, np.uint64))


@pytest.mark.parametrize(
    ("override", "why"),
    [
        ("strategy=fedmedian", "each site's update"),
        ("strategy=trimmed_mean", "each site's update"),
        ("strategy=krum", "each site's update"),
        ("strategy=multikrum", "each site's update"),
        ("strategy=bulyan", "each site's update"),
        ("strategy=fedbuff", "each site's update"),
        ("strategy=qfedavg", "each site's update"),
        ("strategy=fednova", "each site's update"),
        ("strategy=cyclic", "each site's update"),
        ("strategy._target_=flwr.serverapp.strategy.FedMedian", "each site's update"),
        ("sites.max_update_norm=1", "max_update_norm"),
        ("compression=int8", "compressed"),
        ("compression=top_k", "compressed"),
        ("data.num_sites=2", "min_sites"),
    ],
)
def test_refuses_what_cannot_be_masked(federated, run, override, why):
    with pytest.raises(ConfigError, match=why):
        run(federated("privacy=secagg", "train.optimizer=sgd", override))


@pytest.mark.parametrize("privacy", ["secagg", "local_dpsgd", "central_fixed"])
def test_refuses_a_choice_of_sites_by_what_is_hidden(federated, run, privacy):
    with pytest.raises(ConfigError, match="PowerOfChoice chooses sites by their exact"):
        run(federated(f"privacy={privacy}", "sampling=power_of_choice"))


@pytest.mark.parametrize(
    "override",
    ["privacy.min_sites=2", "privacy.threshold=0.5", "privacy.num_neighbours=1"],
)
def test_refuses_settings_that_do_not_hide(federated, override):
    with pytest.raises(ConfigError, match="privacy"):
        federated("privacy=secagg", override)
