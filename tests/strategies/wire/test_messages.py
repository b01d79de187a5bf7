"""Replies: what one side encodes the other decodes, and nothing else."""

import numpy as np
import pytest
from flwr.app import ConfigRecord, MetricRecord, RecordDict

from fl_common.errors import (
    ReplyError,
)
from strategies.wire.messages import (
    METRICS,
    STATS,
    EvaluateReply,
    SiteReply,
    TrainReply,
)
from strategies.wire.records import (
    pack_arrays,
)
from tasks.stats import Stats


def test_replies_survive_the_wire():
    site = SiteReply("a", 3, 2, Stats({"n": np.array(3)}))
    back = SiteReply.from_records(site.to_records())
    assert (back.name, back.num_train, back.num_holdout, int(back.stats["n"])) == ("a", 3, 2, 3)
    assert len(SiteReply.from_records(SiteReply("a", 3, 2).to_records()).stats) == 0
    evaluated = EvaluateReply.from_records(
        EvaluateReply(Stats({"x": np.array(0.5)}), 7).to_records()
    )
    assert (float(evaluated.stats["x"]), evaluated.num_examples) == (0.5, 7)
    trained = TrainReply({"w": np.ones(2)}, 5, 3, 0.25).to_records()
    assert dict(trained[METRICS]) == {"num-examples": 5, "num-steps": 3, "train-loss": 0.25}
    assert len(trained.array_records) == len(trained.metric_records) == 1  # as Flower expects


@pytest.mark.parametrize(
    "records",
    [
        RecordDict(),
        RecordDict({METRICS: MetricRecord({"num-examples": -1}), STATS: pack_arrays({})}),
        RecordDict({METRICS: MetricRecord({"num-examples": 1.5}), STATS: pack_arrays({})}),
        RecordDict({METRICS: MetricRecord({"num-examples": 1})}),
        RecordDict({METRICS: ConfigRecord({"num-examples": 1}), STATS: pack_arrays({})}),
    ],
)
def test_incomplete_replies_are_refused(records):
    with pytest.raises(ReplyError):
        EvaluateReply.from_records(records)
    with pytest.raises(ReplyError):
        SiteReply.from_records(records)
