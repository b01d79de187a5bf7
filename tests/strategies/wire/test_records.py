"""Arrays in and out of a message, and how a record is found."""

import numpy as np
import pytest
from flwr.app import ConfigRecord, MetricRecord

from fl_common.errors import (
    ReplyError,
)
from strategies.wire.messages import (
    ARRAYS,
    CONFIG,
    JOB,
    METRICS,
    ROUND,
    request,
)
from strategies.wire.records import (
    find_record,
    pack_arrays,
    payload_bytes,
    record_of,
    unpack_arrays,
)

ARRAYS_OF = {
    "w": np.arange(6, dtype=np.float32).reshape(2, 3).T,  # not contiguous
    "scalar": np.array(1.5),
    "n": np.array([1, 2], dtype=np.int64),
    "empty": np.zeros((0, 3)),
}


def test_arrays_survive_the_wire():
    back = unpack_arrays(pack_arrays(ARRAYS_OF))
    assert back.keys() == ARRAYS_OF.keys()
    for name, array in ARRAYS_OF.items():
        assert back[name].dtype == array.dtype
        np.testing.assert_array_equal(back[name], array)
        assert back[name].flags.writeable


def test_array_that_holds_something_else_than_declared_is_refused():
    record = pack_arrays({"w": np.zeros(3)})
    record["w"].shape = (4,)
    with pytest.raises(ReplyError, match="'w'"):
        unpack_arrays(record)
    record = pack_arrays({"w": np.zeros(3)})
    record["w"].data = b"rubbish"
    with pytest.raises(ReplyError, match="'w'"):
        unpack_arrays(record)


def test_records_are_found_by_name_and_kind():
    records = request("job", 3, pack_arrays({"w": np.zeros(1)}))
    assert dict(records[CONFIG]) == {JOB: "job", ROUND: 3}
    assert find_record(records, ARRAYS, MetricRecord) is None
    assert record_of(records, CONFIG, ConfigRecord)[ROUND] == 3
    with pytest.raises(ReplyError, match="lacks 'metrics'"):
        record_of(records, METRICS, MetricRecord)


def test_payload_counts_arrays_and_text():
    record = pack_arrays({"w": np.zeros(4)})
    assert payload_bytes(request("12345", 1, record)) == len(record["w"].data) + 5
