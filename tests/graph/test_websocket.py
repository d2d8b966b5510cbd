"""graphql-transport-ws, message by message: what a client may do, and the code that each mistake is closed with."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress

import pytest
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed, InvalidStatus

from auth.tokens import Tokens
from tests.conftest import Account, StartServer, register_on
from tests.graph.client import Socket, dial, open_socket
from tests.graph.documents import CHAT, CHAT_STREAM, CREATE, FOLLOW, SLOW, chat, create, start, text_of
from tests.graph.http_client import Graph, Json, Refused
from tests.server import SECRET, Server

INIT = {"type": "connection_init"}
ACK = {"type": "connection_ack"}
ME = "{ me { id } }"
TYPENAME = {"query": "{ __typename }"}
SECONDS = 5


@pytest.fixture(autouse=True, scope="module")
def _no_traceback(server: Server) -> Iterator[None]:
    """A client's mistake is never the server's failure."""
    yield
    assert "Traceback" not in server.log()


@asynccontextmanager
async def acknowledged(server: Server, payload: Json | None = None) -> AsyncIterator[ClientConnection]:
    async with dial(server) as connection:
        await say(connection, {**INIT, "payload": payload or {}})
        assert await heard(connection) == ACK
        yield connection


async def say(connection: ClientConnection, message: object) -> None:
    await connection.send(json.dumps(message))


async def heard(connection: ClientConnection) -> Json:
    frame = await asyncio.wait_for(connection.recv(), SECONDS)
    assert isinstance(frame, str), "graphql-ws refuses binary frames"
    message: Json = json.loads(frame)
    return message


async def closed(connection: ClientConnection) -> tuple[int | None, str | None]:
    """Code and reason that the server closes with; what it still says before is skipped."""
    with suppress(ConnectionClosed):
        async with asyncio.timeout(SECONDS):
            while True:
                await connection.recv()
    return connection.close_code, connection.close_reason


async def answer_to(connection: ClientConnection, key: str, payload: Json) -> list[Json]:
    """The messages of one operation, to its end."""
    await say(connection, {"id": key, "type": "subscribe", "payload": payload})
    messages = [await heard(connection)]
    while messages[-1]["type"] == "next":
        messages.append(await heard(connection))
    assert {message["id"] for message in messages} == {key}
    return messages


async def test_the_handshake_picks_the_one_protocol(server: Server) -> None:
    async with dial(server) as connection:
        assert connection.subprotocol == "graphql-transport-ws"


@pytest.mark.parametrize("protocol", [None, "graphql-ws", "soap"])
async def test_4406_without_the_protocol(server: Server, protocol: str | None) -> None:
    """The older graphql-ws protocol has other messages: accepting it would fail later and more strangely."""
    async with dial(server, protocol) as connection:
        assert await closed(connection) == (4406, "Subprotocol not acceptable")


@pytest.mark.parametrize("init", [INIT, {**INIT, "payload": None}, {**INIT, "payload": {}}])
async def test_init_is_acknowledged_and_anonymous_without_a_token(server: Server, init: Json) -> None:
    async with dial(server) as connection:
        await say(connection, init)
        assert await heard(connection) == ACK
        assert await answer_to(connection, "1", {"query": ME}) == [
            {"id": "1", "type": "next", "payload": {"data": {"me": None}}},
            {"id": "1", "type": "complete"},
        ]


@pytest.mark.parametrize("name", ["authorization", "Authorization", "AUTHORIZATION"])
@pytest.mark.parametrize("scheme", ["Bearer ", "bearer  ", ""])
async def test_the_token_is_found_however_it_is_written(
    server: Server, viewer_account: Account, name: str, scheme: str
) -> None:
    """GraphiQL copies its header editor into the payload, other clients write the token as they like."""
    async with acknowledged(server, {name: f"{scheme}{viewer_account.token}"}) as connection:
        (message, _) = await answer_to(connection, "1", {"query": ME})
        assert message["payload"]["data"]["me"]["id"] == viewer_account.id


async def test_a_token_in_the_handshakes_header_counts_too(server: Server, viewer_account: Account) -> None:
    async with dial(server, additional_headers=viewer_account.headers) as connection:
        await say(connection, INIT)
        assert await heard(connection) == ACK
        (message, _) = await answer_to(connection, "1", {"query": ME})
        assert message["payload"]["data"]["me"]["id"] == viewer_account.id


@pytest.mark.parametrize("token", ["nonsense", "Bearer nonsense", "Bearer a.b.c", "é", "x" * 5000])
async def test_4401_a_token_that_is_none(server: Server, token: str) -> None:
    async with dial(server) as connection:
        await say(connection, {**INIT, "payload": {"authorization": token}})
        assert (await closed(connection))[0] == 4401


async def test_4401_a_token_whose_user_never_was(server: Server) -> None:
    async with dial(server) as connection:
        token = Tokens(SECRET, 30).issue("user_never", "sess_never")
        await say(connection, {**INIT, "payload": {"authorization": token}})
        assert (await closed(connection))[0] == 4401


async def test_4400_a_token_that_is_no_text(server: Server) -> None:
    async with dial(server) as connection:
        await say(connection, {**INIT, "payload": {"authorization": 5}})
        assert (await closed(connection))[0] == 4400


def token_for(account: Account, seconds: int) -> str:
    tokens = Tokens(SECRET, 30)
    tokens.lifetime = seconds
    return tokens.issue(account.id, account.session_id)


async def test_4403_a_token_that_was_once_good(server: Server, viewer_account: Account) -> None:
    """4403 and not 4401: graphql-ws comes back after it, with a new token."""
    async with dial(server) as connection:
        await say(connection, {**INIT, "payload": {"authorization": token_for(viewer_account, -1)}})
        assert await closed(connection) == (4403, "Token已过期")


async def test_4403_when_the_token_ends_while_the_socket_is_open(server: Server, viewer_account: Account) -> None:
    """Otherwise a token that was stolen, or taken back, is good for as long as its socket lives."""
    async with acknowledged(server, {"authorization": token_for(viewer_account, 2)}) as connection:
        listen = {"query": "subscription { typing { userId } }"}
        await say(connection, {"id": "1", "type": "subscribe", "payload": listen})
        begun = time.monotonic()
        assert await closed(connection) == (4403, "Token已过期")
        assert time.monotonic() - begun < 3


async def test_4401_operations_before_init(server: Server) -> None:
    async with dial(server) as connection:
        await say(connection, {"id": "1", "type": "subscribe", "payload": TYPENAME})
        assert await closed(connection) == (4401, "Unauthorized")


async def test_4408_no_init_in_time(start_server: StartServer) -> None:
    server = start_server(SOCKET_INIT_SECONDS="0.2")
    async with dial(server) as connection:
        assert await closed(connection) == (4408, "Connection initialisation timeout")
    async with dial(server) as connection:
        await say(connection, {"type": "ping"})
        assert (await closed(connection))[0] == 4408, "a ping does not count as one"
    async with acknowledged(server) as connection:
        await asyncio.sleep(0.4)
        assert await answer_to(connection, "1", TYPENAME), "once initialised there is no such limit"


async def test_4429_init_twice(server: Server) -> None:
    async with acknowledged(server) as connection:
        await say(connection, INIT)
        assert await closed(connection) == (4429, "Too many initialisation requests")


async def test_4409_an_id_that_is_in_use(server: Server, viewer: Graph) -> None:
    run = await start(viewer, SLOW)
    payload = {"query": FOLLOW, "variables": {"id": run["id"]}}
    async with acknowledged(server, {"authorization": viewer.token}) as connection:
        for _ in range(2):
            await say(connection, {"id": "same", "type": "subscribe", "payload": payload})
        assert await closed(connection) == (4409, "Subscriber for same already exists")


MALFORMED = {
    "not JSON": "{",
    "empty": "",
    "a number": "5",
    "null": "null",
    "a list": "[]",
    "no type": "{}",
    "type is null": '{"type": null}',
    "type is an object": '{"type": {}}',
    "unknown type": '{"type": "start"}',
    "server's own type": '{"type": "next", "id": "1", "payload": {}}',
    "payload is text": '{"type": "ping", "payload": "x"}',
    "payload is a list": '{"type": "ping", "payload": []}',
    "no id": '{"type": "subscribe", "payload": {"query": "{ __typename }"}}',
    "id is empty": '{"type": "subscribe", "id": "", "payload": {"query": "{ __typename }"}}',
    "id is a number": '{"type": "subscribe", "id": 1, "payload": {"query": "{ __typename }"}}',
    "id is an object": '{"type": "subscribe", "id": {}, "payload": {"query": "{ __typename }"}}',
    "id is too long": json.dumps({"type": "subscribe", "id": "x" * 129, "payload": TYPENAME}),
    "no payload": '{"type": "subscribe", "id": "1"}',
    "complete without id": '{"type": "complete"}',
    "complete of an object": '{"type": "complete", "id": {}}',
    "lone surrogate": '{"type": "ping", "payload": {"x": "\\ud800"}}',
    "binary": b'{"type": "ping"}',
}


@pytest.mark.parametrize("frame", MALFORMED.values(), ids=MALFORMED.keys())
async def test_4400_what_is_no_message(server: Server, frame: str | bytes) -> None:
    async with acknowledged(server) as connection:
        await connection.send(frame)
        assert (await closed(connection))[0] == 4400
    if frame not in {MALFORMED["no id"], MALFORMED["no payload"]} and "subscribe" not in str(frame):
        async with dial(server) as connection:
            await connection.send(frame)
            assert (await closed(connection))[0] == 4400, "before init as well"


@pytest.mark.parametrize("size", [256 * 1024 + 1, 5 * 1024 * 1024])
async def test_1009_a_frame_that_is_too_large(server: Server, size: int) -> None:
    async with acknowledged(server) as connection:
        with suppress(ConnectionClosed):
            await connection.send(json.dumps({"type": "ping", "payload": {"x": "é" * (size // 2)}}, ensure_ascii=False))
        assert (await closed(connection))[0] == 1009


async def test_a_frame_of_just_the_limit_is_read(server: Server) -> None:
    async with acknowledged(server) as connection:
        frame = '{"type":"ping","payload":{"x":""}}'
        await connection.send(frame.replace('""', f'"{"x" * (256 * 1024 - len(frame))}"'))
        assert await heard(connection) == {"type": "pong"}


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1:1", "https://localhost:3000"])
async def test_a_page_of_another_origin_is_turned_away(server: Server, origin: str) -> None:
    """A browser sends cookies and lets any page open a socket anywhere: only the Origin tells."""
    with pytest.raises(InvalidStatus) as refused:
        async with dial(server, origin=origin):
            pass
    assert refused.value.response.status_code == 403


async def test_our_own_and_the_listed_origins_may_come(server: Server) -> None:
    for origin in (server.url, "http://localhost:3000", "HTTP://LOCALHOST:3000"):
        async with dial(server, origin=origin) as connection:
            await say(connection, INIT)
            assert await heard(connection) == ACK


async def test_ping_is_answered_before_and_after_init(server: Server) -> None:
    async with dial(server) as connection:
        for payload in ({}, {"payload": None}, {"payload": {"any": "thing"}}):
            await say(connection, {"type": "ping", **payload})
            assert await heard(connection) == {"type": "pong"}
        await say(connection, INIT)
        assert await heard(connection) == ACK
        await say(connection, {"type": "pong", "payload": {"unasked": True}})
        await say(connection, {"type": "ping"})
        assert await heard(connection) == {"type": "pong"}


async def test_queries_and_mutations_go_over_the_socket_too(server: Server, viewer: Graph) -> None:
    async with open_socket(server, viewer.token) as socket:
        made = (await socket.data(CREATE, input={"title": "by socket"}))["createConversation"]["conversation"]
        assert made["title"] == "by socket"
        answer = (await socket.data(CHAT, input=chat("one two")))["chat"]
        assert answer["content"] == "one two "
    assert (await create(viewer))["id"] != made["id"]


async def test_an_id_is_free_again_after_its_end(server: Server, viewer: Graph) -> None:
    """After complete and after error, at once: clients count from 1 again for each operation."""
    async with acknowledged(server, {"authorization": viewer.token}) as connection:
        for _ in range(50):
            assert [message["type"] for message in await answer_to(connection, "1", TYPENAME)] == ["next", "complete"]
            assert [message["type"] for message in await answer_to(connection, "1", {"query": "{"})] == ["error"]


async def test_an_id_is_free_again_after_the_clients_complete(server: Server, viewer: Graph) -> None:
    run = await start(viewer, SLOW)
    payload = {"query": FOLLOW, "variables": {"id": run["id"]}}
    async with acknowledged(server, {"authorization": viewer.token}) as connection:
        await say(connection, {"id": "1", "type": "subscribe", "payload": payload})
        await heard(connection)
        await say(connection, {"id": "1", "type": "complete"})
        await say(connection, {"id": "1", "type": "subscribe", "payload": TYPENAME})
        while (message := await heard(connection))["type"] != "complete":
            assert message["id"] == "1"
        assert await answer_to(connection, "1", TYPENAME)
    await viewer.data("mutation ($id: ID!) { cancelRun(input: {runId: $id}) { run { id } } }", id=run["id"])


async def test_complete_of_what_has_ended_or_never_was_is_ignored(server: Server) -> None:
    """The client's complete and the server's cross on the way."""
    async with acknowledged(server) as connection:
        await answer_to(connection, "1", TYPENAME)
        for key in ("1", "never"):
            await say(connection, {"id": key, "type": "complete"})
        assert await answer_to(connection, "1", TYPENAME)
    async with dial(server) as connection:
        await say(connection, {"id": "1", "type": "complete"})
        await say(connection, INIT)
        assert await heard(connection) == ACK


BAD_OPERATIONS: list[Json] = [
    {},
    {"query": 5},
    {"query": ""},
    {"query": "{"},
    {"query": "{ nothing }"},
    {"query": "{ __typename }", "variables": []},
    {"query": "{ __typename }", "operationName": "other"},
    {"query": "{ __typename }", "operationName": 5},
    {"query": "query a { __typename } query b { __typename }"},
    {"query": "query ($id: ID!) { run(id: $id) { id } }"},
    {"query": "query ($id: ID!) { run(id: $id) { id } }", "variables": {"id": {}}},
    {"query": "subscription { runEvents(runId: 5.5) { seq } }"},
    {"query": "subscription { runEvents(runId: 1) { seq } typing { userId } }"},
    {"query": "fragment a on Query { me { id } }"},
]


async def test_a_bad_operation_fails_alone(server: Server, viewer: Graph) -> None:
    run = await start(viewer, "scripted:every=0.01,words=60")
    async with open_socket(server, viewer.token) as socket:
        following = asyncio.ensure_future(_texts(socket.events(FOLLOW, id=run["id"])))
        for payload in BAD_OPERATIONS:
            assert await _code_of(socket, payload) == "BAD_USER_INPUT", payload
        assert await following == "".join(f"w{number} " for number in range(60))


async def _code_of(socket: Socket, payload: Json) -> str:
    """What an operation is refused with: in an `error`, or, for its variables, in a result without data."""
    try:
        (result,) = [result async for result in socket.operate(payload)]
    except Refused as refused:
        return refused.code
    assert "data" not in result
    return Refused(result["errors"]).code


async def _texts(events: AsyncIterator[Json]) -> str:
    return text_of([data["runEvents"] async for data in events])


async def test_many_operations_share_one_socket(server: Server, viewer: Graph) -> None:
    runs = [await start(viewer, f"scripted:every=0.005,words={20 + number}") for number in range(8)]
    async with open_socket(server, viewer.token) as socket:
        texts = await asyncio.gather(*(_texts(socket.events(FOLLOW, id=run["id"])) for run in runs))
        assert [len(text.split()) for text in texts] == list(range(20, 28))


async def test_a_subscription_that_is_refused_is_an_error_not_a_silence(server: Server) -> None:
    async with open_socket(server) as socket:
        for query, variables in ((FOLLOW, {"id": "run_x"}), (CHAT_STREAM, {"input": chat()})):
            with pytest.raises(Refused) as refused:
                _ = [data async for data in socket.events(query, **variables)]
            assert refused.value.code == "UNAUTHENTICATED"


async def test_too_many_operations_are_refused_one_by_one(start_server: StartServer) -> None:
    server = start_server(RATE_LIMITS="on", OPERATIONS_PER_SOCKET="3")
    async with acknowledged(server, {"authorization": register_on(server).token}) as connection:
        listen = {"query": "subscription { typing { userId } }"}
        for key in "1234":
            await say(connection, {"id": key, "type": "subscribe", "payload": listen})
        refused = await heard(connection)
        assert (refused["id"], refused["type"]) == ("4", "error")
        assert refused["payload"][0]["extensions"]["code"] == "RATE_LIMITED"
        await say(connection, {"id": "1", "type": "complete"})
        assert await answer_to(connection, "5", TYPENAME)
