"""The deployment transport with real processes, sockets, TLS and keys."""

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.supercore.inflatable.inflatable_object import get_object_tree

from fl_client.link.fleet_http import FleetWire
from fl_client.link.fleet_messages import FleetMessages
from fl_common.errors import LinkError
from fl_server.superlink.keys import new_certificates, new_node_key
from fl_server.superlink.serve import LinkConfig, superlink

NODE = Path(__file__).parents[2] / "fl_client" / "node_process.py"
LOCAL = {"host": "127.0.0.1", "port": 0, "insecure": True}
ROOT = Path(__file__).parents[3]


class Site:
    """A client process and what it said."""

    def __init__(self, log: Path, **options):
        self.log = log
        options.setdefault("insecure", "ca" not in options)
        options = {k: str(v) if isinstance(v, Path) else v for k, v in options.items()}
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        with log.open("ab") as file:
            self.process = subprocess.Popen(
                [sys.executable, NODE, json.dumps(options)],
                stdout=file,
                stderr=file,
                env=environment,
            )

    @property
    def said(self) -> str:
        return self.log.read_text()

    def wait_for(self, text: str, count: int = 1, timeout: float = 20.0) -> None:
        end = time.monotonic() + timeout
        while self.said.count(text) < count:
            assert time.monotonic() < end, f"never said {text!r}: {self.said}"
            time.sleep(0.02)

    def kill(self, number=signal.SIGKILL) -> int:
        self.process.send_signal(number)
        return self.process.wait(20)


@pytest.fixture
def start_site(tmp_path):
    sites = []

    def start(**options) -> Site:
        sites.append(Site(tmp_path / f"site{len(sites)}.log", **options))
        return sites[-1]

    yield start
    for site in sites:
        site.process.kill()
        site.process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _arrays(value: float = 0.0, size: int = 5) -> RecordDict:
    arrays = ArrayRecord({"w": Array(np.full(size, value, dtype=np.float32))})
    return RecordDict({"arrays": arrays})


def _sleep(seconds: float) -> RecordDict:
    return RecordDict({"config": ConfigRecord({"seconds": seconds})})


def _ask(grid, content, kind="train", *, nodes=None, timeout=30.0):
    nodes = grid.get_node_ids() if nodes is None else nodes
    messages = [Message(content, node, kind) for node in nodes]
    return grid.send_and_receive(messages, timeout=timeout)


@contextmanager
def _within(seconds: float):
    start = time.monotonic()
    yield
    assert time.monotonic() - start < seconds


@pytest.mark.slow
def test_two_clients_answer_and_keep_their_state(start_site):
    with superlink(LinkConfig(**LOCAL)) as grid:
        sites = [start_site(server=grid.address, node_config={"site": i}) for i in (1, 2)]
        nodes = grid.wait_for_nodes(2, timeout=30)
        for count in (1, 2, 3):
            replies = {r.metadata.src_node_id: r.content for r in _ask(grid, _arrays(count))}
            assert sorted(replies) == nodes
            for content in replies.values():
                np.testing.assert_array_equal(content["arrays"]["w"].numpy(), np.full(5, count + 1))
                assert content["metrics"]["count"] == count
            assert {c["metrics"]["site"] for c in replies.values()} == {1, 2}
            assert {c["metrics"]["pid"] for c in replies.values()} == {
                site.process.pid for site in sites
            }
        assert [site.kill(signal.SIGTERM) for site in sites] == [0, 0]
        assert grid.get_node_ids() == []
        assert len(grid._state.object_store) == 0
        assert grid._state.num_message_ins() == grid._state.num_message_res() == 0


@pytest.mark.slow
def test_replies_come_one_by_one_and_content_is_shared(start_site):
    with superlink(LinkConfig(**LOCAL)) as grid:
        for _ in range(2):
            start_site(server=grid.address)
        slow, fast = grid.wait_for_nodes(2, timeout=30)
        messages = [Message(_sleep(2.0), slow, "evaluate"), Message(_sleep(0.0), fast, "evaluate")]
        replies = grid.send_and_receive(messages, timeout=20)
        with _within(1.5):
            assert next(replies).metadata.src_node_id == fast
        assert next(replies).metadata.src_node_id == slow
        assert next(replies, None) is None

        store = grid._state.object_store
        puts = []
        put, store.put = store.put, lambda i, content: (puts.append(i), put(i, content))
        try:
            grid.push_messages([Message(_arrays(), node, "train") for node in (slow, fast)])
            unshared = len(puts)
            content = _arrays(7.0)
            grid.push_messages([Message(content, node, "train") for node in (slow, fast)])
        finally:
            del store.put
        # Equal content is one object even where it is not shared; each message is its own.
        assert unshared == len(puts) - unshared == 6


