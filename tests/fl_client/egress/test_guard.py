"""The guard: whatever a handler does, only a well-formed reply or a fixed code leaves."""

from __future__ import annotations

import json

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects

from fl_client import runner
from fl_client.app import app
from fl_common.errors import DataError, EgressError, FedleagueError, PolicyError, SchemaError
from strategies.wire.messages import (
    ARRAYS,
    DESCRIBE,
    EVALUATE,
    EXTRA,
    FIT,
    METRICS,
    SITE,
    STATS,
    TRAIN,
    request,
)
from strategies.wire.records import pack_arrays, unpack_arrays
from strategies.wire.refusal import Refusal

SECRET = "patient-4711-HIV-positive"
HANDLERS = {
    DESCRIBE: "query.describe",
    FIT: "query.fit",
    TRAIN: "train.default",
    EVALUATE: "evaluate.default",
}


def serialised(message: Message) -> bytes:
    """Everything of a message that goes over the wire."""
    parts = [o.deflate() for o in get_all_nested_objects(message).values()]
    return b"".join(parts) + repr(message).encode()


@pytest.fixture
def handler(monkeypatch):
    """Replace the handler of a message type."""

    def replace(kind, function):
        monkeypatch.setitem(app._registered_funcs, HANDLERS[kind], function)

    return replace


@pytest.fixture
def asked(site):
    """Messages that the honest handlers would answer."""
    job, arrays = site.fitted_job()
    return {
        DESCRIBE: request(job),
        FIT: request(job),
        TRAIN: site.with_weights(job, arrays),
        EVALUATE: site.with_weights(job, arrays),
    }


class Unprintable(Exception):
    def __str__(self):
        raise ValueError(SECRET)


@pytest.mark.parametrize("kind", list(HANDLERS))
@pytest.mark.parametrize(
    ("error", "refusal"),
    [
        (ValueError(SECRET), Refusal.INTERNAL),
        (KeyError(SECRET), Refusal.INTERNAL),
        (UnicodeDecodeError("utf-8", SECRET.encode(), 0, 1, SECRET), Refusal.INTERNAL),
        (MemoryError(SECRET), Refusal.INTERNAL),
        (RecursionError(SECRET), Refusal.INTERNAL),
        (FedleagueError(SECRET), Refusal.INTERNAL),
        (DataError(SECRET), Refusal.DATA),
        (SchemaError(SECRET), Refusal.SCHEMA),
        (PolicyError(SECRET), Refusal.POLICY),
        (EgressError(SECRET), Refusal.EGRESS),
        (SystemExit(SECRET), Refusal.INTERNAL),
        (Unprintable(), Refusal.INTERNAL),
    ],
)
def test_text_of_an_exception_stays_at_the_site(
    site, asked, handler, refused, kind, error, refusal
):
    def raises(message, context):
        raise error

    handler(kind, raises)
    reply = site.ask(kind, asked[kind])
    refused(reply, refusal)
    assert SECRET.encode() not in serialised(reply)
    if not isinstance(error, Unprintable | SystemExit):
        assert SECRET in site.audit[-1]["why"]  # the operator does see it


def test_a_cell_of_the_data_stays_at_the_site(site, csv_sites):
    csv_sites[0].write_text(csv_sites[0].read_text() + f"{SECRET},1.0,f,n\n")
    reply = site.fit()
    assert reply.error.code == Refusal.DATA.code
    assert SECRET.encode() not in serialised(reply)
    assert SECRET in site.audit[-1]["why"]


def _add_record(records):
    records["more"] = ArrayRecord({"x": Array(np.zeros(1))})


def _add_text(records):
    records[SITE] = ConfigRecord({"name": "clinic", "note": SECRET})


def _other_name(records):
    records[SITE] = ConfigRecord({"name": SECRET})


def _bytes_as_name(records):
    records[SITE] = ConfigRecord({"name": SECRET.encode()})


