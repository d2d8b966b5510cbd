"""Nobody gets at what is somebody else's: every place in the API that takes an id, by every way in.

The places are read from the schema and from the routes: a new one without its row fails here. What is asked for with
an id that is somebody else's is answered as with one that nobody has, to the byte; then the owner gets an answer, so
that the likeness is not that of two broken questions.
"""

from __future__ import annotations

import asyncio
import re

import httpx
import pytest
from fastapi.routing import APIWebSocketRoute
from starlette.routing import BaseRoute, WebSocketRoute

from app import create_app
from models.ids import new_id
from settings import Settings
from tests.conftest import Account
from tests.graph.http_client import Graph, Json
from tests.hostile.ask import WAYS, ask
from tests.hostile.operations import Place, document, places, roots, variables
from tests.hostile.rows import ELSEWHERE, OWNER_ELSEWHERE, PUBLIC, ROWS, World, make_world
from tests.rest.talk import legacy
from tests.server import ROOT, Server

PLACES = {str(place): place for place in places()}
OPTIONAL = {"externalId", "idempotencyKey", "parentId", "headMessageId"}
CASES = [(name, kind) for name in ROWS if name in PLACES for kind in ROWS[name]]


def test_every_place_that_takes_an_id_has_its_row() -> None:
    told = "add it to ROWS in tests/hostile/rows.py with the kinds of id that it takes (a new kind: a field of World)"
    assert set(PLACES) - set(ROWS) - set(ELSEWHERE) == set(), told
    assert (set(ROWS) | set(ELSEWHERE)) - set(PLACES) == set(), "these are gone from the schema: strike them out"


def test_what_is_tested_elsewhere_is() -> None:
    for told in (*ELSEWHERE.values(), *OWNER_ELSEWHERE.values()):
        name, _, rest = told.partition(":")
        text = (ROOT / "tests" / f"{name}.py").read_text(encoding="utf-8")
        for function in re.findall(r"test_\w+", rest):
            assert f"def {function}(" in text, told


def unknown(known: str) -> str:
    """An id of the same looks that nobody has."""
    prefix, _, rest = known.partition("_")
    return new_id(prefix) if len(rest) == 26 else "-".join(["nobody", *known.split("-")[1:]])


def payload(place: Place, target: str, own: World) -> Json:
    """A request that aims at `target`, and is the asker's own in all else."""
    ids = {other.path: own.of(ROWS[str(other)][0]) for other in beside(place)}
    given = variables(place.kind, place.field, {**ids, place.path: target})
    return {"query": document(place.kind, place.field, given), "variables": given}


def beside(place: Place) -> list[Place]:
    """The other ids that the same operation needs."""
    same = [other for other in PLACES.values() if (other.kind, other.field) == (place.kind, place.field)]
    return [other for other in same if other.path != place.path and other.path[-1] not in OPTIONAL]


@pytest.mark.parametrize(("name", "what"), CASES)
async def test_somebody_elses_is_like_nobodys(
    server: Server,
    client: httpx.AsyncClient,
    viewer: Graph,
    viewer_account: Account,
    stranger: Graph,
    stranger_account: Account,
    name: str,
    what: str,
) -> None:
    place = PLACES[name]
    theirs = await make_world(viewer, viewer_account)
    own = [await make_world(stranger, stranger_account) for _ in range(2)] if beside(place) else [theirs, theirs]
    target, nobodys = theirs.of(what), unknown(theirs.of(what))

    async def answers(token: str | None, key: str, world: World) -> list[str]:
        request = payload(place, key, world)
        found = [(await ask(way, server, client, token, request)).replace(key, "ID") for way in WAYS]
        return [_plain(text, world) for text in found]

    async with asyncio.TaskGroup() as group:
        asked = [
            group.create_task(answers(token, key, world))
            for token in (None, stranger_account.token)
            for key, world in ((target, own[0]), (nobodys, own[1]))
        ]
    anonymous, for_nobodys, refused, for_unknown = (task.result() for task in asked)
    assert anonymous == for_nobodys
    assert all("UNAUTHENTICATED" in text or "null" in text or "406" in text for text in anonymous), anonymous
    assert refused == for_unknown
    if what == ROWS[name][0] and name not in OWNER_ELSEWHERE:
        way = "events" if place.kind == "Subscription" else "json"
        answer = await ask(way, server, client, viewer_account.token, payload(place, target, theirs))
        assert "errors" not in answer, "the owner is answered"
        assert "null" not in answer, "the owner is answered"


def _plain(text: str, world: World) -> str:
    """Without the asker's own ids, which differ from one question to the next."""
    for value in vars(world).values():
        text = text.replace(value, "OWN")
    return text


