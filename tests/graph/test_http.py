"""GraphQL over HTTP: what is asked for, and in which words it is answered."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

import httpx
import pytest
from graphql import GraphQLError, get_introspection_query

from auth.tokens import Tokens
from errors import NotFound
from graph.errors import format_error
from graph.execution import CACHED_CHARS, CACHED_DOCUMENTS, RequestRefused, Runner
from graph.schema import core_schema
from graph.shape import QueryLimits
from tests.conftest import Account
from tests.graph.documents import CHAT, CHAT_STREAM, FOLLOW, chat, start
from tests.graph.http_client import Graph, Json, sse
from tests.server import SECRET

JSON = "application/json; charset=utf-8"
GRAPHQL_JSON = "application/graphql-response+json; charset=utf-8"
EVENTS = "text/event-stream; charset=utf-8"
URQL = (
    "application/graphql-response+json, application/graphql+json, application/json, text/event-stream, multipart/mixed"
)
TYPENAME = {"query": "{ __typename }"}
ANSWER = {"data": {"__typename": "Query"}}
INVALID = {"query": "{ nothing }"}


async def _post(client: httpx.AsyncClient, body: object, accept: str | None = None, **headers: str) -> httpx.Response:
    accepted = {} if accept is None else {"Accept": accept}
    return await client.post("/graphql", json=body, headers={**accepted, **headers})


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        (None, JSON),
        ("*/*", JSON),
        ("application/json", JSON),
        ("application/*", JSON),
        ("application/json, text/plain, */*", JSON),
        ("APPLICATION/JSON", JSON),
        ("text/plain", JSON),
        ("", JSON),
        ("application/graphql-response+json", GRAPHQL_JSON),
        ("application/graphql-response+json; charset=utf-8, application/json; charset=utf-8", GRAPHQL_JSON),
        ("application/json;q=0.5, application/graphql-response+json", GRAPHQL_JSON),
        ("application/graphql-response+json;q=0.5, application/json", JSON),
        ("application/graphql-response+json;q=0, application/json", JSON),
        ("application/json;q=nonsense", JSON),
        (URQL, GRAPHQL_JSON),
        ("application/json, text/event-stream", JSON),
        ("text/event-stream, application/json", JSON),
    ],
)
async def test_a_query_is_answered_in_the_json_that_is_wanted(
    client: httpx.AsyncClient, accept: str | None, kind: str
) -> None:
    """Naming text/event-stream among others is how urql asks for subscriptions; it wants queries as JSON."""
    answer = await _post(client, TYPENAME, accept)
    assert (answer.status_code, answer.headers["content-type"], answer.json()) == (200, kind, ANSWER)


async def test_a_query_may_be_asked_for_as_events(client: httpx.AsyncClient) -> None:
    """graphql-sse sends everything this way. Lines end in LF alone: urql's reader knows nothing else."""
    answer = await _post(client, TYPENAME, "text/event-stream")
    assert (answer.status_code, answer.headers["content-type"]) == (200, EVENTS)
    assert answer.content == b'event: next\ndata: {"data":{"__typename":"Query"}}\n\nevent: complete\ndata:\n\n'


async def test_errors_come_as_events_where_events_are_wanted(client: httpx.AsyncClient) -> None:
    answer = await _post(client, INVALID, "text/event-stream")
    first, second, _ = answer.text.split("\n\n")
    assert first.startswith('event: next\ndata: {"errors":')
    assert second == "event: complete\ndata:"


@pytest.mark.parametrize("accept", ["text/event-stream", URQL, "text/*", "text/event-stream;q=0.1, application/json"])
async def test_a_subscription_is_answered_in_events(client: httpx.AsyncClient, viewer: Graph, accept: str) -> None:
    body = {"query": CHAT_STREAM, "variables": {"input": chat("one two")}}
    answer = await _post(client, body, accept, **viewer.headers)
    assert (answer.status_code, answer.headers["content-type"]) == (200, EVENTS)
    assert answer.headers["cache-control"] == "no-cache, no-transform"
    assert answer.headers["x-accel-buffering"] == "no", "nginx would hold the events back"
    assert b"\r" not in answer.content
    *events, rest = answer.text.split("\n\n")
    assert rest == ""
    assert events[-1] == "event: complete\ndata:"
    assert all(event.startswith('event: next\ndata: {"data":{"chat":') for event in events[:-1])