def _add_number(records):
    records[METRICS] = MetricRecord({**records.metric_records[METRICS], "age": 41})


def _column_as_number(records):
    name = next(iter(records.metric_records[METRICS]))
    records[METRICS] = MetricRecord({name: [41.0, 37.0, 52.0]})


def _nan_number(records):
    name = next(iter(records.metric_records[METRICS]))
    records[METRICS] = MetricRecord({name: float("nan")})


def _text_in_place_of(record):
    def change(records):
        records[record] = ConfigRecord({"x": SECRET})

    change.__name__ = f"_text_in_place_of_{record}"
    return change


def _on(record, change):
    """Change the arrays of a record."""

    def tamper(records):
        records[record] = pack_arrays(change(unpack_arrays(records.array_records[record])))

    return tamper


def _first(change):
    def on_first(arrays):
        name = next(iter(arrays))
        return {**arrays, name: change(arrays[name])}

    return on_first


def _nan_somewhere(arrays):
    name = next(n for n, a in arrays.items() if a.dtype.kind == "f" and a.size)
    value = np.array(arrays[name], copy=True)
    value.reshape(-1)[0] = np.nan
    return {**arrays, name: value}


def _lie(record, **declared):
    """Declare a form that the bytes do not have."""

    def tamper(records):
        name, array = next(iter(records.array_records[record].items()))
        form = {
            "dtype": array.dtype,
            "shape": tuple(array.shape),
            "stype": array.stype,
            "data": array.data,
        }
        records.array_records[record][name] = Array(**{**form, **declared})

    return tamper


def _stowaway(record):
    def tamper(records):
        name, array = next(iter(records.array_records[record].items()))
        records.array_records[record][name] = Array(
            dtype=array.dtype,
            shape=tuple(array.shape),
            stype=array.stype,
            data=array.data + SECRET.encode(),
        )

    return tamper


ANY_KIND = [_add_record, _add_number, _column_as_number, _nan_number, _text_in_place_of(METRICS)]
BAD_REPLIES = [
    *((kind, change) for kind in HANDLERS for change in ANY_KIND),
    (DESCRIBE, _add_text),
    (FIT, _other_name),
    (FIT, _bytes_as_name),
    (EVALUATE, _other_name),
    (TRAIN, _text_in_place_of(EXTRA)),
    (TRAIN, _text_in_place_of(ARRAYS)),
    (EVALUATE, _text_in_place_of(STATS)),
    (DESCRIBE, lambda r: r.__setitem__(STATS, pack_arrays({"x": np.zeros(3)}))),
    (FIT, lambda r: r.__setitem__(ARRAYS, pack_arrays({"x": np.zeros(3)}))),
    (EVALUATE, lambda r: r.__setitem__(ARRAYS, pack_arrays({"x": np.zeros(3)}))),
    # weights
    (TRAIN, _on(ARRAYS, lambda a: {**a, "rows": np.zeros((48, 3), np.float32)})),
    (TRAIN, _on(ARRAYS, lambda a: dict(list(a.items())[:1]))),
    (TRAIN, _on(ARRAYS, _first(lambda a: a.astype(np.float64)))),
    (TRAIN, _on(ARRAYS, _first(lambda a: np.concatenate([a, a])))),
    (TRAIN, _on(ARRAYS, _nan_somewhere)),
    (TRAIN, lambda r: r.__setitem__(EXTRA, pack_arrays({"rows": np.zeros((48, 3), np.float32)}))),
    (TRAIN, lambda r: r.__setitem__(EXTRA, pack_arrays({"c": np.zeros(2, np.int64)}))),
    (TRAIN, _lie(ARRAYS, data=b"\x93NUMPY rubbish")),
    (TRAIN, _stowaway(ARRAYS)),
    # summands
    (FIT, _on(STATS, lambda a: {k: v.astype(np.float32) for k, v in a.items()})),
    (EVALUATE, _on(STATS, lambda a: {k: v.astype(np.float32) for k, v in a.items()})),
    (EVALUATE, _on(STATS, lambda a: {**a, "overall/x": np.zeros(2, np.complex128)})),
    (EVALUATE, _on(STATS, lambda a: {**a, "overall/x": np.array(["a", SECRET])})),
    (EVALUATE, _on(STATS, lambda a: {**a, "rows": np.zeros((12, 3))})),
    (EVALUATE, _on(STATS, _nan_somewhere)),
    (FIT, _on(STATS, _nan_somewhere)),
    (EVALUATE, _lie(STATS, shape=(1,))),
    (EVALUATE, _lie(STATS, dtype="int64", data=Array(np.zeros(9)).data)),
    (FIT, _stowaway(STATS)),
]


