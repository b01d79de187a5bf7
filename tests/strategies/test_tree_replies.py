"""Replies that grow: size before content, and which strategies and options go with trees."""

import numpy as np
import pytest
from flwr.serverapp import strategy as flower

from fl_common.errors import ConfigError, ReplyError
from strategies.fedavg import FedAvg
from strategies.tree_replies import (
    HEADER_BYTES,
    check_tree_reply,
    check_variable_size,
    replies_whole,
)
from strategies.wire.records import pack_arrays
from strategies.xgb_bagging import XgbBagging
from strategies.xgb_cyclic import XgbCyclic

SENT = {"0": np.zeros(4, np.uint8)}
MOST = 3000


class Growing:
    """Grows to at most 3,000 bytes; remembers what it is asked to judge."""

    def __init__(self):
        self.judged = []

    def most_bytes(self, sent):
        assert sent is SENT
        return MOST

    def check_reply(self, reply, sent, *, whole=None):
        self.judged.append((reply["0"].tobytes(), sent, whole))
        if reply["0"][0] == 255:
            raise ReplyError("the reply holds no tree")


@pytest.fixture
def model():
    return Growing()


def record(array, name="0"):
    return pack_arrays({name: array})


@pytest.mark.parametrize("whole", [True, False, None])
@pytest.mark.parametrize("size", [1, 9, MOST])
def test_reply_of_another_length_is_judged_by_the_model(model, size, whole):
    reply = np.arange(size).astype(np.uint8)
    check_tree_reply(record(reply), SENT, model, whole=whole)
    assert model.judged == [(reply.tobytes(), SENT, whole)]


def test_what_the_model_says_is_wrong_is_raised(model):
    with pytest.raises(ReplyError, match="holds no tree"):
        check_tree_reply(record(np.full(3, 255, np.uint8)), SENT, model)


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        (record(np.zeros(3, np.float32)), r"weight '0' is float32\[3\], no bytes"),
        (record(np.zeros(3, np.int8)), r"weight '0' is int8\[3\], no bytes"),
        (record(np.zeros((3, 1), np.uint8)), r"weight '0' is uint8\[3, 1\], no bytes"),
        (record(np.zeros((), np.uint8)), r"weight '0' is uint8\[\], no bytes"),
        (record(np.zeros(3, np.uint8), "1"), r"weights \['0', '1'\] are missing"),
        (pack_arrays({}), r"weights \['0'\] are missing"),
        (record(np.zeros(MOST + HEADER_BYTES, np.uint8)), r"oversized: 4,\d+ bytes, at most 3,000"),
    ],
)
def test_wrong_form_is_refused_before_the_content_is_read(model, reply, why):
    with pytest.raises(ReplyError, match=why):
        check_tree_reply(reply, SENT, model)
    assert model.judged == []


def test_array_that_lies_about_its_length_is_refused(model):
    reply = record(np.zeros(3, np.uint8))
    reply["0"].__dict__["shape"] = (4,)
    with pytest.raises(ReplyError, match="does not hold what it declares"):
        check_tree_reply(reply, SENT, model)
    assert model.judged == []


def test_cyclic_replies_continue_the_booster_and_bagging_replies_do_not():
    assert replies_whole(XgbCyclic())
    assert replies_whole(flower.FedXgbCyclic())
    assert not replies_whole(XgbBagging())
    assert not replies_whole(FedAvg())


@pytest.mark.parametrize(
    ("strategy", "options", "why", "cure"),
    [
        (XgbBagging, {"num_trees": 0}, "XgbBagging joins trees", "set model=xgboost, or"),
        (XgbCyclic, {"num_trees": 0}, "model=m has weights", "strategy=fedavg"),
        (FedAvg, {"num_trees": 2}, "weights of one shape", "set strategy=xgb_bagging or xgb_cyc"),
        (flower.FedXgbBagging, {"num_trees": 2}, "one of the 2 new", "set strategy=xgb_bagging"),
        (XgbBagging, {"num_trees": 2, "hidden": True}, "neither masked", "set privacy=none"),
        (XgbBagging, {"num_trees": 2, "compresses": True}, "no bit may", "set compression=fp32"),
        (
            XgbCyclic,
            {"num_trees": 2, "max_update_norm": 1.0},
            "no l2 norm",
            "set sites.max_update_norm=null",
        ),
    ],
)
def test_refused_combination_says_why_and_names_its_cure(strategy, options, why, cure):
    with pytest.raises(ConfigError) as caught:
        check_variable_size(strategy(), model="m", **options)
    assert why in str(caught.value)
    assert cure in str(caught.value)


@pytest.mark.parametrize(
    ("strategy", "options"),
    [
        (XgbBagging, {"num_trees": 5}),
        (XgbCyclic, {"num_trees": 1}),
        (flower.FedXgbBagging, {"num_trees": 1}),
        (FedAvg, {"num_trees": 0, "hidden": True, "compresses": True, "max_update_norm": 1.0}),
    ],
)
def test_combination_that_works_passes(strategy, options):
    assert check_variable_size(strategy(), model="m", **options) is None
