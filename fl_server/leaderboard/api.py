"""The leaderboard as JSON, in the shape of the competition platform's interface."""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Query, Request
from fastapi import Path as InPath

from fl_server.leaderboard import views
from fl_server.leaderboard.store import Store

MAX_ID = 2**31 - 1
"""Largest number that both databases take for a row."""

RunId = Annotated[int, InPath(ge=1, le=MAX_ID, description="Number of the run.")]
Slug = Annotated[str, InPath(description="Name of the use case in addresses.")]
PageNumber = Annotated[int, Query(ge=1, le=MAX_ID, description="Which page, from 1.")]
PageSize = Annotated[int, Query(ge=1, le=1000, description="Entries in a page.")]
Since = Annotated[int, Query(ge=0, le=MAX_ID, description="First round wanted.")]

Item = TypeVar("Item")


@dataclass(frozen=True)
class ErrorView:
    """Why a request was not answered."""

    status: int
    code: str
    message: str


@dataclass(frozen=True)
class ErrorAnswer:
    """The body of every answer that is not a success."""

    error: ErrorView


def error_body(status: int, message: str) -> dict[str, Any]:
    """Return the JSON body of an error."""
    code = HTTPStatus(status).name.lower()
    return {"error": {"status": status, "code": code, "message": message}}


def make_router(store: Store) -> APIRouter:
    """Return the routes below ``/api``, answered from ``store``."""
    missing: dict[int | str, dict[str, Any]] = {404: {"model": ErrorAnswer}}
    router = APIRouter(prefix="/api", tags=["leaderboard"])

    @router.get("/usecases/", summary="List the use cases")
    def usecases(
        request: Request, page: PageNumber = 1, page_size: PageSize = 100
    ) -> views.UseCasePageView:
        return views.UseCasePageView(**_page(request, store.usecases(), page, page_size))

    @router.get("/usecases/{slug}/", summary="One use case", responses=missing)
    def usecase(slug: Slug) -> views.UseCaseView:
        return store.usecase(slug)

    @router.get("/usecases/{slug}/leaderboard", summary="The ranking", responses=missing)
    def leaderboard(slug: Slug) -> views.LeaderboardView:
        return store.leaderboard(slug)

    @router.get("/runs/{run_id}", summary="One run", responses=missing)
    def run(run_id: RunId) -> views.RunView:
        return store.run(run_id)

    @router.get("/runs/{run_id}/rounds", summary="A run's rounds", responses=missing)
    def rounds(
        request: Request,
        run_id: RunId,
        since: Since = 0,
        page: PageNumber = 1,
        page_size: PageSize = 100,
    ) -> views.RoundPageView:
        known = [item.round for item in store.run(run_id).rounds if item.round >= since]
        fields = _page(request, known, page, page_size)
        wanted = fields["results"]
        found = store.rounds(run_id, wanted[0], len(wanted)) if wanted else []
        return views.RoundPageView(**(fields | {"results": found}))

    return router


def _page(request: Request, items: list[Item], page: int, page_size: int) -> dict[str, Any]:
    """Cut one page out of ``items`` and link to its neighbours."""
    start = (page - 1) * page_size
    link = request.url.include_query_params
    return {
        "count": len(items),
        "next": str(link(page=page + 1)) if start + page_size < len(items) else None,
        "previous": str(link(page=page - 1)) if page > 1 else None,
        "results": items[start : start + page_size],
    }
