"""What a resident client says about trouble, and how it gets along with a stock server."""

import datetime
import http.server
import os
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.clientapp import ClientApp

from fl_client.link import fleet_http as link
from fl_client.link.node import NodeConfig, run_node
from fl_common.errors import LinkError
from fl_server.superlink.keys import new_certificates, new_node_key
from fl_server.superlink.serve import LinkConfig, superlink
from strategies.wire import fleet

ROOT = Path(__file__).parents[3]


def _app(work=lambda message: None) -> ClientApp:
    app = ClientApp()

    @app.evaluate()
    def evaluate(message, context):
        work(message)
        return Message(RecordDict({"config": ConfigRecord({"ok": True})}), reply_to=message)

    return app


def _trouble(**options) -> str:
    """Run a client until it gives up; return its one line."""
    said = []
    with pytest.raises(LinkError) as caught:
        run_node(NodeConfig(**options), _app(), stop=threading.Event(), say=said.append)
    assert "\n" not in str(caught.value)
    assert not [line for line in said if "joined" in line]
    return str(caught.value)


@contextmanager
def _running(config: NodeConfig, app: ClientApp):
    stop, said, errors = threading.Event(), [], []

    def run():
        try:
            run_node(config, app, stop=stop, say=said.append)
        except LinkError as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield said, stop
    finally:
        stop.set()
        thread.join(30)
    assert not thread.is_alive()
    assert not errors


