"""deploy/nginx.conf, run by nginx: what a proxy usually breaks is whole behind it."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Iterator
from itertools import pairwise

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Origin

from tests.conftest import Account, register_on
from tests.deploy.nginx import SITE, Nginx, nginx
from tests.graph.client import open_socket
from tests.graph.documents import CHAT_STREAM, chat
from tests.graph.http_client import Graph
from tests.server import Server, running

SLOW = "scripted:every=0.05,words=60"
"""Three seconds."""
WORDS = " ".join(f"w{number}" for number in range(60))


@pytest.fixture(scope="module")
def backend(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("backend")
    with running(folder, RATE_LIMITS="on", ADDRESS_LOGINS_PER_MINUTE="3", TRUSTED_PROXIES="127.0.0.1") as server:
        yield server


@pytest.fixture(scope="module")
def proxy(backend: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    with nginx(tmp_path_factory.mktemp("nginx") / "run", backend) as started:
        yield started


@pytest.fixture(scope="module")
def account(proxy: Nginx) -> Account:
    return register_on(proxy)


async def by_socket(proxy: Nginx, account: Account, model: str) -> str:
    """The text of an answer over graphql-transport-ws."""
    async with open_socket(proxy, account.token) as socket:
        events = [data["chat"] async for data in socket.events(CHAT_STREAM, input=chat(model=model))]
    return "".join(event.get("text", "") for event in events)


async def by_sse(proxy: Nginx, account: Account, model: str) -> tuple[str, list[float]]:
    """The text of an answer by server-sent events, and when each piece of it came."""
    text, moments = "", []
    async with httpx.AsyncClient(base_url=proxy.url, timeout=30) as http:
        async for data in Graph(http, account.token).events(CHAT_STREAM, input=chat(model=model)):
            if "text" in data["chat"]:
                text += data["chat"]["text"]
                moments.append(time.monotonic())
    return text, moments


async def test_graphql_sockets_and_events_pass_as_they_come(proxy: Nginx, account: Account) -> None:
    """A proxy that gathers would show nothing for three seconds, then everything."""
    (text, moments), over_socket = await asyncio.gather(by_sse(proxy, account, SLOW), by_socket(proxy, account, SLOW))
    assert text.split() == over_socket.split() == WORDS.split()
    assert moments[-1] - moments[0] > 2
    gaps = [later - earlier for earlier, later in pairwise(moments)]
    assert max(gaps) < 1, gaps


async def test_rests_stream_passes_as_it_comes(proxy: Nginx, account: Account) -> None:
    body = {"messages": [{"id": "1", "role": "user", "content": "hi", "timestamp": 1}], "model": SLOW, "stream": True}
    moments = []
    async with (
        httpx.AsyncClient(base_url=proxy.url, headers=account.headers, timeout=30) as http,
        http.stream("POST", "/api/chat", json=body) as answer,
    ):
        async for line in answer.aiter_lines():
            moments += [time.monotonic()] if "chat_chunk" in line else []
    assert moments[-1] - moments[0] > 2


async def test_the_legacy_socket_passes(proxy: Nginx, account: Account) -> None:
    async with connect(f"{proxy.ws}/ws/{account.id}?token={account.token}") as socket:
        await socket.send(json.dumps({"type": "ping"}))
        assert json.loads(await socket.recv())["type"] == "pong"
        await socket.send(json.dumps({"type": "chat", "content": "one two"}))
        kinds: list[str] = []
        while not kinds or kinds[-1] != "chat_complete":
            kinds.append(json.loads(await asyncio.wait_for(socket.recv(), 10))["type"])
    assert "chat_chunk" in kinds


async def test_a_reload_in_mid_answer_loses_nothing(proxy: Nginx, account: Account) -> None:
    """A certificate is renewed every few weeks; those who read must not notice."""
    reading = asyncio.gather(by_sse(proxy, account, SLOW), by_socket(proxy, account, SLOW))
    await asyncio.sleep(0.7)
    assert not reading.done()
    await asyncio.to_thread(proxy.reload)
    (text, _), over_socket = await reading
    assert text.split() == over_socket.split() == WORDS.split()


def login(proxy: Nginx, address: str, **headers: str) -> int:
    transport = httpx.HTTPTransport(local_address=address)
    with httpx.Client(base_url=proxy.url, transport=transport, headers=headers) as client:
        body = {"username": f"nobody{time.monotonic_ns()}", "password": "wrong password"}
        return client.post("/api/auth/login", json=body).status_code


def test_clients_keep_their_addresses_and_cannot_choose_others(proxy: Nginx) -> None:
    """Behind a proxy that is not told of, all the world is one address; who believes any header has none at all."""
    assert [login(proxy, "127.0.0.2") for _ in range(4)] == [401, 401, 401, 429]
    assert login(proxy, "127.0.0.3") == 401
    assert login(proxy, "127.0.0.2", **{"X-Forwarded-For": "203.0.113.9"}) == 429


def test_bodies_are_bounded_by_the_server_and_before_it(proxy: Nginx, account: Account) -> None:
    with httpx.Client(base_url=proxy.url, headers=account.headers, timeout=30) as client:
        refused = client.post("/api/chat", json={"messages": [{"content": "x" * 2_000_000}]})
        assert (refused.status_code, "detail" in refused.json()) == (413, True)
        messages = [{"id": str(n), "role": "user", "content": "x" * 90_000, "timestamp": 1} for n in range(40)]
        body = {"id": "large", "title": "t", "messages": messages, "model": "m"}
        assert client.post("/api/conversations", json=body).status_code == 200
        huge = client.post("/api/conversations", content=b"x" * (17 * 1024 * 1024))
        assert (huge.status_code, "nginx" in huge.text) == (413, True)


async def test_a_page_may_open_a_socket_under_the_name_that_it_was_loaded_from(proxy: Nginx, account: Account) -> None:
    """Its Origin has the port, as the Host has to have then; and nobody can claim to have come by HTTPS."""
    address = f"{proxy.ws}/ws/{account.id}"
    async with connect(address, origin=Origin(proxy.url)) as socket:
        await socket.send(json.dumps({"type": "ping"}))
        assert json.loads(await socket.recv())["type"] == "pong"
    with pytest.raises((InvalidStatus, ConnectionClosed)):
        async with connect(address, origin=Origin("http://127.0.0.1:1")) as socket:
            await socket.recv()
    async with httpx.AsyncClient(base_url=proxy.url, headers={"X-Forwarded-Proto": "https"}) as client:
        assert "strict-transport-security" not in (await client.get("/")).headers


def test_waits_are_as_long_as_those_of_the_guide() -> None:
    """Its /ws/ waits for a day; nginx's own 60 s would end every answer of a model that thinks longer."""
    found = re.search(r"proxy_read_timeout (\d+)s;", SITE.read_text(encoding="utf-8"))
    assert found is not None
    assert int(found[1]) == 86_400


@pytest.mark.soak
async def test_an_idle_socket_stays_open(proxy: Nginx, account: Account) -> None:
    """Longer than nginx's default of 60 s."""
    async with open_socket(proxy, account.token) as socket, connect(f"{proxy.ws}/ws/{account.id}") as legacy:
        await asyncio.sleep(75)
        events = [data["chat"] async for data in socket.events(CHAT_STREAM, input=chat(model="scripted"))]
        assert events[-1]["__typename"] == "RunFinished"
        await legacy.send(json.dumps({"type": "ping"}))
        assert json.loads(await asyncio.wait_for(legacy.recv(), 5))["type"] == "pong"
