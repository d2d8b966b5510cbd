"""GraphQL over HTTP: JSON for queries and mutations, server-sent events for subscriptions."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any

import httpx

from tests.server import Server

SECONDS = 30
Json = dict[str, Any]


class Refused(Exception):
    """An `error` message, or an event with errors: `errors` as they came."""

    def __init__(self, errors: list[Json]) -> None:
        super().__init__(errors)
        self.errors = errors

    @property
    def code(self) -> str:
        return str(self.errors[0]["extensions"]["code"])


@dataclass(frozen=True)
class Graph:
    """One viewer of one server, over HTTP. Variables are passed by name."""

    http: httpx.AsyncClient
    token: str | None = None

    @property
    def headers(self) -> dict[str, str]:
        return {} if self.token is None else {"Authorization": f"Bearer {self.token}"}

    async def answer(self, query: str, **variables: object) -> Json:
        """`data` and `errors` as they came."""
        body = {"query": query, "variables": variables}
        answer: Json = (await self.http.post("/graphql", json=body, headers=self.headers)).json()
        return answer

    async def data(self, query: str, **variables: object) -> Json:
        answer = await self.answer(query, **variables)
        assert "errors" not in answer, answer
        data: Json = answer["data"]
        return data

    async def error(self, query: str, **variables: object) -> Json:
        """The one error's extensions."""
        answer = await self.answer(query, **variables)
        assert len(answer.get("errors", [])) == 1, answer
        extensions: Json = answer["errors"][0]["extensions"]
        return extensions

    async def code(self, query: str, **variables: object) -> str:
        return str((await self.error(query, **variables))["code"])

    async def events(self, query: str, **variables: object) -> AsyncGenerator[Json, None]:
        """The `data` of a subscription's events by SSE, up to its end."""
        body = {"query": query, "variables": variables}
        headers = {**self.headers, "Accept": "text/event-stream"}
        async with self.http.stream("POST", "/graphql", json=body, headers=headers, timeout=SECONDS) as response:
            async for name, text in sse(response):
                if name == "complete":
                    return
                result = json.loads(text)
                if "errors" in result:
                    raise Refused(result["errors"])
                yield result["data"]
        raise AssertionError("the stream ended without complete")


async def sse(response: httpx.Response) -> AsyncGenerator[tuple[str, str], None]:
    """Name and data of each event. Lines end in LF: urql's reader takes nothing else."""
    buffer = ""
    async for text in response.aiter_text():
        assert "\r" not in text
        buffer += text
        *frames, buffer = buffer.split("\n\n")
        for frame in frames:
            if not frame.startswith(":"):
                fields = dict(line.split(":", 1) for line in frame.split("\n"))
                yield fields["event"].strip(), fields["data"].strip()


async def open_sockets(server: Server) -> int:
    async with httpx.AsyncClient() as http:
        count: int = (await http.get(f"{server.url}/health")).json()["active_connections"]
        return count
