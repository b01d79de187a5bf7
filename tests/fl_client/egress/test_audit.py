"""The audit log: what the data protection officer can read, and what happens without it."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat

import pytest
from flwr.app import ConfigRecord, RecordDict

from fl_client.egress import audit
from strategies.wire.messages import CONFIG, DESCRIBE, EVALUATE, FIT, JOB, TRAIN, request
from strategies.wire.refusal import Refusal


def test_every_message_is_one_line_in_and_one_line_out(site):
    job, arrays = site.fitted_job()  # a fit exchange
    site.ask(DESCRIBE, request(job))
    site.ask(TRAIN, site.with_weights(job, arrays))
    site.ask(EVALUATE, site.with_weights(job, arrays))
    lines = site.audit
    assert [(line["direction"], line["asked"]) for line in lines] == [
        (direction, kind)
        for kind in (FIT, DESCRIBE, TRAIN, EVALUATE)
        for direction in ("in", "out")
    ]
    assert {line["run"] for line in lines} == {7}
    assert [line["round"] for line in lines] == [0, 0, 0, 0, 1, 1, 1, 1]
    assert [line["time"] for line in lines] == sorted(line["time"] for line in lines)
    incoming = lines[4]
    assert incoming["job"] == {
        "task": "tabular_classification",
        "model": "linear",
        "strategy": "fedavg",
        "sha256": hashlib.sha256(job.encode()).hexdigest(),
    }
    assert [a["name"] for a in incoming["received"]] == [f"arrays/{name}" for name in arrays]


@pytest.mark.parametrize("kind", [FIT, TRAIN, EVALUATE])
def test_line_says_exactly_what_left(site, kind):
    job, arrays = site.fitted_job()
    content = request(job) if kind == FIT else site.with_weights(job, arrays)
    reply = site.ask(kind, content)
    line = site.audit[-1]
    assert line["decision"] == "allowed"
    left = {entry["name"]: entry for entry in line["left"]}
    sent = {
        f"{record}/{name}": array
        for record, named in reply.content.array_records.items()
        for name, array in named.items()
    }
    assert left.keys() == sent.keys()
    for name, array in sent.items():
        assert left[name] == {
            "name": name,
            "shape": list(array.numpy().shape),
            "dtype": str(array.numpy().dtype),
            "bytes": len(array.data),
            "sha256": hashlib.sha256(array.data).hexdigest(),
        }
    assert line["values"] == {
        **reply.content.metric_records["metrics"],
        **reply.content.config_records.get("site", {}),
    }


def test_refusal_is_logged_with_its_reason_and_code(make_site):
    site = make_site(min_rows=1000)
    site.fit()
    line = site.audit[-1]
    assert (line["decision"], line["code"]) == ("refused", Refusal.POLICY.code)
    assert line["why"] == "policy.min_rows is 1000, the training split has 48 rows"
    assert "left" not in line


def test_log_is_private_and_only_ever_appended(site):
    site.fit()
    path = site.path.parent / "a.jsonl"
    first = path.read_bytes()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    site.fit()
    assert path.read_bytes().startswith(first)
    assert path.read_bytes().count(b"\n") == 4


def test_odd_values_in_a_message_do_not_break_the_log(site, refused):
    content = RecordDict({CONFIG: ConfigRecord({JOB: b"\xff", "server-round": [1.5, 2.5]})})
    refused(site.ask(FIT, content), Refusal.PROTOCOL)
    content = RecordDict({CONFIG: ConfigRecord({JOB: "{}", "server-round": b"\xff\n"})})
    refused(site.ask(FIT, content), Refusal.PROTOCOL)
    assert [line["round"] for line in site.audit] == [[1.5, 2.5]] * 2 + ["b'\\xff\\n'"] * 2


@pytest.mark.parametrize("fails_at", [1, 2])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES, errno.EROFS])
def test_nothing_leaves_that_cannot_be_logged(site, refused, monkeypatch, fails_at, code):
    """The disk fills up before the question (1) or before the answer (2) is written."""
    calls = []
    write = os.write

    def full(descriptor, data):
        calls.append(data)
        if len(calls) >= fails_at:
            raise OSError(code, os.strerror(code))
        return write(descriptor, data)

    monkeypatch.setattr(audit.os, "write", full)
    refused(site.fit(), Refusal.INTERNAL)


def test_half_a_line_is_not_taken_for_a_line(site, refused, monkeypatch):
    """A disk that fills up within a line; the next line starts on its own."""
    write = os.write
    with monkeypatch.context() as patch:
        patch.setattr(audit.os, "write", lambda d, data: write(d, data[: len(data) // 2]))
        refused(site.fit(), Refusal.INTERNAL)
    assert not site.fit().has_error()
    lines = (site.path.parent / "a.jsonl").read_text().splitlines()
    whole = [json.loads(line) for line in lines if line.endswith("}")]
    assert [line["direction"] for line in whole[-2:]] == ["in", "out"]


def test_log_that_cannot_be_opened_closes_the_site(site, refused):
    (site.path.parent / "a.jsonl").mkdir()
    refused(site.fit(), Refusal.INTERNAL)


def test_full_disk_closes_the_site(make_site, refused):
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full here")
    site = make_site()
    (site.path.parent / "a.jsonl").symlink_to("/dev/full")
    refused(site.fit(), Refusal.INTERNAL)


def test_site_without_a_log_still_answers(make_site):
    site = make_site()
    text = site.path.read_text().replace("audit: a.jsonl", "audit: null")
    site.path.write_text(text)
    assert not site.fit().has_error()
    assert not (site.path.parent / "a.jsonl").exists()
