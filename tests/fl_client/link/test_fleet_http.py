"""What a server's answer means: wait, join again, give up; without a server."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import httpx
import pytest
from flwr.proto.fleet_pb2 import ActivateNodeRequest, ActivateNodeResponse
from flwr.supercore.error import ApiErrorCode

from fl_client.link.fleet_http import FleetWire, RefusedError, UnknownNodeError, UnreachableError
from fl_common.errors import LinkError
from strategies.wire import fleet

OURS = {fleet.OFFER_HEADER: "1"}


@pytest.fixture
def wire():
    """A wire whose answers the test gives: ``wire(handler)``."""
    wires = []

    def make(handler):
        made = FleetWire("127.0.0.1:1", ca=None, insecure=True, private_key=None)
        made._http.close()
        made._http = httpx.Client(
            base_url="http://127.0.0.1:1", transport=httpx.MockTransport(handler)
        )
        wires.append(made)
        return made

    yield make
    for made in wires:
        made.close()


def activate(wire):
    return wire.call("activate-node", ActivateNodeRequest(), ActivateNodeResponse)


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (httpx.Response(502), UnreachableError),
        (httpx.Response(503), UnreachableError),
        (httpx.Response(504), UnreachableError),
        (httpx.Response(401), UnknownNodeError),
        (httpx.Response(409, headers=OURS), LinkError),
        (httpx.Response(409), LinkError),
        (httpx.Response(413, headers=OURS), RefusedError),
        (httpx.Response(404), LinkError),
        (httpx.Response(500, json={"detail": "x"}), RefusedError),
        (httpx.Response(500, text="<html>"), LinkError),
        (httpx.Response(200, content=b"\xff\xff"), LinkError),
    ],
)
def test_answer_says_what_to_do(wire, answer, error):
    with pytest.raises(error):
        activate(wire(lambda request: answer))


def test_second_client_with_the_same_key_is_told(wire):
    with pytest.raises(LinkError, match="another client has joined with the same key"):
        activate(wire(lambda request: httpx.Response(409, headers=OURS)))


def test_flower_s_own_refusal_has_its_code(wire):
    code = int(ApiErrorCode.FLEET_NODE_ACTIVATION_FAILED)
    answer = httpx.Response(400, json={"code": code, "detail": "no"})
    with pytest.raises(RefusedError) as refused:
        activate(wire(lambda request: answer))
    assert refused.value.code == code


@pytest.mark.parametrize(("seconds", "says"), [(-60, "ahead of"), (600, "behind")])
def test_wrong_clock_is_told(wire, seconds, says):
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=seconds), usegmt=True)
    with pytest.raises(LinkError, match=says):
        activate(wire(lambda request: httpx.Response(401, headers={"date": date})))


@pytest.mark.parametrize(("headers", "offers"), [(OURS, True), ({}, False)])
def test_server_that_knows_batches_says_so(wire, headers, offers):
    answer = ActivateNodeResponse(node_id=5).SerializeToString()
    made = wire(lambda request: httpx.Response(200, content=answer, headers=headers))
    assert activate(made).node_id == 5
    assert made.offers_batches is offers


def test_each_request_names_session_and_key(wire):
    seen = []

    def handler(request):
        seen.append(request.headers)
        return httpx.Response(200)

    made = wire(handler)
    activate(made)
    made.push_batch(3, "upload-1", [])
    assert seen[0][fleet.SESSION_HEADER] == seen[1][fleet.SESSION_HEADER]
    assert seen[1][fleet.RUN_HEADER] == "3"
    assert seen[1][fleet.UPLOAD_HEADER] == "upload-1"


def test_batches_are_asked_for_in_turn_and_may_lack_objects(wire):
    ids = [f"{number:064x}" for number in range(fleet.BATCH_OBJECTS + 2)]
    asked = []

    def handler(request):
        asked.append(list(fleet.unpack_ids(request.content)))
        frames = (fleet.frame(None if i == ids[1] else i.encode()) for i in asked[-1])
        return httpx.Response(200, content=b"".join(frames))

    got = dict(wire(handler).pull_batch(1, ids))
    assert [len(batch) for batch in asked] == [fleet.BATCH_OBJECTS, 2]
    assert got == {i: i.encode() for i in ids if i != ids[1]}


def test_batch_that_was_cut_short_is_asked_for_again(wire):
    made = wire(lambda request: httpx.Response(200, content=fleet.frame(b"abc")[:-1]))
    with pytest.raises(UnreachableError, match="cut short"):
        list(made.pull_batch(1, [f"{1:064x}"]))


def test_connection_that_fails_is_unreachable(wire):
    def handler(request):
        raise httpx.ConnectError("refused")

    with pytest.raises(UnreachableError):
        activate(wire(handler))


def test_ca_without_tls_is_refused(tmp_path):
    with pytest.raises(LinkError, match="no use with insecure"):
        FleetWire("127.0.0.1:1", ca=tmp_path / "ca.pem", insecure=True, private_key=None)
