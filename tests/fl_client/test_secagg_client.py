"""A site's part in a masked sum: what it keeps between stages, and what it never says twice."""

from __future__ import annotations

import random

import numpy as np
import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.common.serde import context_from_proto, context_to_proto

from fl_client.policy.policy import Policy
from fl_client.secagg_client import KEPT_SESSION, KEPT_SUMMANDS, start, step
from fl_common.errors import EgressError, PolicyError, ReplyError
from strategies.privacy.fixed_point import from_words, layout_of, num_words
from strategies.privacy.modes import SecureAggregation
from strategies.privacy.secagg_server import MaskedSum
from strategies.wire.messages import CONFIG, JOB, TRAIN
from strategies.wire.records import unpack_arrays
from strategies.wire.secagg import (
    MASKED,
    MASKED_SUM,
    SECAGG,
    SESSION,
    VECTOR,
    KeysReply,
    MaskRequest,
    SharesReply,
    SharesRequest,
    UnmaskReply,
    UnmaskRequest,
)

NODES = [11, 12, 13]


def summands(node):
    rng = np.random.default_rng(node)
    return {
        "count:num-examples": np.array(node),
        "weight:arrays/w": rng.normal(size=(2, 3)),
        "sum:train-loss": np.array(rng.random()),
    }


LAYOUT = layout_of(summands(0))


def opening(node, **config):
    content = RecordDict({CONFIG: ConfigRecord({JOB: "{}", SESSION: "first", **config})})
    return Message(content, node, TRAIN)


class Site:
    """One site, whose every message meets a new process, as under a stock SuperNode."""

    def __init__(self, node, policy=None):
        self.node, self.policy = node, policy or Policy()
        self.context = Context(
            run_id=7, node_id=node, node_config={}, state=RecordDict(), run_config={}
        )

    def restart(self):
        self.context = context_from_proto(context_to_proto(self.context))

    def start(self, values=None, **config):
        self.restart()
        made = summands(self.node) if values is None else values
        return start(opening(self.node, **config), self.context, made)

    def step(self, asked, to=None):
        self.restart()
        content = RecordDict({SECAGG: asked.to_record()})
        message = Message(content, to or self.node, MASKED_SUM)
        return step(message, self.context, self.policy)


def said(reply, kind):
    return kind.from_record(reply.content[SECAGG])


class Federation:
    """Three sites, and the server's own half of the protocol."""

    def __init__(self, policy=None):
        self.sites = {node: Site(node, policy) for node in NODES}
        self.total = MaskedSum(SecureAggregation(), num_words(LAYOUT))

    def keys(self):
        for node, site in self.sites.items():
            keys = said(site.start(), KeysReply)
            self.total.add_keys(node, keys.mask_key, keys.seal_key)
        self.total.form_groups(random.Random(0))
        return self

    def shares_request(self, node, **changes):
        nodes, mask_keys, seal_keys, threshold = self.total.group(node)
        values = {"mask_keys": mask_keys, "seal_keys": seal_keys, "threshold": threshold}
        return SharesRequest(**{"session": "first", "nodes": nodes, **values, **changes})

    def shares(self):
        for node, site in self.keys().sites.items():
            reply = said(site.step(self.shares_request(node)), SharesReply)
            self.total.add_shares(node, reply.nodes, reply.sealed_shares)
        return self

    def mask_request(self, node, **changes):
        nodes, sealed = self.total.sealed_shares_for(node)
        values = {"nodes": nodes, "sealed_shares": sealed, "num_sites": 3}
        return MaskRequest(
            **{"session": "first", **values, "num_words": num_words(LAYOUT), **changes}
        )

    def masks(self):
        self.vectors = {}
        for node, site in self.shares().sites.items():
            reply = site.step(self.mask_request(node))
            self.vectors[node] = unpack_arrays(reply.content[MASKED])[VECTOR]
            self.total.add_masked(node, self.vectors[node])
        return self

    def unmask_request(self, node, **changes):
        survivors, dropped = self.total.status(node)
        values = {"session": "first", "survivors": survivors, "dropped": dropped}
        return UnmaskRequest(**{**values, **changes})


def test_sum_of_all_stages_equals_numpys():
    federation = Federation().masks()
    for node, site in federation.sites.items():
        shares = said(site.step(federation.unmask_request(node)), UnmaskReply).shares
        federation.total.add_unmasking(node, shares)

    sums = from_words(federation.total.result(), LAYOUT)

    for key, value in sums.items():
        expected = np.sum([summands(node)[key] for node in NODES], axis=0)
        np.testing.assert_allclose(value, expected, rtol=0, atol=3 * 2.0**-25)
    assert sums["count:num-examples"] == 36


