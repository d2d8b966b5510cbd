"""Bodies that no frontend sends: each is a 422, never a 500, and never stored."""

from __future__ import annotations

import json

import httpx
import pytest

from tests.conftest import Account
from tests.rest.talk import Json, conversation, message, question

CONVERSATIONS, CHAT = "/api/conversations", "/api/chat"
MAX_MILLIS = 253402300799999


async def refused(client: httpx.AsyncClient, account: Account, path: str, body: Json | bytes) -> Json:
    """The first item of the 422's list."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {**account.headers, "Content-Type": "application/json"}
    answer = await client.post(path, content=content, headers=headers)
    assert answer.status_code == 422, answer.text
    detail = answer.json()["detail"]
    assert isinstance(detail, list)
    assert detail
    for item in detail:
        assert {"type", "loc", "msg"} <= set(item)
        assert item["loc"][0] == "body"
    first: Json = detail[0]
    return first


@pytest.mark.parametrize("path", [CONVERSATIONS, CHAT])
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"nonsense",
        b'{"title": NaN}',
        b'{"createdAt": Infinity}',
        b'{"createdAt": 1e999}',
        b'{"title": "\\ud800"}',
        b'{"title": "\xff\xfe"}',
        b"\xff\xfe{\x00}\x00",
        b"[" * 100_000,
        b'{"unknown": ' + b'{"a":' * 2_000 + b"1" + b"}" * 2_000 + b"}",
        b'{"messages": ' + b"[" * 900 + b"]" * 900 + b"}",
        b'{"createdAt": ' + b"1" * 10_000 + b"}",
        b"5",
        b"null",
        b"true",
        b'"text"',
        b"[5]",
        b"[]",
    ],
    ids=lambda body: body[:24].decode("latin-1"),
)
async def test_what_is_no_json_object(client: httpx.AsyncClient, account: Account, path: str, body: bytes) -> None:
    await refused(client, account, path, body)


async def test_a_body_of_another_type_is_not_read_as_json(client: httpx.AsyncClient, account: Account) -> None:
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
        headers = {**account.headers, "Content-Type": kind}
        answer = await client.post(CONVERSATIONS, content=b"{}", headers=headers)
        told = {"type": "model_attributes_type", "loc": ["body"], "msg": "Content-Type must be application/json"}
        assert (answer.status_code, answer.json()) == (422, {"detail": [told]})
    assert (await refused(client, account, CONVERSATIONS, b"[5]"))["msg"] == "The body must be a JSON object"


@pytest.mark.parametrize(
    "fields",
    [
        {"id": 5},
        {"id": "x" * 201},
        {"id": "a\u0000b"},
        {"title": 5},
        {"title": "x" * 201},
        {"title": "a\u0000b"},
        {"title": ["a"]},
        {"model": ""},
        {"model": " "},
        {"model": "x" * 201},
        {"model": {}},
        {"systemPrompt": "x" * 32_001},
        {"systemPrompt": "\u0000"},
        {"messages": None},
        {"messages": {}},
        {"messages": "text"},
        {"messages": [5]},
        {"messages": [None]},
        {"messages": [{}]},
        {"messages": [{"role": "user"}]},
        {"messages": [{"content": "hi"}]},
        {"messages": [message(content=None)]},
        {"messages": [message(content=["hi"])]},
        {"messages": [message(content="\u0000")]},
        {"messages": [message(content="x" * 100_001)]},
        {"messages": [message(role="robot")]},
        {"messages": [message(role="USER")]},
        {"messages": [message(role=None)]},
        {"messages": [message(id=5)]},
        {"messages": [message(id="\u0000")]},
        {"messages": [message(timestamp=-1)]},
        {"messages": [message(timestamp=True)]},
        {"messages": [{"role": "user", "content": ""}] * 10_001},
    ],
    ids=lambda fields: json.dumps(fields)[:60],
)
async def test_fields_of_a_conversation(client: httpx.AsyncClient, account: Account, fields: Json) -> None:
    await refused(client, account, CONVERSATIONS, conversation(**fields))
    assert (await client.get(CONVERSATIONS, headers=account.headers)).json() == []


@pytest.mark.parametrize("value", [-1, MAX_MILLIS + 1, 10**30, 1.5, 1697467200000.0, True, False, "1697467200000", []])
@pytest.mark.parametrize("field", ["createdAt", "updatedAt"])
async def test_milliseconds_are_integers_from_0_to_the_year_9999(
    client: httpx.AsyncClient, account: Account, field: str, value: object
) -> None:
    assert (await refused(client, account, CONVERSATIONS, conversation(**{field: value})))["loc"] == ["body", field]


@pytest.mark.parametrize("value", [0, 1, MAX_MILLIS])
async def test_the_first_and_the_last_millisecond_are_kept(
    client: httpx.AsyncClient, account: Account, value: int
) -> None:
    body = conversation(createdAt=value, updatedAt=value, messages=[message(timestamp=value)])
    made = (await client.post(CONVERSATIONS, json=body, headers=account.headers)).json()
    assert (made["createdAt"], made["updatedAt"], made["messages"][0]["timestamp"]) == (value, value, value)


async def test_unknown_fields_are_ignored(client: httpx.AsyncClient, account: Account) -> None:
    body = conversation(unknown=[1, {"a": None}], messages=[message(extra=True, userId=5)], userId=7, owner_id="x")
    answer = await client.post(CONVERSATIONS, json=body, headers=account.headers)
    assert answer.status_code == 200
    assert answer.json()["userId"] == account.id
    assert set(answer.json()["messages"][0]) == {"id", "content", "role", "timestamp"}


async def test_text_of_every_plane_is_kept(client: httpx.AsyncClient, account: Account) -> None:
    text = "😀\u200d\u202e\u2028 \t\n\r\x7f\x01 ﷽"
    made = (await client.post(CONVERSATIONS, json=conversation(title=text), headers=account.headers)).json()
    assert made["title"] == text


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", -0.1),
        ("temperature", 2.1),
        ("temperature", True),
        ("temperature", "0.7"),
        ("temperature", 10**400),
        ("max_tokens", 0),
        ("max_tokens", 4097),
        ("max_tokens", 1.5),
        ("max_tokens", True),
        ("max_tokens", "10"),
        ("stream", "yes"),
        ("stream", 1),
        ("stream", None),
        ("model", 5),
        ("model", ""),
        ("messages", None),
        ("messages", []),
        ("messages", [message(content="  ")]),
        ("messages", [message(content="x" * 100_001)]),
        ("messages", [message(role="tool")]),
        ("messages", [message()] * 2_001),
    ],
    ids=lambda value: str(value)[:30],
)
async def test_fields_of_a_chat(client: httpx.AsyncClient, account: Account, field: str, value: object) -> None:
    """Also when a stream was asked for: what is refused before it begins is plain JSON."""
    for stream in (False, True):
        await refused(client, account, CHAT, question(**{"stream": stream} | {field: value}))


@pytest.mark.parametrize("fields", [{}, {"temperature": 0, "max_tokens": 1}, {"temperature": 2.0, "max_tokens": 4096}])
async def test_the_ends_of_the_ranges_and_null_are_good(
    client: httpx.AsyncClient, account: Account, fields: Json
) -> None:
    for body in (question(**fields), question(temperature=None, max_tokens=None)):
        assert (await client.post(CHAT, json=body, headers=account.headers)).status_code == 200


@pytest.mark.parametrize("query", ["limit=0", "limit=-1", "limit=1001", "limit=x", "limit=1.5", "limit=", "limit=%00"])
async def test_limits_of_the_list(client: httpx.AsyncClient, account: Account, query: str) -> None:
    answer = await client.get(f"{CONVERSATIONS}?{query}", headers=account.headers)
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"] == ["query", "limit"]


@pytest.mark.parametrize("key", ["%00", "a%00b", "%ff%fe", "x" * 5_000, "%F0%9F%98%80", "..%2F..", "%0d%0a"])
async def test_ids_in_the_path_that_no_one_has(client: httpx.AsyncClient, account: Account, key: str) -> None:
    for method in ("GET", "PUT", "DELETE"):
        answer = await client.request(method, f"{CONVERSATIONS}/{key}", json={}, headers=account.headers)
        assert answer.status_code == 404, answer.text
    listed = await client.get(f"{CONVERSATIONS}?before={key}", headers=account.headers)
    assert (listed.status_code, listed.json()) == (404, {"detail": "对话不存在"})
