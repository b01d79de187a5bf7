"""The leaderboard's web server: JSON below ``/api/`` and pages, from the same views.

Pages work without JavaScript; with it, the page of a running run polls the JSON and refreshes
itself. Nothing is loaded from elsewhere: the content policy forbids it.
"""

from __future__ import annotations

import errno
import socket
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any, Self

import uvicorn
from fastapi import APIRouter, FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException

from fl_common.errors import FedleagueError, LinkError
from fl_server.leaderboard import api, pages
from fl_server.leaderboard.store import Store, UnknownEntryError

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
START_SECONDS = 20.0

ShownRound = Annotated[int | None, Query(ge=0, le=api.MAX_ID)]


def create_app(store: Store) -> FastAPI:
    """Return the web application; the caller closes ``store``."""
    app = FastAPI(
        title="fedleague leaderboard",
        description="Use cases, rankings and runs of federated competitions.",
        version="1",
        docs_url=None,  # both of FastAPI's own pages load scripts from elsewhere
        redoc_url=None,
        openapi_url="/openapi.json",
    )
    app.include_router(api.make_router(store))
    app.include_router(_make_pages(store, app))
    app.mount("/static", StaticFiles(directory=Path(__file__).parent / "static"), name="static")
    _handle_errors(app)

    @app.middleware("http")
    async def add_headers(
        request: Request, call_next: Callable[[Request], Awaitable[Response]]
    ) -> Response:
        response = await call_next(request)
        response.headers.update(HEADERS)
        return response

    return app


def _make_pages(store: Store, app: FastAPI) -> APIRouter:
    router = APIRouter(include_in_schema=False, default_response_class=HTMLResponse)

    @router.api_route("/", methods=["GET", "HEAD"])
    def index() -> str:
        return pages.render("index.html", usecases=store.usecases())

    @router.api_route("/usecases/{slug}", methods=["GET", "HEAD"])
    def usecase(slug: str) -> str:
        board = store.leaderboard(slug)
        return pages.render("usecase.html", board=board, **pages.usecase_charts(board))

    @router.api_route("/runs/{run_id}", methods=["GET", "HEAD"])
    def run(run_id: api.RunId, round: ShownRound = None) -> str:
        view = store.run(run_id)
        known = [item.round for item in view.rounds]
        shown = known[-1] if known and round is None else round
        found = store.rounds(run_id, shown, 1) if shown in known and shown is not None else []
        return pages.render(
            "run.html", run=view, chart=pages.run_chart(view), shown=found[0] if found else None
        )

    @router.api_route("/docs", methods=["GET", "HEAD"])
    def docs() -> str:
        return pages.render("docs.html", schema=app.openapi())

    return router


def _handle_errors(app: FastAPI) -> None:
    def answer(request: Request, status: int, message: str) -> Response:
        if request.url.path.startswith("/api/"):
            return JSONResponse(api.error_body(status, message), status, HEADERS)
        text = pages.render("error.html", status=status, message=message)
        return HTMLResponse(text, status, HEADERS)

    @app.exception_handler(UnknownEntryError)
    async def unknown(request: Request, error: UnknownEntryError) -> Response:
        return answer(request, 404, str(error))

    @app.exception_handler(FedleagueError)
    async def unavailable(request: Request, error: FedleagueError) -> Response:
        return answer(request, 503, str(error))

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> Response:
        message = "there is nothing at this address" if error.status_code == 404 else error.detail
        return answer(request, error.status_code, message)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        found = error.errors()
        if any(item["loc"][0] == "path" for item in found):
            return answer(request, 404, "there is nothing at this address")
        told = "; ".join(f"{item['loc'][-1]}: {item['msg']}" for item in found)
        return answer(request, 422, told)

    @app.exception_handler(Exception)
    async def failed(request: Request, _error: Exception) -> Response:
        return answer(request, 500, "the leaderboard failed; its log has the details")


class BoardHandle:
    """A leaderboard that is served from a thread until ``stop``; a context manager too."""

    def __init__(self, store: Store, listener: socket.socket, url: str) -> None:
        self.url = url
        self._store = store
        self._listener = listener
        self._server = _make_server(store)
        self._thread = threading.Thread(
            target=self._server.run, args=([listener],), name="leaderboard", daemon=True
        )
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.stop()

    def wait_until_started(self) -> None:
        """Return once requests are answered.

        Raises
        ------
        LinkError
            If the server ended or did not start in time.
        """
        deadline = time.monotonic() + START_SECONDS
        while not self._server.started:
            if not self._thread.is_alive() or time.monotonic() > deadline:
                self.stop()
                raise LinkError(f"the leaderboard at {self.url} did not start: see the log")
            time.sleep(0.005)

    def stop(self) -> None:
        """Stop serving and close the store; a second call does nothing."""
        self._server.should_exit = True
        self._thread.join(timeout=START_SECONDS)
        self._listener.close()
        self._store.close()


def serve(
    store_url: str, host: str, port: int, announce: Callable[[str], None] | None = None
) -> None:
    """Serve the leaderboard until interrupted (Ctrl-C or SIGTERM).

    Parameters
    ----------
    store_url : str
        As for ``Store``.
    host, port : str, int
        Where to listen; port 0 takes a free one.
    announce : callable or None
        Told the page's address once it listens (with port 0, the one it got).

    Raises
    ------
    LinkError
        If the port is taken or the address is not of this machine.
    ConfigError
        If the database cannot be used.
    """
    listener, url = _listen(host, port)  # first: a taken port makes no database
    with listener, Store(store_url) as store:
        if announce is not None:
            announce(url)
        try:
            _make_server(store).run([listener])
        except KeyboardInterrupt:
            return


def serve_in_background(store_url: str, host: str, port: int) -> BoardHandle:
    """Serve the leaderboard from a thread while the caller goes on.

    The parameters and errors are those of ``serve``. Stop it with ``stop()`` or ``with``.
    """
    listener, url = _listen(host, port)  # first: a taken port makes no database
    try:
        store = Store(store_url)
    except BaseException:
        listener.close()
        raise
    handle = BoardHandle(store, listener, url)
    handle.wait_until_started()
    return handle


def _make_server(store: Store) -> uvicorn.Server:
    config: dict[str, Any] = {"log_config": None, "log_level": "warning", "access_log": False}
    config |= {"lifespan": "off", "server_header": False, "timeout_graceful_shutdown": 2}
    return uvicorn.Server(uvicorn.Config(create_app(store), **config))


def _listen(host: str, port: int) -> tuple[socket.socket, str]:
    """Bind before the web server does, so that a taken port is one clear line."""
    try:
        if not 0 <= port <= 65535:  # the look-up would wrap it round
            raise OverflowError(port)
        kind, _, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.create_server(address[:2], family=kind, backlog=256)
    except (OSError, OverflowError) as error:
        raise LinkError(_explain_listen(error, host, port)) from error
    number = listener.getsockname()[1]
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)  # noqa: S104
    return listener, f"http://{shown}:{number}"


def _explain_listen(error: Exception, host: str, port: int) -> str:
    code = getattr(error, "errno", None)
    other = "choose another port (0 takes a free one)"
    if code == errno.EADDRINUSE:
        return f"port {port} on {host} is in use: stop the program that uses it, or {other}"
    if code == errno.EACCES:
        return f"port {port} on {host} needs more rights: {other}"
    if isinstance(error, OverflowError):
        return f"port {port} does not exist: {other}"
    return f"cannot listen on {host}:{port} ({error}): use 127.0.0.1, or an address of this machine"