@pytest.mark.parametrize(("kind", "change"), BAD_REPLIES)
def test_reply_that_holds_anything_else_is_held_back(site, asked, handler, refused, kind, change):
    honest = app._registered_funcs[HANDLERS[kind]]

    def dishonest(message, context):
        reply = honest(message, context)
        change(reply.content)
        return reply

    handler(kind, dishonest)
    reply = site.ask(kind, asked[kind])
    refused(reply, Refusal.EGRESS)
    assert SECRET.encode() not in serialised(reply)
    assert site.audit[-1]["decision"] == "refused"
    assert site.audit[-1]["code"] == Refusal.EGRESS.code


@pytest.mark.parametrize("kind", list(HANDLERS))
def test_error_reply_with_a_text_of_its_own_is_held_back(site, asked, handler, refused, kind):
    for error in (Error(1002, SECRET), Error(17, "the site's policy refuses this request")):
        handler(kind, lambda message, _, error=error: Message(error, reply_to=message))
        reply = site.ask(kind, asked[kind])
        refused(reply, Refusal.EGRESS)
        assert SECRET.encode() not in serialised(reply)


@pytest.mark.parametrize("answer", [None, "text", 5, RecordDict()])
def test_handler_that_returns_no_message_gets_a_fixed_code(site, asked, handler, refused, answer):
    handler(TRAIN, lambda message, context: answer)
    refused(site.ask(TRAIN, asked[TRAIN]), Refusal.INTERNAL)


def test_weights_do_not_leave_in_an_exchange_that_sent_none(site, refused, monkeypatch, handler):
    def leaks(message, context):
        content = RecordDict({ARRAYS: pack_arrays({"w": np.zeros(3, np.float32)})})
        return Message(content, reply_to=message)

    handler(TRAIN, leaks)
    refused(site.ask(TRAIN, request(site.job_text())), Refusal.EGRESS)


def test_custom_half_cannot_smuggle_rows_as_extra(make_site, refused, monkeypatch):
    from strategies.local import LocalResult

    def half(local):
        return LocalResult(local.train(), {"rows": local.data.train.numeric.astype(np.float32)})

    monkeypatch.setattr(runner, "client_update", lambda *_: half)
    site = make_site(custom_code=True)
    job, arrays = site.fitted_job()
    refused(site.ask(TRAIN, site.with_weights(job, arrays)), Refusal.EGRESS)


def test_nothing_of_the_rows_is_in_an_honest_reply(site, asked, csv_sites):
    """No cell of the file can be found in what leaves, as text or as float64 or float32."""
    cells = [line.split(",") for line in csv_sites[0].read_text().splitlines()[1:]]
    numbers = [float(cell) for row in cells for cell in row[:2]]
    for kind in HANDLERS:
        sent = serialised(site.ask(kind, asked[kind]))
        for number in numbers:
            for form in (np.float64(number).tobytes(), np.float32(number).tobytes()):
                assert form not in sent
            assert str(number).encode() not in sent


def test_reply_names_no_path_of_the_site(site, asked):
    for kind in HANDLERS:
        sent = serialised(site.ask(kind, asked[kind]))
        assert str(site.path.parent).encode() not in sent
    json.dumps(site.audit)