@pytest.mark.parametrize(("kind", "name"), [root for root in roots() if ".".join(root) not in PUBLIC])
async def test_whoever_is_nobody_is_told_so(server: Server, client: httpx.AsyncClient, kind: str, name: str) -> None:
    given = variables(kind, name, {})
    request = {"query": document(kind, name, given), "variables": given}
    for way in WAYS[1:] if kind == "Subscription" else WAYS:
        answer = await ask(way, server, client, None, request)
        assert '"code":"UNAUTHENTICATED"' in answer, f"{way}: if anyone may ask for it, say why in PUBLIC (rows.py)"


def test_what_is_public_exists() -> None:
    assert set(PUBLIC) <= {".".join(root) for root in roots()}


# REST and the legacy socket.

OPEN = {
    "get /": "where everything is",
    "get /health": "whether it works",
    "post /api/auth/register": "how one becomes somebody",
    "post /api/auth/login": "how one becomes somebody",
    "post /api/auth/oauth/token": "how one becomes somebody",
}
"""The routes that anyone may ask for, and why. All others say 401."""
BODIES: dict[str, Json] = {"put": {"title": "mine now", "messages": []}}
REST_ROWS = {
    "get /api/conversations/{conversation_id}": ("conversation", "external"),
    "put /api/conversations/{conversation_id}": ("conversation", "external"),
    "delete /api/conversations/{conversation_id}": ("conversation", "external"),
}
"""The routes with something of somebody's in their path, and the kinds of id that it may be."""
NOT_SOMEBODYS = {
    "get /api/auth/oauth/{provider}": "Google or GitHub",
    "get /api/auth/oauth/{provider}/callback": "Google or GitHub",
}
"""Routes whose path names something that is nobody's own, and what."""


async def operations(client: httpx.AsyncClient) -> list[str]:
    paths = (await client.get("/openapi.json")).json()["paths"]
    return [f"{method} {path}" for path, methods in paths.items() for method in methods]


async def test_every_route_with_an_id_has_its_row(client: httpx.AsyncClient) -> None:
    with_id = {name for name in await operations(client) if "{" in name}
    told = "add it to REST_ROWS, or to NOT_SOMEBODYS with the reason"
    assert with_id - set(REST_ROWS) - set(NOT_SOMEBODYS) == set(), told
    assert (set(REST_ROWS) | set(NOT_SOMEBODYS)) - with_id == set(), "these are gone: strike them out"


async def test_every_route_asks_for_a_token(client: httpx.AsyncClient) -> None:
    """Before it looks at anything else: the body, or whether there is such an id."""
    for name in await operations(client):
        method, path = name.split()
        if name not in OPEN and name not in NOT_SOMEBODYS:
            answer = await client.request(method, re.sub(r"\{.*?\}", "anything", path))
            assert (answer.status_code, answer.json()) == (401, {"detail": "未授权"}), f"{name}: else say why in OPEN"


@pytest.mark.parametrize(("name", "what"), [(name, what) for name, kinds in REST_ROWS.items() for what in kinds])
async def test_somebody_elses_is_like_nobodys_over_rest(
    client: httpx.AsyncClient,
    viewer: Graph,
    viewer_account: Account,
    stranger_account: Account,
    name: str,
    what: str,
) -> None:
    method, path = name.split()
    theirs = await make_world(viewer, viewer_account)

    async def answer(key: str, account: Account | None) -> tuple[int, list[tuple[str, str]], str]:
        address = re.sub(r"\{.*?\}", key, path)
        headers = {} if account is None else account.headers
        got = await client.request(method, address, json=BODIES.get(method), headers=headers)
        shown = [(header, value) for header, value in got.headers.items() if header != "date"]
        return got.status_code, shown, got.text.replace(key, "ID")

    target, nobodys = theirs.of(what), unknown(theirs.of(what))
    assert await answer(target, None) == await answer(nobodys, None)
    refused = await answer(target, stranger_account)
    assert refused == await answer(nobodys, stranger_account)
    assert refused[0] == 404
    assert (await answer(target, viewer_account))[0] == 200, "the owner is answered"


async def test_somebody_elses_legacy_socket_is_like_nobodys(
    server: Server, stranger_account: Account, viewer_account: Account
) -> None:
    """Guests may open any id without a token, as the guide has it: whoever shows one, his own alone."""
    closed = []
    for key in (viewer_account.id, unknown(viewer_account.id)):
        async with legacy(server, key, f"?token={stranger_account.token}") as socket:
            closed.append(await socket.closed())
    assert closed[0] == closed[1]
    assert closed[0][0] == 4403


def test_every_socket_is_known() -> None:
    """One more needs its row above, and its place in the tests of bad tokens and of damaged frames."""
    found = create_app(Settings(_env_file=None)).router.routes
    routes = [inner for route in found for inner in _unfolded(route)]
    sockets = {route.path for route in routes if isinstance(route, WebSocketRoute | APIWebSocketRoute)}
    assert sockets == {"/graphql", "/ws/{user_id}"}


def _unfolded(route: BaseRoute) -> list[BaseRoute]:
    router = getattr(route, "original_router", None)
    return [route] if router is None else list(router.routes)