@pytest.mark.slow
def test_a_failing_app_sends_a_code_and_no_text(start_site):
    with superlink(LinkConfig(**LOCAL)) as grid:
        site = start_site(server=grid.address)
        grid.wait_for_nodes(1, timeout=30)
        (reply,) = _ask(grid, _arrays(), "query")
        assert reply.has_error()
        assert "4711" not in str(reply)
        assert "4711" in site.said
        (reply,) = _ask(grid, _arrays())
        assert reply.has_content()


@pytest.mark.slow
def test_tls_and_keys_admit_the_enrolled_only(start_site, tmp_path, caplog):
    certificates = new_certificates(tmp_path, ["127.0.0.1"])
    private, public = new_node_key(tmp_path / "enrolled", "berlin")
    stranger, _ = new_node_key(tmp_path / "others", "stranger")
    secure = {
        "host": "127.0.0.1",
        "certificate": certificates.certificate,
        "private_key": certificates.private_key,
        "ca": certificates.ca,
    }
    with superlink(LinkConfig(port=0, node_keys=(public,), **secure)) as grid:
        ca = certificates.ca
        start_site(server=grid.address, ca=ca, private_key=private)
        refused = start_site(server=grid.address, ca=ca, private_key=stranger)
        keyless = start_site(server=grid.address, ca=ca)
        assert refused.process.wait(30) == keyless.process.wait(30) == 2
        assert f"ask the organiser to enrol {stranger.with_suffix('.pub')}" in refused.said
        assert "only enrolled keys may join" in keyless.said
        assert "Traceback" not in refused.said + keyless.said
        assert len(grid.wait_for_nodes(1, timeout=30)) == 1
        (reply,) = _ask(grid, _arrays(1.0))
        assert reply.content["arrays"]["w"].numpy()[0] == 2.0
    with superlink(LinkConfig(port=0, open_enrolment=True, **secure)) as grid:
        start_site(server=grid.address, ca=certificates.ca)
        assert len(grid.wait_for_nodes(1, timeout=30)) == 1
    assert not [r for r in caplog.records if r.levelno >= logging.ERROR]


@pytest.mark.slow
def test_clients_outlive_the_server(start_site, tmp_path):
    port = _free_port()
    local = LOCAL | {"port": port}
    private, public = new_node_key(tmp_path, "a")
    sites = [
        start_site(server=f"127.0.0.1:{port}", private_key=private),
        start_site(server=f"127.0.0.1:{port}"),
    ]
    for site in sites:
        site.wait_for("waiting for")
    with superlink(LinkConfig(**local)) as grid:
        first = grid.wait_for_nodes(2, timeout=30)
        assert len(list(_ask(grid, _arrays()))) == 2
    with superlink(LinkConfig(**local)) as grid:
        assert grid.wait_for_nodes(2, timeout=30) == first, "ids follow from the keys"
        assert [r.content["metrics"]["count"] for r in _ask(grid, _arrays())] == [1, 1]
    with superlink(LinkConfig(**local, node_keys=(public,))) as grid:
        assert grid.wait_for_nodes(1, timeout=30)
        assert sites[1].process.wait(30) == 2, "its made-up key is not enrolled"
        assert len(list(_ask(grid, _arrays()))) == 1
    assert sites[0].said.count("waiting for") <= 4


SERVER = """
import sys
from fl_server.superlink.serve import LinkConfig, superlink
from flwr.app import ConfigRecord, Message, RecordDict
with superlink(LinkConfig(host="127.0.0.1", port=int(sys.argv[1]), insecure=True)) as grid:
    (node,) = grid.wait_for_nodes(1, 30)
    content = RecordDict({"config": ConfigRecord({"seconds": float(sys.argv[2])})})
    for reply in grid.send_and_receive([Message(content, node, "evaluate")], timeout=30):
        print("reply", reply.has_content(), flush=True)
"""


