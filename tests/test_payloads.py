"""What would be long to read is refused before it is read, on every way in, and texts may hold what they like."""

from __future__ import annotations

import json
import random
import re
from typing import Any

import httpx
import orjson
import pytest
from websockets.exceptions import ConnectionClosed

import payloads
from errors import TooLarge
from payloads import marks_outside_texts, read_json
from tests.conftest import Account, StartServer
from tests.graph.client import dial
from tests.rest.talk import conversation, message, question, signed
from tests.server import Server

MIB = 1024 * 1024
MOST = 250_000
"""MAX_JSON_VALUES where nobody sets it."""
TEXT = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)
CODE = 'if (a[i]) { return {"k": [1, 2], \'q\': "\\\\", "x": [{}, {}]}; } // 花括号\n'
REFUSAL = f"The JSON has more than {MOST} keys and values"


def _value(chance: random.Random, depth: int = 0) -> Any:
    kind = chance.random()
    if depth > 4 or kind < 0.4:
        return "".join(chance.choice('\\"[{,:a\n中') for _ in range(chance.randrange(12)))
    if kind < 0.5:
        return chance.random()
    if kind < 0.75:
        return [_value(chance, depth + 1) for _ in range(chance.randrange(5))]
    return {str(_value(chance, 9)): _value(chance, depth + 1) for _ in range(chance.randrange(5))}


@pytest.mark.parametrize("slice_bytes", [1, 2, 3, 7, 64, 256 * 1024])
async def test_texts_are_left_out_wherever_slices_end(monkeypatch: pytest.MonkeyPatch, slice_bytes: int) -> None:
    monkeypatch.setattr(payloads, "SLICE_BYTES", slice_bytes)
    chance = random.Random(slice_bytes)
    for _ in range(200):
        text = json.dumps(_value(chance), ensure_ascii=chance.random() < 0.5)
        marks = sum(letter in "[{,:" for letter in TEXT.sub("", text))
        assert await marks_outside_texts(text.encode(), 10**9) == marks, text


async def test_the_bound_itself_passes_and_one_more_does_not() -> None:
    texts = json.dumps(["[{,:" * 9] * 100).encode()
    assert len(await read_json(texts, 100)) == 100
    with pytest.raises(TooLarge, match="more than 99 keys and values"):
        await read_json(texts, 99)
    with pytest.raises(orjson.JSONDecodeError):
        await read_json(b'"' + b"[" * 200, 100)


UNITS = ["[]", "[" * 500 + "]" * 500, "{}", '{"a":1}', '{"content":"","role":"user"}', '""', "1"]


@pytest.mark.parametrize("unit", UNITS, ids=[unit[:10] for unit in UNITS])
async def test_conversations_of_countless_values_are_413(
    client: httpx.AsyncClient, account: Account, unit: str
) -> None:
    count = 16 * MIB // (len(unit) + 1) - 20
    body = b'{"messages":[' + f"{unit},".encode() * count + f"{unit}]}}".encode()
    headers = {**account.headers, "Content-Type": "application/json"}
    for method, path in (("POST", "/api/conversations"), ("PUT", "/api/conversations/mine")):
        answer = await client.request(method, path, content=body, headers=headers)
        assert (answer.status_code, answer.json()) == (413, {"detail": REFUSAL})


@pytest.mark.parametrize("path", ["/api/conversations", "/api/chat", "/api/auth/login"])
async def test_it_is_refused_before_anything_reads_it(client: httpx.AsyncClient, account: Account, path: str) -> None:
    """No JSON from its first letter on: whoever had read it would have said so."""
    headers = {**account.headers, "Content-Type": "application/json"}
    answer = await client.post(path, content=b"x" + b"[" * (MOST + 1), headers=headers)
    assert (answer.status_code, answer.json()) == (413, {"detail": REFUSAL})
    answer = await client.post(path, content=b"x" + b"[" * MOST, headers=headers)
    assert (answer.status_code, answer.json()["detail"][0]["type"]) == (422, "json_invalid")


@pytest.mark.parametrize("accept", ["application/json", "application/graphql-response+json"])
async def test_graphql_bodies(client: httpx.AsyncClient, accept: str) -> None:
    headers = {"Content-Type": "application/json", "Accept": accept}
    answer = await client.post("/graphql", content=b"x" + b"[" * (MOST + 1), headers=headers)
    assert answer.status_code == 413
    (error,) = answer.json()["errors"]
    assert (error["message"], error["extensions"]["code"]) == (REFUSAL, "BAD_USER_INPUT")
    variables = {"code": [CODE * 100] * 40}
    assert sum(json.dumps(variables).count(mark) for mark in "[{,:") < MOST < len(json.dumps(variables))
    body = {"query": "{ __typename }", "variables": variables}
    answer = await client.post("/graphql", json=body, headers=headers)
    assert answer.json() == {"data": {"__typename": "Query"}}


async def test_frames_of_both_sockets(server: Server, account: Account) -> None:
    frame = "[" * (MOST + 1)
    async with signed(server, account) as legacy:
        await legacy.connection.send(frame)
        error = await legacy.hear()
        assert (error["type"], error["code"], error["message"]) == ("error", "BAD_USER_INPUT", REFUSAL)
    async with dial(server) as connection:
        await connection.send(frame)
        with pytest.raises(ConnectionClosed) as closed:
            await connection.recv()
        assert closed.value.rcvd is not None
        assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (1009, REFUSAL)


async def test_code_in_texts_is_no_structure(client: httpx.AsyncClient, account: Account) -> None:
    """Nearly 9 MB, of which two million braces, brackets, commas and colons are the users' own."""
    code = (CODE * 2_000)[:90_000]
    body = conversation(messages=[message(code, id=f"code{number}") for number in range(80)])
    assert sum(code.count(mark) for mark in "[{,:") * 80 > 4 * MOST
    answer = await client.post("/api/conversations", json=body, headers=account.headers, timeout=60)
    assert answer.status_code == 200
    assert [stored["content"] for stored in answer.json()["messages"]] == [code] * 80
    chat = await client.post("/api/chat", json=question(CODE * 1_000), headers=account.headers)
    assert chat.status_code == 200


async def test_too_many_messages_are_told_before_they_are_stored(client: httpx.AsyncClient, account: Account) -> None:
    body = conversation(messages=[{"content": "", "role": "user"}] * 40_000)
    answer = await client.post("/api/conversations", json=body, headers=account.headers)
    assert answer.status_code == 422
    assert answer.json()["detail"][0] == {
        "type": "bad_user_input",
        "loc": ["body", "messages"],
        "msg": "At most 10000 messages at once",
    }


async def test_the_bound_is_a_setting(start_server: StartServer) -> None:
    server = start_server(MAX_JSON_VALUES="10")
    async with httpx.AsyncClient(base_url=server.url) as client:
        for count, status in ((10, 422), (11, 413)):
            body = b'{"x":[' + b"," * (count - 3) + b"]}"
            answer = await client.post("/api/auth/login", content=body, headers={"Content-Type": "application/json"})
            assert answer.status_code == status