@pytest.mark.parametrize("accept", [None, "application/json", "application/graphql-response+json", "multipart/mixed"])
async def test_406_a_subscription_that_wants_no_events(
    client: httpx.AsyncClient, viewer: Graph, accept: str | None
) -> None:
    """Better than one JSON answer that can only hold the first event, or nothing."""
    query = {"query": "subscription { typing { userId } }"}
    answer = await client.post("/graphql", json=query, headers={**viewer.headers, "Accept": accept or "application/*"})
    assert answer.status_code == 406
    assert "text/event-stream" in answer.json()["errors"][0]["message"]


async def test_events_go_on_behind_what_was_seen(client: httpx.AsyncClient, viewer: Graph) -> None:
    """SSE sends no `id:`; the cursor is `after`, which works over every transport alike."""
    run = await start(viewer, "scripted:every=0.03,words=5")
    seen = [data["runEvents"] async for data in viewer.events(FOLLOW, id=run["id"])]
    rest = [data["runEvents"] async for data in viewer.events(FOLLOW, id=run["id"], after=seen[1]["seq"])]
    assert rest[-1] == seen[-1]
    assert rest[0]["seq"] > seen[1]["seq"]


@pytest.mark.parametrize(
    "content_type", [None, "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"]
)
async def test_415_what_a_form_can_send(client: httpx.AsyncClient, content_type: str | None) -> None:
    """A page of another site can post a form with the user's cookies; it cannot post JSON without asking first."""
    headers = {} if content_type is None else {"Content-Type": content_type}
    answer = await client.post("/graphql", content=json.dumps(TYPENAME), headers=headers)
    assert answer.status_code == 415
    assert answer.json()["errors"][0]["extensions"]["code"] == "BAD_USER_INPUT"


MALFORMED: dict[str, bytes] = {
    "empty": b"",
    "not JSON": b"{",
    "not UTF-8": b'{"query": "\xff"}',
    "UTF-16": '{"query": "{ __typename }"}'.encode("utf-16"),
    "lone surrogate": b'{"query": "{ __typename }", "operationName": "\\ud800"}',
    "a number": b"5",
    "null": b"null",
    "text": b'"{ __typename }"',
    "a list": b"[5]",
    "a batch": b'[{"query": "{ __typename }"}]',
    "no query": b"{}",
    "query is a number": b'{"query": 5}',
    "query is null": b'{"query": null}',
    "query is an object": b'{"query": {}}',
    "query is blank": b'{"query": " "}',
    "variables are a list": b'{"query": "{ __typename }", "variables": []}',
    "variables are text": b'{"query": "{ __typename }", "variables": "{}"}',
    "operationName is a number": b'{"query": "{ __typename }", "operationName": 5}',
    "extensions are a list": b'{"query": "{ __typename }", "extensions": []}',
    "deep": b"[" * 100_000,
}


@pytest.mark.parametrize("body", MALFORMED.values(), ids=MALFORMED.keys())
@pytest.mark.parametrize("accept", ["application/json", "application/graphql-response+json", "text/event-stream"])
async def test_400_what_is_no_request(client: httpx.AsyncClient, body: bytes, accept: str) -> None:
    headers = {"Content-Type": "application/json", "Accept": accept}
    answer = await client.post("/graphql", content=body, headers=headers)
    assert answer.status_code == 400
    assert "json" in answer.headers["content-type"]
    (error,) = answer.json()["errors"]
    assert error["extensions"]["code"] == "BAD_USER_INPUT"
    assert "data" not in answer.json()


async def test_what_is_asked_for_wrongly_is_200_or_400_as_the_client_wants(client: httpx.AsyncClient) -> None:
    """application/json is what old clients want, who take any other status for a broken network."""
    bad: list[Json] = [INVALID, {"query": "{"}, {"query": "query a { me { id } }", "operationName": "b"}]
    bad.append({"query": "query ($id: ID!) { run(id: $id) { id } }", "variables": {}})
    for body in bad:
        assert (await _post(client, body, "application/json")).status_code == 200
        answer = await _post(client, body, "application/graphql-response+json")
        assert (answer.status_code, set(answer.json())) == (400, {"errors"})