@pytest.mark.slow
def test_a_server_killed_during_training_is_forgotten(start_site):
    port = _free_port()
    site = start_site(server=f"127.0.0.1:{port}")
    command = [sys.executable, "-c", SERVER, str(port)]
    with subprocess.Popen([*command, "3"], cwd=ROOT) as server:
        site.wait_for("joined")
        time.sleep(1.0)
        server.kill()
    with subprocess.Popen([*command, "0"], cwd=ROOT, stdout=subprocess.PIPE, text=True) as server:
        output, _ = server.communicate(timeout=40)
    assert output == "reply True\n"
    site.wait_for("joined", count=2)


@pytest.mark.slow
def test_a_killed_client_comes_back_and_owes_nothing(start_site, tmp_path):
    private, public = new_node_key(tmp_path, "a")
    with superlink(LinkConfig(**LOCAL, node_keys=(public,))) as grid:
        site = start_site(server=grid.address, private_key=private)
        nodes = grid.wait_for_nodes(1, timeout=30)
        site.wait_for("joined")
        replies = _ask(grid, _sleep(20.0), "evaluate", timeout=25)
        time.sleep(0.5)
        site.kill()
        start_site(server=grid.address, private_key=private)
        with _within(10.0):
            (reply,) = replies
        assert "restarted" in reply.error.reason
        assert reply.metadata.src_node_id == nodes[0]
        assert grid.get_node_ids() == nodes
        (reply,) = _ask(grid, _arrays())
        assert reply.has_content()


@pytest.mark.slow
def test_a_client_killed_when_idle_is_noticed(start_site):
    with superlink(LinkConfig(**LOCAL)) as grid:
        site = start_site(server=grid.address)
        nodes = grid.wait_for_nodes(1, timeout=30)
        site.wait_for("joined")
        time.sleep(0.3)
        site.kill()
        with _within(8.0):
            (reply,) = _ask(grid, _arrays(), nodes=nodes)
        assert "went away" in reply.error.reason
        assert grid.get_node_ids() == []


@pytest.mark.slow
def test_the_generator_ends_at_its_timeout(start_site):
    with superlink(LinkConfig(**LOCAL)) as grid:
        site = start_site(server=grid.address)
        grid.wait_for_nodes(1, timeout=30)
        with _within(2.5):
            assert list(_ask(grid, _sleep(4.0), "evaluate", timeout=1.0)) == []
        (reply,) = _ask(grid, _arrays())  # Waits for the late one, whose reply nobody wants.
        assert reply.has_content()
        assert len(grid._state.object_store) == 0
        assert site.process.poll() is None


@pytest.mark.slow
def test_an_unknown_node_is_an_error_and_closing_early_cleans_up(start_site):
    with superlink(LinkConfig(**LOCAL)) as grid:
        start_site(server=grid.address)
        (node,) = grid.wait_for_nodes(1, timeout=30)
        replies = _ask(grid, _arrays(), nodes=[node, 12345])
        assert next(replies).metadata.src_node_id == 12345
        replies.close()
        assert grid._state.num_message_ins() == 0
        assert len(grid._state.object_store) == 0


@pytest.mark.slow
def test_a_second_client_with_the_same_key_takes_over(start_site, tmp_path):
    private, public = new_node_key(tmp_path, "a")
    with superlink(LinkConfig(**LOCAL, node_keys=(public,))) as grid:
        first = start_site(server=grid.address, private_key=private)
        first.wait_for("joined")
        second = start_site(server=grid.address, private_key=private)
        assert first.process.wait(20) == 2
        assert "another client has joined with the same key" in first.said
        (reply,) = _ask(grid, _arrays())
        assert reply.content["metrics"]["pid"] == second.process.pid


@pytest.mark.slow
def test_large_arrays_make_the_round_trip(start_site):
    size = 47_000_000 // 4
    with superlink(LinkConfig(**LOCAL)) as grid:
        for _ in range(2):
            start_site(server=grid.address)
        grid.wait_for_nodes(2, timeout=30)
        sent = np.random.default_rng(0).random(size, dtype=np.float32)
        content = RecordDict({"arrays": ArrayRecord({"w": Array(sent)})})
        start = time.monotonic()
        for reply in _ask(grid, content, timeout=60):
            np.testing.assert_array_equal(reply.content["arrays"]["w"].numpy(), sent + 1)
        print(f"\n47 MB to and from 2 clients: {time.monotonic() - start:.2f} s")