@contextmanager
def _answering(status: int, headers: dict[str, str], body: bytes = b""):
    """Serve one fixed answer over HTTP."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers.get("content-length", 0)))
            self.send_response_only(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever).start()
        try:
            yield f"127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


def _ask(grid, timeout=20.0):
    nodes = grid.wait_for_nodes(1, timeout=20)
    messages = [Message(RecordDict(), node, "evaluate") for node in nodes]
    return list(grid.send_and_receive(messages, timeout=timeout))


@pytest.fixture
def certificates(tmp_path):
    return new_certificates(tmp_path / "certificates", ["127.0.0.1"])


@pytest.fixture
def secure_server(certificates):
    config = LinkConfig(
        host="127.0.0.1",
        port=0,
        certificate=certificates.certificate,
        private_key=certificates.private_key,
        open_enrolment=True,
    )
    with superlink(config) as grid:
        yield grid


@pytest.mark.parametrize("server", ["", "host", "host:", ":1", "host:port", "http://host:1", "a:0"])
def test_malformed_address_is_named(server):
    assert "expected HOST:PORT" in _trouble(server=server, insecure=True)


def test_missing_and_garbled_files_are_named(tmp_path):
    garbled = tmp_path / "garbled"
    garbled.write_text("nothing of use")
    missing = tmp_path / "missing"
    _private, public = new_node_key(tmp_path, "a")
    for options, reason in [
        ({"ca": missing}, f"{missing}: no such CA file"),
        ({"ca": garbled}, f"{garbled}: not a CA certificate"),
        ({"insecure": True, "ca": garbled}, "drop one of the two"),
        ({"insecure": True, "private_key": missing}, f"{missing}: cannot read"),
        ({"insecure": True, "private_key": garbled}, f"{garbled}: not an unencrypted private key"),
        ({"insecure": True, "private_key": public}, f"{public}: not an unencrypted private key"),
    ]:
        assert reason in _trouble(server="127.0.0.1:1", **options)


def test_pem_key_is_accepted(tmp_path):
    from cryptography.hazmat.primitives.asymmetric import ec
    from flwr.supercore.primitives.asymmetric import private_key_to_bytes

    path = tmp_path / "key.pem"
    path.write_bytes(private_key_to_bytes(ec.generate_private_key(ec.SECP256R1())))
    assert "no answer" in _trouble(
        server="127.0.0.1:1", insecure=True, private_key=path, max_wait_seconds=0.0
    )


def test_unanswered_address_is_given_up(tmp_path):
    for server in ("127.0.0.1:1", "no-such-host.invalid:9092"):
        start = time.monotonic()
        text = _trouble(server=server, insecure=True, max_wait_seconds=0.3)
        assert text.startswith(f"{server}: no answer within 0.3 s")
        assert time.monotonic() - start < 8.0


def test_waiting_is_said_once_and_can_be_stopped():
    with _running(NodeConfig("127.0.0.1:1", insecure=True), _app()) as (said, _stop):
        time.sleep(0.5)
    assert said == ["waiting for 127.0.0.1:1"]


def test_untrusted_certificate_is_explained(secure_server, tmp_path):
    other = new_certificates(tmp_path / "other", ["127.0.0.1"])

    assert "certificate is not trusted" in _trouble(server=secure_server.address, ca=other.ca)
    assert "certificate is not trusted" in _trouble(server=secure_server.address)


def test_wrong_host_name_is_explained(secure_server, certificates):
    server = secure_server.address.replace("127.0.0.1", "localhost")

    text = _trouble(server=server, ca=certificates.ca)
    assert "certificate is not trusted" in text
    assert "host" in text.lower()


def test_plain_http_against_tls_is_explained(secure_server):
    assert "the server wants TLS" in _trouble(server=secure_server.address, insecure=True)


def test_tls_against_plain_http_is_explained(certificates):
    with superlink(LinkConfig(host="127.0.0.1", port=0, insecure=True)) as grid:
        assert "no TLS there" in _trouble(server=grid.address, ca=certificates.ca)


def test_other_web_server_is_explained():
    for status, headers, body in [
        (404, {}, b""),
        (405, {"content-type": "text/html"}, b"<html>"),
        (200, {"content-type": "text/html"}, b"<html>hello</html>"),
        (500, {"content-type": "text/html"}, b"oops"),
    ]:
        with _answering(status, headers, body) as server:
            assert "something else than a fedleague server" in _trouble(
                server=server, insecure=True
            )


def test_no_web_server_is_explained():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()

        def greet():
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    connection.sendall(b"SSH-2.0-OpenSSH_9.6\r\n")
                    connection.recv(65536)

        thread = threading.Thread(target=greet)
        thread.start()
        server = f"127.0.0.1:{listener.getsockname()[1]}"
        try:
            text = _trouble(server=server, insecure=True)
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(10)
    assert "something else" in text


def test_wrong_clock_is_explained():
    behind = datetime.datetime.now(datetime.UTC) - datetime.timedelta(minutes=10)
    date = behind.strftime("%a, %d %b %Y %H:%M:%S GMT")
    with _answering(401, {"date": date, "content-type": "application/json"}, b"{}") as server:
        text = _trouble(server=server, insecure=True)
    assert "clock is 60" in text
    assert "ahead of the server's" in text


def test_gateway_errors_are_waited_out():
    with _answering(502, {}) as server:
        assert "no answer" in _trouble(server=server, insecure=True, max_wait_seconds=0.2)


def test_idle_client_stops_at_once_and_leaves():
    with superlink(LinkConfig(host="127.0.0.1", port=0, insecure=True)) as grid:
        with _running(NodeConfig(grid.address, insecure=True), _app()) as (said, stop):
            grid.wait_for_nodes(1, timeout=20)
            time.sleep(0.3)
            start = time.monotonic()
            stop.set()
        assert time.monotonic() - start < 3.0
        assert grid.get_node_ids() == []
    assert len(said) == 1


@pytest.mark.slow
def test_heartbeats_go_on_while_the_app_works(monkeypatch):
    monkeypatch.setattr("fl_client.link.node.HEARTBEAT_SECONDS", 0.1)
    config = LinkConfig(host="127.0.0.1", port=0, insecure=True)
    with superlink(config) as grid:
        nodes = grid._state.nodes
        seen = []

        def work(message):
            seen.append(nodes[grid.get_node_ids()[0]].online_until)
            time.sleep(2.5)
            seen.append(nodes[grid.get_node_ids()[0]].online_until)

        with _running(NodeConfig(grid.address, insecure=True), _app(work)):
            (reply,) = _ask(grid)
        assert reply.has_content()
        assert seen[1] - seen[0] > 0.5


def test_reply_survives_a_broken_connection(monkeypatch):
    broken = []
    post = link.FleetWire._post

    def flaky(self, path, *arguments):
        if path in (fleet.PUSH_PATH, fleet.PULL_PATH) and broken.count(path) < 2:
            broken.append(path)
            raise link.UnreachableError("cut")
        return post(self, path, *arguments)

    monkeypatch.setattr(link.FleetWire, "_post", flaky)
    worked = []
    with superlink(LinkConfig(host="127.0.0.1", port=0, insecure=True)) as grid:
        with _running(NodeConfig(grid.address, insecure=True), _app(worked.append)):
            (reply,) = _ask(grid)
        assert reply.has_content()
        assert len(worked) == 1
        assert len(broken) == 4


def test_message_that_cannot_be_taken_is_given_up(monkeypatch):
    post = link.FleetWire._post

    def broken(self, path, *arguments):
        if path == fleet.PULL_PATH:
            raise link.UnreachableError("cut")
        return post(self, path, *arguments)

    monkeypatch.setattr(link.FleetWire, "_post", broken)
    with (
        superlink(LinkConfig(host="127.0.0.1", port=0, insecure=True)) as grid,
        _running(NodeConfig(grid.address, insecure=True), _app()),
    ):
        (reply,) = _ask(grid)
    assert "could not take" in reply.error.reason


@pytest.mark.slow
def test_client_serves_a_stock_superlink(tmp_path):
    """Against a server without our middleware the client polls, object by object."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = os.environ | {
        "FLWR_HOME": str(tmp_path),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, "-c", STOCK_SERVER, str(port)]
    with (
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as server,
        _running(NodeConfig(f"127.0.0.1:{port}", insecure=True), _app()) as (said, _stop),
    ):
        output, _ = server.communicate(timeout=60)
    assert output == "True\nTrue\n"
    assert any("joined" in line for line in said)


STOCK_SERVER = """
import sys, threading, time
import uvicorn
from fl_server.superlink.grid import StreamingGrid
from fl_common.logs import quieten
from fl_server.superlink.serve import LinkConfig, _create_app, _start_run
from flwr.app import ConfigRecord, Message, RecordDict
quieten()
app, state = _create_app(LinkConfig(), supernode_auth=False)
run = _start_run(state, "fl_client.app:app")
server = uvicorn.Server(
    uvicorn.Config(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="error")
)
threading.Thread(target=server.run, daemon=True).start()
grid = StreamingGrid(state, run)
(node,) = grid.wait_for_nodes(1, 30)
for _ in range(2):
    content = RecordDict({"config": ConfigRecord({"a": 1})})
    for reply in grid.send_and_receive([Message(content, node, "evaluate")], timeout=20):
        print(reply.has_content(), flush=True)
"""
