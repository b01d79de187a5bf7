"""A Flower SuperLink in this process: its web application in a thread, its state at hand.

No `flower-superlink` and no `flower-superexec` are started, and nothing is asked over the
network that the process can look up itself.
"""

from __future__ import annotations

import os
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")

import uvicorn
from fastapi import FastAPI
from flwr.common.constant import (
    ISOLATION_MODE_PROCESS,
    NOOP_ACCOUNT_NAME,
    NOOP_FLWR_AID,
    SUPERLINK_NODE_ID,
    TRANSPORT_TYPE_GRPC_RERE,
    SubStatus,
)
from flwr.supercore.constant import FLWR_IN_MEMORY_DB_NAME, NOOP_FEDERATION_ID, TaskType
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.auth_plugin import NoOpControlAuthnPlugin
from flwr.superlink.config_loader import SuperLinkLifespanConfig
from flwr.superlink.main import create_app

from fl_common.errors import LinkError
from fl_common.logs import quieten
from fl_server.superlink.fab import build_stub
from fl_server.superlink.fleet_middleware import FleetMiddleware
from fl_server.superlink.grid import StreamingGrid
from fl_server.superlink.keys import check_issuer, read_public_keys
from fl_server.superlink.link_state import WatchedLinkState
from fl_server.superlink.object_store import AtomicObjectStore


@dataclass(frozen=True)
class LinkConfig:
    """Where the server listens, and whom it lets in.

    Attributes
    ----------
    host : str (default: "0.0.0.0")
        Address to listen on; all of them by default.
    port : int (default: 9092)
        Port to listen on; 0 takes a free one (see `StreamingGrid.address`).
    certificate, private_key : Path, optional
        The server's TLS certificate and its private key (PEM).
    ca : Path, optional
        Certificate of the authority. The server itself does not need it; if it is given, it is
        checked that it signed the certificate.
    insecure : bool (default: False)
        Serve plain HTTP. It must be asked for: otherwise TLS files are required.
    node_keys : tuple[Path, ...] (default: ())
        Public keys of the sites that may join: files, or folders of `*.pub`.
    open_enrolment : bool (default: False)
        Under TLS and without node keys, let any site join that trusts the authority.
    client_app : str (default: "fl_client.app:app")
        The ClientApp that stock Flower nodes load from the installed package.
    max_open_replies : int (default: 8)
        How many replies may be on their way in, or in memory unread, at a time; further clients
        wait. Raise it where many sites have slow lines and memory is plenty.
    """

    host: str = "0.0.0.0"  # noqa: S104  A server is there to be reached.
    port: int = 9092
    certificate: Path | None = None
    private_key: Path | None = None
    ca: Path | None = None
    insecure: bool = False
    node_keys: tuple[Path, ...] = ()
    open_enrolment: bool = False
    client_app: str = "fl_client.app:app"
    max_open_replies: int = 8


@contextmanager
def superlink(config: LinkConfig) -> Iterator[StreamingGrid]:
    """Serve sites for as long as the context lasts.

    It sets Flower's `TaskIdentity`, so that `Message`s can be built in this process: one
    superlink at a time in a process.

    Parameters
    ----------
    config : LinkConfig
        Where to listen and whom to let in.

    Yields
    ------
    StreamingGrid
        The grid of a new run.

    Raises
    ------
    LinkError
        The port is in use, or a certificate or key is missing or unreadable.
    """
    quieten()
    keys = _check_enrolment(config)
    _check_certificates(config)
    listener = _bind(config.host, config.port)
    try:
        app, state = _create_app(config, supernode_auth=bool(keys))
        for key in keys:
            state.create_node(NOOP_FLWR_AID, NOOP_ACCOUNT_NAME, key, 0)
        run = _start_run(state, config.client_app)
        middleware = FleetMiddleware(app, state, max_open_replies=config.max_open_replies)
        host, port = listener.getsockname()[:2]
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        with _serve(middleware, config, listener):
            try:
                yield StreamingGrid(state, run, address)
            finally:
                state.finish_task(run.primary_task_id or 0, SubStatus.COMPLETED, "")
    finally:
        listener.close()


def _check_enrolment(config: LinkConfig) -> list[bytes]:
    keys = list(read_public_keys(config.node_keys))
    if not (config.insecure or keys or config.open_enrolment):
        raise LinkError(
            "no site may join: give the sites' public keys (node_keys), "
            "or ask for open_enrolment to let in every site that has the CA"
        )
    return keys


