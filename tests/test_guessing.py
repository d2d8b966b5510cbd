"""Guessing passwords, over all the ways in and two server processes together."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from tests.conftest import Account, StartServer, register_on
from tests.graph.client import open_socket
from tests.graph.http_client import Graph, Refused
from tests.server import Server

LOGIN = "mutation ($input: LoginInput!) { login(input: $input) { user { id } } }"


def login(server: Server, account: Account, password: str = "a guess", **headers: str) -> httpx.Response:
    body = {"username": account.username, "password": password}
    return httpx.post(f"{server.url}/api/auth/login", json=body, headers=headers, timeout=30)


def register(server: Server, name: str, **headers: str) -> int:
    body = {"username": name, "email": f"{name}@example.com", "password": "password123"}
    return httpx.post(f"{server.url}/api/auth/register", json=body, headers=headers, timeout=30).status_code


async def aliases(server: Server, account: Account, count: int) -> list[str]:
    """The codes of so many attempts in one document."""
    fields = " ".join(f"a{number}: login(input: $input) {{ user {{ id }} }}" for number in range(count))
    body = {
        "query": f"mutation ($input: LoginInput!) {{ {fields} }}",
        "variables": {"input": {"username": account.username, "password": "a guess"}},
    }
    async with httpx.AsyncClient(base_url=server.url, timeout=30) as client:
        answer = (await client.post("/graphql", json=body)).json()
    return [error["extensions"]["code"] for error in answer["errors"]]


async def test_ten_guesses_a_minute_over_all_ways_together(start_server: StartServer, tmp_path: Path) -> None:
    first, second = (start_server(tmp_path / "shared", RATE_LIMITS="on") for _ in range(2))
    account, bystander = register_on(first), register_on(first)

    assert [login(first, account).status_code for _ in range(2)] == [401, 401]
    async with httpx.AsyncClient(base_url=second.url, timeout=30) as client:
        asked = {"username": account.username.upper(), "password": "a guess"}
        assert await Graph(client).code(LOGIN, input=asked) == "INVALID_CREDENTIALS"
    async with open_socket(first) as socket:
        with pytest.raises(Refused) as caught:
            await socket.data(LOGIN, input=asked)
        assert caught.value.code == "INVALID_CREDENTIALS"
    # A mutation with a field that may not be null: the first failure is the document's, so one for each document.
    codes = [code for _ in range(6) for code in await aliases(second, account, 3)]
    assert set(codes) == {"INVALID_CREDENTIALS"}

    refused = login(second, account, account.password)
    assert refused.status_code == 429
    assert 0 < int(refused.headers["Retry-After"]) <= 60
    async with httpx.AsyncClient(base_url=first.url, timeout=30) as client:
        right = {"username": account.username, "password": account.password}
        error = await Graph(client).error(LOGIN, input=right)
        assert error["code"] == "RATE_LIMITED"
        assert 0 < error["retryAfter"] <= 60
        answer = await client.post("/graphql", json={"query": LOGIN, "variables": {"input": right}})
        assert 0 < int(answer.headers["Retry-After"]) <= 60
        me = await client.get("/api/auth/me", headers=account.headers)
        assert me.status_code == 200, "who is in stays in"
    async with open_socket(second) as socket:
        with pytest.raises(Refused) as caught:
            await socket.data(LOGIN, input=right)
        assert caught.value.code == "RATE_LIMITED"
    assert login(second, bystander, bystander.password).status_code == 200


def test_an_address_is_the_connection_s_unless_a_trusted_proxy_says_otherwise(start_server: StartServer) -> None:
    """Otherwise whoever guesses writes another address into every request."""
    limits = {"RATE_LIMITS": "on", "ADDRESS_LOGINS_PER_MINUTE": "2", "ADDRESS_REGISTRATIONS_PER_MINUTE": "2"}
    alone = start_server(**limits)
    forwarded = [{"X-Forwarded-For": f"192.0.2.{number}"} for number in range(3)]
    assert [register(alone, f"u{n}", **headers) for n, headers in enumerate(forwarded)] == [200, 200, 429]
    nobody = Account("nobody", "", "", "")
    assert [login(alone, nobody, **headers).status_code for headers in forwarded] == [401, 401, 429]

    behind = start_server(**limits, TRUSTED_PROXIES="127.0.0.0/8")
    assert [register(behind, f"u{n}", **headers) for n, headers in enumerate(forwarded)] == [200, 200, 200]
    # What the client itself wrote stands in front of what the proxy saw.
    lying = [{"X-Forwarded-For": f"198.51.100.{number}, 192.0.2.9"} for number in range(3)]
    assert [register(behind, f"v{n}", **headers) for n, headers in enumerate(lying)] == [200, 200, 429]
