"""GET / and GET /health, as the guide shows them."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import httpx
from websockets.asyncio.client import connect

from tests.conftest import Account, StartServer, register_on
from tests.rest.talk import conversation, legacy


async def test_home_is_the_guides_object_and_one_more_endpoint(client: httpx.AsyncClient) -> None:
    answer = await client.get("/")
    assert answer.status_code == 200
    assert answer.json() == {
        "name": "AI Chat Studio API",
        "version": "2.0.0",
        "status": "running",
        "endpoints": {
            "auth": "/api/auth",
            "chat": "/api/chat",
            "conversations": "/api/conversations",
            "websocket": "/ws",
            "docs": "/docs",
            "graphql": "/graphql",
        },
    }


async def test_health_has_the_guides_fields_and_a_timestamp_in_utc_with_milliseconds(client: httpx.AsyncClient) -> None:
    answer = await client.get("/health")
    assert answer.status_code == 200
    body = answer.json()
    assert list(body) == ["status", "timestamp", "active_connections", "total_users", "total_conversations"]
    assert body["status"] == "healthy"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", body["timestamp"])
    assert abs(datetime.now(UTC) - datetime.fromisoformat(body["timestamp"])) < timedelta(seconds=30)


async def test_health_counts_users_conversations_and_open_sockets_of_both_kinds(start_server: StartServer) -> None:
    server = start_server()
    async with httpx.AsyncClient(base_url=server.url) as client:

        async def figures() -> tuple[int, int, int]:
            body = (await client.get("/health")).json()
            return body["active_connections"], body["total_users"], body["total_conversations"]

        assert await figures() == (0, 0, 0)
        account = register_on(server)
        await client.post("/api/conversations", json=conversation(), headers=account.headers)
        assert await figures() == (0, 1, 1)
        async with legacy(server, "user_123"):
            assert await figures() == (1, 1, 1)
            async with connect(f"{server.ws}/graphql", subprotocols=["graphql-transport-ws"], proxy=None):  # type: ignore[list-item]
                assert await figures() == (2, 1, 1)
        assert await figures() == (0, 1, 1)


async def test_what_does_not_exist_is_fastapis_json(client: httpx.AsyncClient, account: Account) -> None:
    unknown = await client.get("/api/nothing", headers=account.headers)
    assert (unknown.status_code, unknown.json()) == (404, {"detail": "Not Found"})
    method = await client.delete("/api/chat", headers=account.headers)
    assert (method.status_code, method.json()) == (405, {"detail": "Method Not Allowed"})


async def test_the_api_page_lists_the_guides_routes(client: httpx.AsyncClient) -> None:
    """With the shapes of answers, though the handlers of large ones write their JSON themselves."""
    schema = (await client.get("/openapi.json")).json()
    routes = {(method.upper(), path) for path, methods in schema["paths"].items() for method in methods}
    assert routes >= {
        ("GET", "/"),
        ("GET", "/health"),
        ("POST", "/api/auth/register"),
        ("POST", "/api/auth/login"),
        ("GET", "/api/auth/me"),
        ("GET", "/api/conversations"),
        ("POST", "/api/conversations"),
        ("GET", "/api/conversations/{conversation_id}"),
        ("PUT", "/api/conversations/{conversation_id}"),
        ("DELETE", "/api/conversations/{conversation_id}"),
        ("POST", "/api/chat"),
        ("GET", "/api/stats"),
    }
    shape = schema["components"]["schemas"]["ConversationAnswer"]["properties"]
    assert list(shape) == ["id", "title", "messages", "createdAt", "updatedAt", "model", "systemPrompt", "userId"]
