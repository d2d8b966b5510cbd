"""How many SQL statements each operation takes: `tests/operations.py` is the table. What asks once for each row of its
answer, or looks twice at the same thing, shows here before it shows in production."""

from __future__ import annotations

import asyncio
import itertools
import string
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import aclosing, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pyotp
import pytest
from fastapi import FastAPI
from sqlalchemy import event

from app import create_app
from assembly import build_services
from auth.device import UNKNOWN
from auth.sessions import Viewer
from chat.drafts import ConversationDraft
from chat.sending import Asking
from graph.context import Context
from graph.execution import Runner
from graph.schema import core_schema
from graph.shape import QueryLimits
from models.address import Address
from models.database import Database
from models.member import MemberRole
from services import Services
from settings import Settings
from tests.databases import url_of
from tests.operations import ACCOUNTS, ELSEWHERE, MUTATIONS, QUERIES, REST, SUBSCRIPTIONS, Operation

BACKGROUND = ("run ", "feed", "engine.", "records.", "log.", "rights ", "bus.", "notices.")
"""Tasks of the server's own, by their names: nobody waits for what they do."""
FIRST_EVENT_SECONDS = 0.3
counted: ContextVar[list[str] | None] = ContextVar("counted", default=None)
_names = itertools.count(1)


@dataclass
class World:
    """A user with a conversation, and another in which an answer is being written."""

    services: Services
    app: FastAPI
    user: str
    name: str
    token: str

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}

    async def names(self, friend: str) -> dict[str, str]:
        """New things for one operation."""
        sendings, engine = self.services.sendings, self.services.engine
        made, _ = await self.services.conversations.create(self.user, ConversationDraft(model="scripted:words=2"))
        question, run = await sendings.send(self.user, made.id, "hello there", Asking())
        await engine.wait_for_end(run)
        await self.services.members.add(self.user, made.id, friend, MemberRole.VIEWER)
        other, _ = await self.services.conversations.create(self.user, ConversationDraft())
        slow = Asking(model="scripted:every=0.05,words=400")
        _, active = await sendings.send(self.user, other.id, "and now", slow)
        return {
            "conv": made.id,
            "question": question.id,
            "msg": run.message_id or "",
            "run": run.id,
            "active": active.id,
            "name": self.name,
            "new": f"new{next(_names)}",
        }

    async def newcomer(self, operation: Operation) -> tuple[Viewer, dict[str, str]]:
        """Someone who has just registered, with what this operation is about."""
        name = f"newcomer{next(_names)}"
        services = self.services
        signed_in = await services.accounts.register(name, f"{name}@example.com", "password123", UNKNOWN)
        viewer = await services.sessions.viewer(signed_in.access_token)
        names = {"refresh": signed_in.refresh_token or "", "session": viewer.session_id or ""}
        if operation.name == "revokeApiKey":
            names["key"] = (await services.api_keys.create(viewer.id, "k", None))[1].id
        if operation.name in {"confirmTotp", "disableTotp"}:
            offer = await services.factors.begin(viewer.id, name)
            names["code"] = pyotp.TOTP(offer.secret).now()
        if operation.name == "disableTotp":
            names["recovery"] = (await services.factors.confirm(viewer.id, name, names["code"], UNKNOWN))[0]
        return viewer, names


@contextmanager
def counting(database: Database) -> Iterator[list[str]]:
    """The statements of this context and the tasks that it starts, but for the server's own."""
    made: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        task = asyncio.current_task()
        background = task is not None and task.get_name().startswith(BACKGROUND)
        if counted.get() is made and not background and not statement.startswith(("BEGIN", "PRAGMA")):
            made.append(statement)

    mark = counted.set(made)
    for engine in database.engines:
        event.listen(engine.sync_engine, "before_cursor_execute", note)
    try:
        yield made
    finally:
        counted.reset(mark)
        for engine in database.engines:
            event.remove(engine.sync_engine, "before_cursor_execute", note)