async def test_a_field_that_fails_is_a_200_with_data(client: httpx.AsyncClient) -> None:
    answer = await _post(client, {"query": "{ stats { totalTokens } }"}, "application/graphql-response+json")
    assert answer.status_code == 200
    assert answer.json()["data"] is None
    assert answer.json()["errors"][0]["path"] == ["stats"]


async def test_get_asks_for_queries(client: httpx.AsyncClient) -> None:
    query = "query a { __typename } query b($id: ID!) { run(id: $id) { id } }"
    headers = {"Accept": "application/json"}
    parameters = {"query": query, "operationName": "b", "variables": '{"id": "run_x"}'}
    answer = await client.get("/graphql", params=parameters, headers=headers)
    assert (answer.status_code, answer.json()) == (200, {"data": {"run": None}})
    for bad in ({}, {"query": ""}, {**parameters, "variables": "{"}, {**parameters, "variables": "5"}):
        answer = await client.get("/graphql", params=bad, headers=headers)
        assert (answer.status_code, "errors" in answer.json()) == (400, True)


async def test_405_a_mutation_by_get(client: httpx.AsyncClient, viewer: Graph) -> None:
    """Any page could ask for it with an <img>."""
    query = "mutation { createConversation(input: {}) { conversation { id } } }"
    answer = await client.get("/graphql", params={"query": query}, headers=viewer.headers)
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
    assert "data" not in answer.json()


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH"])
async def test_405_other_methods(client: httpx.AsyncClient, method: str) -> None:
    assert (await client.request(method, "/graphql", json=TYPENAME)).status_code == 405


async def test_a_refused_token_refuses_the_whole_request(client: httpx.AsyncClient, viewer_account: Account) -> None:
    """Also where the operation would be open to anyone: the client has to learn that its token is no good."""
    tokens = Tokens(SECRET, 30)
    tokens.lifetime = -1
    names = viewer_account.id, viewer_account.session_id
    cases = {
        "Bearer nonsense": "UNAUTHENTICATED",
        "nonsense": "UNAUTHENTICATED",
        f"Bearer {Tokens('another secret of at least 32 bytes', 30).issue(*names)}": "UNAUTHENTICATED",
        f"Bearer {Tokens(SECRET, 30).issue('user_never', 'sess_never')}": "UNAUTHENTICATED",
        f"Bearer {tokens.issue(*names)}": "TOKEN_EXPIRED",
    }
    for header, code in cases.items():
        answer = await _post(client, TYPENAME, "application/json", Authorization=header)
        assert (answer.status_code, set(answer.json())) == (200, {"errors"})
        assert answer.json()["errors"][0]["extensions"]["code"] == code
        strict = await _post(client, TYPENAME, "application/graphql-response+json", Authorization=header)
        assert strict.status_code == 401
        body = {"query": CHAT_STREAM, "variables": {"input": chat()}}
        async with client.stream(
            "POST", "/graphql", json=body, headers={"Authorization": header, "Accept": "text/event-stream"}
        ) as streamed:
            events = [(name, text) async for name, text in sse(streamed)]
        assert [name for name, _ in events] == ["next", "complete"]
        assert json.loads(events[0][1])["errors"][0]["extensions"]["code"] == code


async def test_a_stream_does_not_outlive_its_token(client: httpx.AsyncClient, viewer_account: Account) -> None:
    """And says why it ends: without a word a client would take it for a broken network, and ask again for ever."""
    tokens = Tokens(SECRET, 30)
    tokens.lifetime = 2
    token = tokens.issue(viewer_account.id, viewer_account.session_id)
    headers = {"Authorization": f"Bearer {token}", "Accept": "text/event-stream"}
    body = {"query": "subscription { typing { userId } }"}
    async with asyncio.timeout(5), client.stream("POST", "/graphql", json=body, headers=headers) as streamed:
        assert streamed.status_code == 200
        events = [event async for event in sse(streamed)]
    assert [name for name, _ in events] == ["next", "complete"]
    assert json.loads(events[0][1])["errors"][0]["extensions"] == {"code": "TOKEN_EXPIRED"}
    assert await Graph(client, token).code("{ __typename }") == "TOKEN_EXPIRED"