@pytest.mark.slow
def test_latency_of_an_exchange(start_site):
    with superlink(LinkConfig(**LOCAL)) as grid:
        for _ in range(2):
            start_site(server=grid.address)
        grid.wait_for_nodes(2, timeout=30)
        times = []
        for step in range(20):
            start = time.monotonic()
            assert len(list(_ask(grid, _arrays(step)))) == 2
            times.append(time.monotonic() - start)
        median = sorted(times)[len(times) // 2]
        print(f"\n20 exchanges with 2 clients: median {median * 1000:.1f} ms each")
        assert median < 1.0


@pytest.mark.slow
@pytest.mark.parametrize("secure", [False, True])
def test_stock_supernode_takes_part(tmp_path, secure):
    config, options = LOCAL, ["--insecure"]
    if secure:
        certificates = new_certificates(tmp_path, ["127.0.0.1"])
        private, public = new_node_key(tmp_path, "stock")
        config = {
            "host": "127.0.0.1",
            "port": 0,
            "certificate": certificates.certificate,
            "private_key": certificates.private_key,
            "node_keys": (public,),
        }
        options = ["--root-certificates", certificates.ca, "--auth-supernode-private-key", private]
    environment = os.environ | {
        "FLWR_HOME": str(tmp_path / "flwr"),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "PYTHONPATH": f"{ROOT}:{NODE.parent}",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    with ExitStack() as stack:
        grid = stack.enter_context(superlink(LinkConfig(**config, client_app="node_process:app")))
        command = ["flower-supernode", "--superlink", grid.address, "--port", str(_free_port())]
        command += [*options, "--node-config", "site=7"]
        log = stack.enter_context((tmp_path / "log").open("wb"))
        node = subprocess.Popen(
            command, env=environment, stdout=log, stderr=log, start_new_session=True
        )
        stack.callback(node.wait)
        stack.callback(os.killpg, node.pid, signal.SIGTERM)
        assert len(grid.wait_for_nodes(1, timeout=60)) == 1
        for count in (1, 2):
            (reply,) = _ask(grid, _arrays(count), timeout=90)
            assert reply.content["arrays"]["w"].numpy()[0] == count + 1
            assert reply.content["metrics"]["count"] == count
            assert reply.content["metrics"]["site"] == 7


def test_nothing_but_the_fleet_api_is_served():
    import httpx

    with superlink(LinkConfig(**LOCAL)) as grid:
        for path in ("/docs", "/openapi.json", "/v1/control/start-run", "/v1/runtime/acquire-task"):
            assert httpx.post(f"http://{grid.address}{path}").status_code == 404
        assert httpx.get(f"http://{grid.address}/health").status_code == 200
        host, _, port = grid.address.rpartition(":")
        with socket.create_connection((host, int(port)), timeout=5) as connection:
            connection.sendall(
                b"POST /v1/fleet/push-object HTTP/1.1\r\nhost: a\r\n"
                b"content-length: 99999999999\r\n\r\n"
            )
            assert b" 413 " in connection.recv(100)
        assert httpx.post(f"http://{grid.address}/v1/fledleague/pull-objects").status_code == 404
        assert httpx.post(f"http://{grid.address}/v1/fedleague/pull-objects").status_code == 401


@pytest.fixture
def two_senders():
    """Two sites in the hands of the test, each with a message received."""
    with superlink(LinkConfig(**LOCAL)) as grid, ExitStack() as stack:
        senders = []
        for _ in range(2):
            wire = FleetWire(grid.address, ca=None, insecure=True, private_key=None)
            stack.callback(wire.close)
            senders.append(FleetMessages(wire))
            senders[-1].join()
        replies = _ask(grid, _arrays(), timeout=5.0)
        yield senders, [sender.receive(1.0) for sender in senders], replies


def test_a_site_cannot_answer_for_another(two_senders):
    (honest, forger), (message, _), replies = two_senders
    forged = Message(_arrays(666.0), reply_to=message)
    forger.send(forged)
    honest.send(Message(_arrays(1.0), reply_to=message))

    reply = next(replies)

    assert reply.metadata.src_node_id == honest.node_id
    assert reply.content["arrays"]["w"].numpy()[0] == 1.0
    replies.close()


def test_a_garbled_reply_costs_that_site_only(two_senders, monkeypatch):
    (garbler, honest), (first, second), replies = two_senders
    push = FleetWire.push_batch

    def garble(self, run_id, upload, objects):
        push(self, run_id, upload, [(i, content[:-1] + b"?") for i, content in objects])

    monkeypatch.setattr(FleetWire, "push_batch", garble)
    garbler.send(Message(_arrays(1.0), reply_to=first))
    monkeypatch.undo()
    honest.send(Message(_arrays(2.0), reply_to=second))

    answers = {reply.metadata.src_node_id: reply for reply in replies}

    assert "garbled" in answers[garbler.node_id].error.reason
    assert answers[honest.node_id].content["arrays"]["w"].numpy()[0] == 2.0


def test_a_reply_that_does_not_fit_together_is_an_error(two_senders):
    (liar, honest), (first, second), replies = two_senders
    content = RecordDict({"config": ConfigRecord({"a": 1})})
    reply = Message(content, reply_to=first)
    reply.metadata.__dict__["_message_id"] = reply.object_id
    tree = get_object_tree(reply)
    del tree.children[:]  # The message refers to content that is not announced.
    liar._send(reply, tree)
    honest.send(Message(_arrays(2.0), reply_to=second))

    answers = {reply.metadata.src_node_id: reply for reply in replies}

    assert "cannot be read" in answers[liar.node_id].error.reason
    assert answers[honest.node_id].has_content()


def test_a_reply_in_parts_is_not_handed_over_before_the_last(two_senders, monkeypatch):
    (slow, gone), (message, _), replies = two_senders
    push = FleetWire.push_batch

    def one_short(self, run_id, upload, objects):
        push(self, run_id, upload, objects[:-1])

    monkeypatch.setattr(FleetWire, "push_batch", one_short)
    reply = Message(_arrays(1.0), reply_to=message)
    slow.send(reply)
    monkeypatch.undo()
    gone.leave()
    assert "went away" in next(replies).error.reason
    slow.send(reply)  # As after an interruption: only the rest goes over the wire.
    assert next(replies).has_content()
    assert next(replies, None) is None


def test_waiting_for_nodes_ends_in_time():
    with superlink(LinkConfig(**LOCAL)) as grid, _within(1.0):
        assert grid.wait_for_nodes(1, timeout=0.2) == []


def test_server_troubles_are_one_line(tmp_path):
    certificates = new_certificates(tmp_path, ["127.0.0.1"])
    other = new_certificates(tmp_path / "other", ["127.0.0.1"])
    _private, public = new_node_key(tmp_path, "a")
    garbled = tmp_path / "garbled.pem"
    garbled.write_text("no PEM")
    good = {"certificate": certificates.certificate, "private_key": certificates.private_key}
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        for options, reason in [
            ({"insecure": True, "port": port}, f"127.0.0.1:{port}: cannot listen here"),
            ({"insecure": True, "port": 99999}, "cannot listen here"),
            ({}, "no site may join"),
            ({"node_keys": (public,)}, "no TLS certificate"),
            ({"open_enrolment": True, **good, "certificate": tmp_path / "x"}, "no such file"),
            ({"open_enrolment": True, **good, "certificate": garbled}, "not a certificate"),
            ({"open_enrolment": True, **good, "private_key": garbled}, "not a certificate"),
            ({"open_enrolment": True, **good, "private_key": other.private_key}, "MISMATCH"),
            ({"open_enrolment": True, **good, "ca": other.ca}, "did not sign"),
            ({"open_enrolment": True, **good, "ca": garbled}, "not a CA"),
            ({**good, "node_keys": (garbled,)}, "not a public key"),
            ({**good, "node_keys": (tmp_path / "missing",)}, "cannot read"),
        ]:
            config = LinkConfig(**{"host": "127.0.0.1", "port": 0, **options})
            with pytest.raises(LinkError, match=reason) as caught, superlink(config):
                pass
            assert "\n" not in str(caught.value)
