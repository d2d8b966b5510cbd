"""What somebody else's page may do with a user's browser: nothing. There are no cookies; these hold all the same."""

from __future__ import annotations

import httpx
import pytest

from tests.conftest import Account
from tests.graph.documents import CREATE
from tests.graph.http_client import Graph
from tests.hostile.ask import ask
from tests.rest.talk import conversation
from tests.server import Server

OURS, EVIL = "http://localhost:3000", ["https://evil.example", "null", "http://localhost:3000.evil.example"]
PATHS = ["/graphql", "/api/conversations", "/api/auth/login", "/api/chat"]


def preflight(origin: str) -> dict[str, str]:
    return {
        "Origin": origin,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type",
    }


@pytest.mark.parametrize("path", PATHS)
async def test_only_listed_origins_may_ask_and_read(client: httpx.AsyncClient, path: str) -> None:
    allowed = await client.options(path, headers=preflight(OURS))
    assert allowed.status_code == 200
    assert allowed.headers["access-control-allow-origin"] == OURS
    for origin in EVIL:
        refused = await client.options(path, headers=preflight(origin))
        assert refused.status_code == 400
        assert "access-control-allow-origin" not in refused.headers
        read = await client.get(path, headers={"Origin": origin})
        assert "access-control-allow-origin" not in read.headers
        assert "origin" in read.headers.get("vary", "").lower(), "or a cache would hand one origin's answer to another"


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"])
async def test_what_a_form_may_send_without_asking_does_nothing(
    client: httpx.AsyncClient, account: Account, kind: str
) -> None:
    headers = {**account.headers, "Content-Type": kind, "Origin": EVIL[0]}
    body = httpx.Request("POST", "http://x", json=conversation(id="forged")).content
    assert (await client.post("/api/conversations", content=body, headers=headers)).status_code == 422
    mutation = httpx.Request("POST", "http://x", json={"query": CREATE, "variables": {"input": {}}}).content
    assert (await client.post("/graphql", content=mutation, headers=headers)).status_code == 415
    assert (await client.get("/api/conversations", headers=account.headers)).json() == []


async def test_a_token_in_an_address_counts_on_the_legacy_socket_alone(
    server: Server, client: httpx.AsyncClient, account: Account
) -> None:
    """Addresses are in histories, logs and Referer headers."""
    for name in ("token", "access_token", "authorization"):
        assert (await client.get("/api/stats", params={name: account.token})).status_code == 401
        answer = await client.get("/graphql", params={name: account.token, "query": "{ me { id } }"})
        assert answer.json() == {"data": {"me": None}}
    assert '"me":null' in await ask("socket", server, client, None, {"query": "{ me { id } }"})
    assert (await Graph(client, account.token).data("{ me { id } }"))["me"]["id"] == account.id


async def test_no_cookie_is_ever_set_or_looked_at(client: httpx.AsyncClient, account: Account) -> None:
    body = {"username": account.username, "password": account.password}
    answer = await client.post("/api/auth/login", json=body)
    assert "set-cookie" not in answer.headers
    cookies = {"Cookie": f"token={account.token}; session={account.token}; Authorization=Bearer {account.token}"}
    assert (await client.get("/api/stats", headers=cookies)).status_code == 401