async def test_an_empty_authorization_is_none(client: httpx.AsyncClient) -> None:
    assert (await _post(client, TYPENAME, Authorization="Bearer")).json() == ANSWER


async def test_a_document_of_more_than_a_thousand_tokens_is_too_complex(anonymous: Graph) -> None:
    """Counted while it is read: what follows costs nothing."""
    document = "{ nodes(ids: [%s]) { id } }"
    assert await anonymous.code(document % ('"x" ' * 980)) != "QUERY_TOO_COMPLEX"
    assert await anonymous.code(document % ('"x" ' * 1_000)) == "QUERY_TOO_COMPLEX"
    assert await anonymous.code("{" + " __typename" * 50_000) == "QUERY_TOO_COMPLEX"


@pytest.mark.parametrize("levels", [32, 100, 200, 332, 400])
async def test_a_deeply_nested_document_is_too_complex(viewer: Graph, levels: int) -> None:
    """Not a crash of the recursive parser, nor of the recursive executor."""
    query = (
        "query ($id: ID!) { run(id: $id) { id " + "message { run { id " * (levels // 2) + "} }" * (levels // 2) + "} }"
    )
    assert await viewer.code(query, id="run_x") == "QUERY_TOO_COMPLEX"


async def test_deeply_nested_values_are_too_complex_or_wrong(viewer: Graph) -> None:
    deep: Any = "x"
    for _ in range(400):
        deep = [deep]
    assert await viewer.code(CHAT, input=deep) in {"QUERY_TOO_COMPLEX", "BAD_USER_INPUT"}
    literal = "[" * 300 + "]" * 300
    assert await viewer.code(f"{{ run(id: {literal}) {{ id }} }}") in {"QUERY_TOO_COMPLEX", "BAD_USER_INPUT"}


async def test_the_schema_can_be_asked_for(anonymous: Graph) -> None:
    """GraphiQL and code generators begin with it; its document is the longest and deepest that is common."""
    query = get_introspection_query(specified_by_url=True, input_value_deprecation=True, directive_is_repeatable=True)
    assert (await anonymous.data(query))["__schema"]["queryType"]["name"] == "Query"


def test_known_documents_are_bounded() -> None:
    """By number, and by length: otherwise each query with its values written into it would stay for ever."""
    runner = Runner(core_schema(), QueryLimits())
    for number in range(CACHED_DOCUMENTS * 2):
        runner.prepare({"query": f"{{ a{number}: __typename }}"})
        with pytest.raises(RequestRefused):
            runner.prepare({"query": f"{{ b{number} }}"})
    assert len(runner._documents) == CACHED_DOCUMENTS
    runner.prepare({"query": "{ __typename }" + " " * CACHED_CHARS})
    assert all(len(query) <= CACHED_CHARS for query in runner._documents)


def test_what_was_not_foreseen_is_masked(caplog: pytest.LogCaptureFixture) -> None:
    """A message from inside may hold a path, a query, a key. The log has it under the id that the client is given."""
    error = GraphQLError("x", path=["me"], original_error=RuntimeError("password=hunter2"))
    with caplog.at_level(logging.ERROR):
        formatted = format_error(error)
    assert formatted["extensions"]["code"] == "INTERNAL_ERROR"
    request_id = formatted["extensions"]["requestId"]
    assert formatted["message"] == f"Something went wrong (request {request_id})"
    assert formatted["path"] == ["me"]
    assert "hunter2" not in json.dumps(formatted)
    assert request_id in caplog.text
    assert "hunter2" in caplog.text


def test_a_failure_of_ours_keeps_its_code_however_deep_it_is_wrapped() -> None:
    inner = GraphQLError("x", original_error=NotFound("gone", field="id"))
    formatted = format_error(GraphQLError("y", path=["a", 0], original_error=inner))
    assert formatted == {"message": "gone", "extensions": {"code": "NOT_FOUND", "field": "id"}, "path": ["a", 0]}