@pytest.fixture
async def world(address: Address, tmp_path: Path) -> AsyncIterator[World]:
    settings = Settings(
        data_dir=tmp_path,
        database_url=url_of(address),
        scripted_model=True,
        embedded_model=False,
        rate_limits=True,
        runs_per_user=1_000,
        runs_per_minute=10_000,
        operations_per_minute=10_000,
        lease_seconds=60,
        tokens_per_day=10**9,
    )
    async with build_services(settings) as services:
        app = create_app(settings)
        app.state.services = services
        name = f"person{next(_names)}"
        signed_in = await services.accounts.register(name, f"{name}@example.com", "password123")
        yield World(services, app, signed_in.user.id, name, signed_in.access_token)


async def ask_graph(
    world: World, operation: Operation, names: Mapping[str, str], viewer: Viewer | None = None
) -> list[str]:
    query = string.Template(operation.text).substitute(names)
    runner = Runner(core_schema(), QueryLimits())
    prepared = runner.prepare({"query": query})
    viewer = viewer or Viewer(world.user, world.name, int(time.time()) + 60)
    context = Context(world.services, viewer)
    with counting(world.services.database) as made:
        if prepared.streams:
            async with aclosing(runner.subscribe(prepared, context)) as events:
                try:
                    async with asyncio.timeout(FIRST_EVENT_SECONDS):
                        assert "errors" not in await anext(events)
                except TimeoutError:
                    pass
        else:
            result = await runner.execute(prepared, context)
            assert "errors" not in result, (operation.name, result)
    return made


async def ask_rest(world: World, operation: Operation, names: Mapping[str, str]) -> list[str]:
    method, path, *body = string.Template(operation.text).substitute(names).split(" ", 2)
    headers = world.headers | {"Content-Type": "application/json"}
    async with httpx.AsyncClient(transport=httpx.ASGITransport(world.app), base_url="http://test") as client:
        with counting(world.services.database) as made:
            answer = await client.request(method, path, content=body[0] if body else None, headers=headers)
    assert answer.status_code == 200, (operation.name, answer.text)
    return made


@pytest.mark.on_both
async def test_no_operation_takes_more_statements_than_it_may(world: World, kind: str) -> None:
    """On a busy machine what waits for news may look once more: of what takes too many the least of three counts."""
    friend, stranger = f"friend{next(_names)}", f"stranger{next(_names)}"
    register = world.services.accounts.register
    member = (await register(friend, f"{friend}@example.com", "password123")).user.id
    await register(stranger, f"{stranger}@example.com", "password123")
    more = {}

    async def ask(operation: Operation) -> list[str]:
        if operation in ACCOUNTS:
            viewer, names = await world.newcomer(operation)
            return await ask_graph(world, operation, names, viewer)
        names = await world.names(friend) | {"member": member, "friend": stranger}
        made = await (ask_rest if operation in REST else ask_graph)(world, operation, names)
        if (active := await world.services.chats.run(world.user, names["active"])) is not None:
            await world.services.engine.cancel(active)
        return made

    for operation in (*QUERIES, *MUTATIONS, *ACCOUNTS, *SUBSCRIPTIONS, *REST):
        allowed = operation.sqlite if kind == "SQLite" else operation.postgres
        for _ in range(3):
            if len(made := await ask(operation)) <= allowed:
                break
        else:
            more[operation.text] = (len(made), allowed, made)
    assert {text: found[:2] for text, found in more.items()} == {}, more


def test_the_table_is_complete() -> None:
    """A new operation says what it costs."""
    schema = core_schema()
    for kind, table in (
        (schema.query_type, QUERIES),
        (schema.mutation_type, (*MUTATIONS, *ACCOUNTS)),
        (schema.subscription_type, SUBSCRIPTIONS),
    ):
        assert kind is not None
        assert {operation.name for operation in table} == set(kind.fields) - ELSEWHERE, kind.name


def test_every_route_is_in_the_table(world: World) -> None:
    paths = world.app.openapi()["paths"]
    routes = {f"{method.upper()} {path}" for path, methods in paths.items() for method in methods}
    routes = {route for route in routes if "oauth" not in route}
    assert routes == {operation.name for operation in REST}
