"""What users say and what lets them in is in no log and in nobody else's answer: a whole run at LOG_LEVEL=debug, over
every way in, with log-ins that fail, broken requests, a provider that repeats what it was sent, and a broken database.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import connect

from tests.conftest import StartServer
from tests.graph.client import dial, open_socket
from tests.graph.documents import CHAT, CHAT_STREAM, CREATE, SEND, chat
from tests.graph.http_client import Graph, Refused
from tests.rest.talk import conversation, legacy, message
from tests.server import Server

PASSWORD = "pass-unseen-word"
WRONG = "wrong-unseen-word"
EMAIL = "unseen.address@example.com"
TEXT = "unseen message text"
KEY = "sk-unseen-provider-key"
PRIVATE = (PASSWORD, WRONG, EMAIL, "unseen.address", TEXT, "unseen", KEY)
INSIDE = ("Traceback", "sqlalchemy", "sqlite3", "INSERT INTO", "/models/", ".py", KEY)
"""What no answer may hold."""


class Echo(BaseHTTPRequestHandler):
    """A provider that fails in many ways and repeats the request, and the key, each time."""

    number = 0

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        told = json.dumps({"error": {"message": f"no: {body} {self.headers['Authorization']}", "type": "x"}})
        Echo.number += 1
        status, kind = ((400, "json"), (500, "json"), (401, "json"), (200, "event-stream"))[Echo.number % 4]
        content = f"data: {told}\n\ndata: nonsense {told}\n\n" if status == 200 else told
        self.send_response(status)
        self.send_header("Content-Type", "text/event-stream" if status == 200 else f"application/{kind}")
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(content.encode())

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def echoing() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Echo) as provider:
        thread = threading.Thread(target=provider.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{provider.server_address[1]}/v1"
        finally:
            provider.shutdown()
            thread.join()


LOGIN = "mutation ($input: LoginInput!) { login(input: $input) { user { id } } }"
REGISTER = "mutation ($input: RegisterInput!) { register(input: $input) { accessToken user { id email } } }"


async def come_in(client: httpx.AsyncClient) -> tuple[str, str]:
    """The new user's id and token, and all that may go wrong on the way."""
    who = {"username": "somebody", "email": EMAIL, "password": PASSWORD}
    data = await Graph(client).data(REGISTER, input=who)
    await client.post("/api/auth/register", json={**who, "email": "unseen at nothing"})
    await client.post("/api/auth/register", json={**who, "username": "other"})
    for body in (who, {**who, "password": WRONG}, {"username": PASSWORD, "password": "x" * 9}, {"username": EMAIL}):
        await client.post("/api/auth/login", json=body)
        await Graph(client).answer(LOGIN, input=body)
    await Graph(client).answer(LOGIN, input={"username": "x", "password": [WRONG]})
    await Graph(client).answer(LOGIN, input={"username": "x", "password": "y" * 9, WRONG: 1})
    inlined = f'mutation {{ login(input: {{ username: "somebody", password: "{PASSWORD}" }}) {{ user {{ id }} }} }}'
    await client.post("/graphql", json={"query": inlined + " }"})
    await client.get("/graphql", params={"query": inlined})
    await client.post("/api/auth/login", content=json.dumps(who)[:-1], headers={"Content-Type": "application/json"})
    await client.post("/api/auth/login", data=who)
    register = data["register"]
    return register["user"]["id"], register["accessToken"]