def test_start_answers_with_public_keys_alone_and_keeps_the_result():
    site = Site(11)
    reply = site.start()
    keys = said(reply, KeysReply)
    assert set(reply.content) == {SECAGG}
    for key in (keys.mask_key, keys.seal_key):
        assert key.startswith(b"-----BEGIN PUBLIC KEY-----")
    assert keys.mask_key != keys.seal_key
    kept = unpack_arrays(site.context.state[KEPT_SUMMANDS])
    np.testing.assert_array_equal(kept["weight:arrays/w"], summands(11)["weight:arrays/w"])
    assert site.context.state[KEPT_SESSION]["name"] == "first"


@pytest.mark.parametrize("name", ["", 5, b"first"])
def test_start_without_a_name_is_refused_and_keeps_nothing(name):
    site = Site(11)
    with pytest.raises(ReplyError, match="without naming it"):
        site.start(**{SESSION: name})
    assert not dict(site.context.state)


def test_second_start_has_fresh_keys_and_drops_the_first():
    site = Site(11)
    first, second = said(site.start(), KeysReply), said(site.start(), KeysReply)
    assert not {first.mask_key, first.seal_key} & {second.mask_key, second.seal_key}
    with_second = site.context.state[KEPT_SESSION]
    assert with_second["mask_public"] == second.mask_key


def test_step_without_a_start_is_refused():
    with pytest.raises(PolicyError, match="no masked sum is open"):
        Site(11).step(SharesRequest(session="first", threshold=3))


def test_step_of_another_sum_or_another_node_is_refused_and_changes_nothing():
    federation = Federation().keys()
    site = federation.sites[11]
    with pytest.raises(PolicyError, match="another masked sum"):
        site.step(federation.shares_request(11, session="second"))
    with pytest.raises(PolicyError, match="another masked sum"):
        site.step(federation.shares_request(11), to=12)
    assert set(said(site.step(federation.shares_request(11)), SharesReply).nodes) == {12, 13}


def test_unknown_stage_is_refused():
    site = Site(11)
    site.start()
    content = RecordDict({SECAGG: ConfigRecord({"session": "first", "stage": 0})})
    with pytest.raises(ReplyError, match="no further stage 0"):
        step(Message(content, 11, MASKED_SUM), site.context, Policy())


def test_replayed_stage_is_refused():
    federation = Federation().keys()
    site = federation.sites[11]
    request = federation.shares_request(11)
    site.step(request)
    with pytest.raises(PolicyError, match="stage 1 of a masked sum, asked for at stage 2"):
        site.step(request)


def test_replayed_mask_is_refused_and_the_result_is_gone():
    federation = Federation().masks()
    site = federation.sites[11]
    assert KEPT_SUMMANDS not in site.context.state
    with pytest.raises(PolicyError, match="no result to mask"):
        site.step(federation.mask_request(11))
    site.context.state[KEPT_SUMMANDS] = _kept_by(99)
    with pytest.raises(PolicyError, match="stage 2 of a masked sum, asked for at stage 3"):
        site.step(federation.mask_request(11))


def _kept_by(node):
    site = Site(node)
    site.start()
    return site.context.state[KEPT_SUMMANDS]


def test_skipped_stage_is_refused():
    federation = Federation().keys()
    with pytest.raises(PolicyError, match="stage 2 of a masked sum, asked for at stage 1"):
        federation.sites[11].step(MaskRequest(session="first", num_sites=3, num_words=10))
    with pytest.raises(PolicyError, match="stage 3 of a masked sum, asked for at stage 1"):
        federation.sites[12].step(UnmaskRequest(session="first", survivors=NODES))


def test_replayed_unmasking_finds_no_sum_open():
    federation = Federation().masks()
    site = federation.sites[11]
    assert len(said(site.step(federation.unmask_request(11)), UnmaskReply).shares) == 3
    assert not site.context.state[KEPT_SESSION]
    with pytest.raises(PolicyError, match="no masked sum is open"):
        site.step(federation.unmask_request(11, survivors=[11, 12], dropped=[13]))


def test_masked_vector_is_of_the_asked_form_and_hides_the_result():
    federation = Federation().masks()
    vectors = federation.vectors
    assert {v.shape for v in vectors.values()} == {(num_words(LAYOUT),)}
    assert {v.dtype for v in vectors.values()} == {np.dtype(np.uint64)}
    decoded = from_words(vectors[11], LAYOUT)
    assert decoded["count:num-examples"] != summands(11)["count:num-examples"]
    assert (decoded["weight:arrays/w"] != summands(11)["weight:arrays/w"]).all()


def test_result_too_large_for_the_sum_does_not_leave():
    federation = Federation().shares()
    with pytest.raises(EgressError, match="masked sum takes 1 to"):
        federation.sites[11].step(federation.mask_request(11, num_sites=2**14))


def test_sites_own_policy_bounds_the_group():
    federation = Federation(Policy(secagg_min_sites=4)).keys()
    with pytest.raises(PolicyError, match=r"policy\.secagg_min_sites is 4"):
        federation.sites[11].step(federation.shares_request(11))