def _check_certificates(config: LinkConfig) -> None:
    if config.insecure:
        return
    if config.certificate is None or config.private_key is None:
        raise LinkError(
            "no TLS certificate and private key: create them, or ask for insecure plain HTTP"
        )
    for path in (config.certificate, config.private_key, config.ca):
        if path is not None and not path.is_file():
            raise LinkError(f"{path}: no such file; expected a certificate or key in PEM form")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        # A password is never asked for on the terminal: an encrypted key is an error.
        context.load_cert_chain(config.certificate, config.private_key, password=lambda: b"")
    except (ssl.SSLError, OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
        raise LinkError(
            f"{config.certificate}, {config.private_key}: not a certificate and its unencrypted "
            f"private key ({reason})"
        ) from error
    if config.ca is not None:
        check_issuer(config.certificate, config.ca)


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(512)
    except (OSError, OverflowError) as error:
        listener.close()
        reason = getattr(error, "strerror", None) or error
        raise LinkError(
            f"{host}:{port}: cannot listen here ({reason}); "
            "choose another port or stop what uses it"
        ) from error
    return listener


class _NoServers:
    """Flower's hook for its own gRPC servers and helper processes: we want none."""

    def __init__(self, _config: object, _state_factory: object) -> None:
        pass

    def startup(self) -> None:
        """Start nothing."""

    def shutdown(self) -> None:
        """Stop nothing."""


def _create_app(config: LinkConfig, *, supernode_auth: bool) -> tuple[FastAPI, WatchedLinkState]:
    """Build Flower's web application on a link state that can be watched."""
    app = create_app(
        SuperLinkLifespanConfig(
            control_address="",
            health_server_address=None,
            host=config.host,
            port=config.port,
            insecure=config.insecure,
            certificates=None,
            superexec_auth_secret=None,
            authn_plugin=NoOpControlAuthnPlugin(),
            event_log_plugin=None,
            fleet_event_log_plugin=None,
            enable_event_log=False,
            artifact_provider=None,
            enable_supernode_auth=supernode_auth,
            fleet_api_type=TRANSPORT_TYPE_GRPC_RERE,
            fleet_api_address=None,
            simulation=False,
            ssl_ca_certfile=None,
            ssl_certfile=None,
            ssl_keyfile=None,
            database=FLWR_IN_MEMORY_DB_NAME,
            isolation=ISOLATION_MODE_PROCESS,
            runtime_dependency_install=False,
        ),
        _NoServers,  # type: ignore[arg-type]
    )
    factory = app.state.linkstate_factory
    store = AtomicObjectStore(verify=False)  # The link state checks before it takes a lock.
    state = WatchedLinkState(factory.federation_manager, store)
    factory.objectstore_factory.store_instance = store
    factory.state_instance = state
    return app, state


def _start_run(state: WatchedLinkState, client_app: str) -> Run:
    """Register a run that this process carries out itself."""
    fab, app_id, version = build_stub(client_app)
    run_id = state.create_run(
        fab_id=app_id,
        fab_version=version,
        fab_hash=state.store_fab(fab),
        override_config={},
        federation_id=NOOP_FEDERATION_ID,
        federation_config=None,
        flwr_aid=NOOP_FLWR_AID,
        primary_task_type=TaskType.SERVER_APP,
    )
    (run,) = state.get_run_info(run_ids=[run_id])
    task_id = run.primary_task_id or 0
    token = state.claim_task(task_id)
    if token is None or not state.activate_task(task_id):
        raise LinkError("Flower did not start the run; is its version the pinned one?")
    # A token expires without heartbeats, and lets its holder act as the server: neither is wanted.
    del state.task_token_store[task_id]
    del state.task_token_to_task_id[token]
    TaskIdentity.task_id, TaskIdentity.run_id = task_id, run_id
    TaskIdentity.node_id = SUPERLINK_NODE_ID
    (run,) = state.get_run_info(run_ids=[run_id])
    return run


@contextmanager
def _serve(
    middleware: FleetMiddleware, config: LinkConfig, listener: socket.socket
) -> Iterator[None]:
    """Run the web server in a thread."""
    server = uvicorn.Server(
        uvicorn.Config(
            middleware,
            log_config=None,
            access_log=False,
            ws="none",
            lifespan="on",
            timeout_keep_alive=75,
            timeout_graceful_shutdown=2,
            ssl_certfile=None if config.insecure else config.certificate,
            ssl_keyfile=None if config.insecure else config.private_key,
        )
    )
    thread = threading.Thread(
        target=server.run, kwargs={"sockets": [listener]}, name="superlink", daemon=True
    )
    thread.start()
    try:
        while not server.started:
            thread.join(0.005)
            if not thread.is_alive():
                raise LinkError("the web server did not start; set FEDLEAGUE_DEBUG=1 to see why")
        yield
    finally:
        middleware.close()
        server.should_exit = True
        thread.join(10)