async def talk(client: httpx.AsyncClient, server: Server, user: str, token: str) -> None:
    headers = {"Authorization": f"Bearer {token}"}
    graph = Graph(client, token)
    for model in ("scripted", "gpt-4o", "gpt-4o", "gpt-4o", "gpt-4o"):
        body = {"messages": [message(TEXT)], "model": model}
        for stream in (False, True):
            await client.post("/api/chat", json={**body, "stream": stream}, headers=headers)
        await graph.answer(CHAT, input=chat(TEXT, model=model))
        async with legacy(server, user, f"?%74oken={token}") as socket:
            await socket.chat(TEXT, model=model)
        async with open_socket(server, token) as socket_:
            with suppress(Refused):
                _ = [data async for data in socket_.events(CHAT_STREAM, input=chat(TEXT, model=model))]
        made = (await graph.data(CREATE, input={"title": TEXT, "systemPrompt": TEXT}))["createConversation"]
        sent = {"conversationId": made["conversation"]["id"], "content": TEXT, "model": model}
        await graph.data(SEND, input=sent)
    async with connect(f"{server.ws}/ws/{user}", subprotocols=["bearer", token], proxy=None) as raw:  # type: ignore[list-item]
        for frame in (
            TEXT,
            json.dumps([TEXT]),
            json.dumps({"type": TEXT}),
            TEXT.encode(),
            json.dumps({"type": "chat"}),
        ):
            await raw.send(frame)
            await raw.recv()
    await client.post("/api/conversations", json=conversation(title=TEXT, messages=[message(TEXT)]), headers=headers)
    await client.post("/api/conversations", content=TEXT, headers=headers)
    await client.post("/api/conversations", json=conversation(title=[TEXT], messages=TEXT), headers=headers)
    await client.get("/api/conversations", params={"token": token, "x": TEXT}, headers=headers)


async def break_things(client: httpx.AsyncClient, server: Server, token: str) -> list[str]:
    """Frames that are none, and a database without its table; the answers."""
    for frame in (f'{{"type": "{TEXT}"}}', f'{{"type": "subscribe", "payload": "{TEXT}"}}', TEXT, b"\xff\xfe"):
        async with dial(server) as raw:
            await raw.send(frame)
            await raw.wait_closed()
    with closing(sqlite3.connect(server.data_dir / "chat.db", timeout=10)) as database, database:
        database.execute("ALTER TABLE message RENAME TO unseen_table")
    headers = {"Authorization": f"Bearer {token}"}
    body = conversation(id="broken", title=TEXT, messages=[message(TEXT)])
    answers = [
        await client.post("/api/conversations", json=body, headers=headers),
        await client.get("/api/conversations", headers=headers),
        await client.post(
            "/graphql",
            json={"query": CREATE, "variables": {"input": {"messages": [{"role": "USER", "content": TEXT}]}}},
            headers=headers,
        ),
    ]
    return [answer.text for answer in answers]


async def test_a_whole_run_leaves_nothing_private_in_the_log(start_server: StartServer) -> None:
    with echoing() as provider:
        server = start_server(
            LOG_LEVEL="debug", OPENAI_API_KEY=KEY, OPENAI_BASE_URL=provider, RETRIES="0", MODEL_FALLBACK="none"
        )
        answers: list[str] = []

        async def keep(response: httpx.Response) -> None:
            if response.status_code >= 400:
                answers.append((await response.aread()).decode())

        async with httpx.AsyncClient(base_url=server.url, timeout=30, event_hooks={"response": [keep]}) as client:
            user, token = await come_in(client)
            await talk(client, server, user, token)
            broken = await break_things(client, server, token)
        server.stop()
    assert Echo.number > 4, "the provider was asked"
    log = server.log()
    assert "DEBUG" in log
    assert "no such table" in log, "what broke is in the log"
    for private in (*PRIVATE, token, token.rpartition(".")[2]):
        lines = [line for line in log.splitlines() if private in line and "unseen_table" not in line]
        assert lines == [], private
    for answer in (*answers, *broken):
        assert [inside for inside in INSIDE if inside in answer] == [], answer
    assert all("request" in answer and "Something went wrong" in answer for answer in broken), broken
    request_ids = [part.split(")")[0] for answer in broken for part in answer.split("(request ")[1:]]
    assert all(f"request {number}" in log for number in request_ids)


@pytest.mark.parametrize("path", ["/api/auth/login", "/graphql"])
async def test_a_password_is_not_repeated_to_whoever_sent_it(client: httpx.AsyncClient, path: str) -> None:
    """A front end's own error reports hold what it was answered."""
    wrong: list[dict[str, Any]] = [
        {"username": "x", "password": [PASSWORD]},
        {"username": "x", "password": {"p": PASSWORD}},
        {"username": "x", "password": "y" * 9, "pass": PASSWORD},
    ]
    for body in wrong:
        asked = body if path != "/graphql" else {"query": LOGIN, "variables": {"input": body}}
        answer = await client.post(path, json=asked)
        assert PASSWORD not in answer.text
