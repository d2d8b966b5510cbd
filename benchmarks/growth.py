"""What an operation costs as the tables grow: `python -m benchmarks.growth [--rows 100 10000 1000000]`.

The services are the server's own, on a real SQLite file and a real PostgreSQL; HTTP is not in it, behind which growth
would hide. The databases of all sizes are asked in turn, so that a busy machine slows all of them; of each
operation the fastest tenth counts. Exit code 1 when an operation costs more than it may.
"""

import argparse
import asyncio
import gc
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import quantiles
from typing import Any, NamedTuple

from sqlalchemy import event

from assembly import build_services
from auth.sessions import Viewer
from benchmarks.crowd import LONG, VIEWER, fill
from graph.context import Context
from graph.execution import Runner
from graph.schema import core_schema
from graph.shape import QueryLimits
from models.database import Database
from rest.listing import listed
from services import Services
from settings import Settings
from tests.databases import postgres_server, url_of

ROWS = (100, 10_000, 1_000_000)
KINDS = ("SQLite", "PostgreSQL")
RATIO, SEARCH_RATIO = 1.5, 3.0
ROUNDS = 60

NODE = "id title model updatedAt messageCount viewerRole"
LIST = f"{{ conversations(first: 20) {{ edges {{ cursor node {{ {NODE} }} }} pageInfo {{ hasNextPage }} }} }}"
MESSAGES = f"""{{ conversation(id: "{LONG}") {{ messages(last: 50) {{ edges {{ cursor
    node {{ id role content status }} }} pageInfo {{ hasPreviousPage }} }} }} }}"""
SEND = f"""mutation {{ sendMessage(input: {{ conversationId: "{LONG}", content: "hello again" }}) {{
    message {{ id }} run {{ id }} }} }}"""
STATS = """{ stats { totalConversations totalMessages totalTokens averageMessagesPerConversation
    daily(days: 30) { date tokens } byModel { model tokens } } }"""
SEARCH = """{ searchMessages(query: "%s", first: 20) { edges { cursor snippet node { id } conversation { id } }
    pageInfo { hasNextPage } } }"""


class Operation(NamedTuple):
    name: str
    run: "Callable[[Stage], Awaitable[object]]"
    ratio: float = RATIO


@dataclass
class Stage:
    """A server without its sockets, on a database of so many rows."""

    rows: int
    services: Services
    runner: Runner
    sent: str | None = None

    async def ask(self, query: str) -> dict[str, Any]:
        operation = self.runner.prepare({"query": query, "variables": {}})
        viewer = Viewer(VIEWER, VIEWER, int(time.time()) + 3_600)
        result = await self.runner.execute(operation, Context(self.services, viewer))
        if "errors" in result:
            raise RuntimeError(result["errors"])
        data: dict[str, Any] = result["data"]
        return data

    async def list_rest(self) -> bytes:
        return b"".join([piece async for piece in await listed(self.services.database, VIEWER, 20, None)])

    async def send(self) -> None:
        self.sent = (await self.ask(SEND))["sendMessage"]["run"]["id"]

    async def settle(self) -> None:
        """Until the answer that was asked for is written: the next one would be refused."""
        if self.sent is not None:
            run = await self.services.chats.run(VIEWER, self.sent)
            assert run is not None
            await self.services.engine.wait_for_end(run)


def asking(query: str) -> "Callable[[Stage], Awaitable[object]]":
    return lambda stage: stage.ask(query)


OPERATIONS = (
    Operation("conversations(first: 20)", asking(LIST)),
    Operation("GET /api/conversations?limit=20", Stage.list_rest),
    Operation("messages(last: 50)", asking(MESSAGES)),
    Operation("stats", asking(STATS)),
    Operation("searchMessages, a rare word", asking(SEARCH % "needle"), SEARCH_RATIO),
    Operation("searchMessages, everywhere", asking(SEARCH % "common"), SEARCH_RATIO),
    Operation("searchMessages, a beginning", asking(SEARCH % "comm"), SEARCH_RATIO),
    Operation("searchMessages, a phrase", asking(SEARCH % '\\"needle we talked\\"'), SEARCH_RATIO),
    Operation("sendMessage", Stage.send),
)


@contextmanager
def in_database(database: Database) -> Iterator[list[float]]:
    """The seconds that each statement took, seen from here."""
    taken: list[float] = []

    def before(_connection: Any, _cursor: Any, _statement: str, _values: Any, context: Any, _many: bool) -> None:
        if context is not None:
            context.begun = time.perf_counter()

    def after(_connection: Any, _cursor: Any, statement: str, _values: Any, context: Any, _many: bool) -> None:
        if hasattr(context, "begun") and not statement.startswith("BEGIN"):
            taken.append(time.perf_counter() - context.begun)

    for engine in database.engines:
        event.listen(engine.sync_engine, "before_cursor_execute", before)
        event.listen(engine.sync_engine, "after_cursor_execute", after)
    try:
        yield taken
    finally:
        for engine in database.engines:
            event.remove(engine.sync_engine, "before_cursor_execute", before)
            event.remove(engine.sync_engine, "after_cursor_execute", after)


@asynccontextmanager
async def staged(kind: str, sizes: Sequence[int], folder: Path) -> AsyncIterator[list[Stage]]:
    async with AsyncExitStack() as stack:
        server = stack.enter_context(postgres_server()) if kind == KINDS[1] else None
        stages = []
        for rows in sizes:
            place = folder / f"{kind}-{rows}"
            url = f"sqlite:///{place}/chat.db"
            if server is not None:
                # Migrated on another thread, which has no loop.
                migrated = server.migrated()
                url = url_of(await asyncio.to_thread(migrated.__enter__))
                stack.callback(migrated.__exit__, None, None, None)
            settings = Settings(
                data_dir=place,
                database_url=url,
                scripted_model=True,
                embedded_model=False,
                runs_per_minute=1_000_000,
                lease_seconds=60,
                database_pool_size=4,
                database_seconds=600,
            )
            services = await stack.enter_async_context(build_services(settings))
            begun = time.perf_counter()
            await fill(services.database, rows)
            print(f"# {kind}: {rows:,} rows in {time.perf_counter() - begun:.1f} s", file=sys.stderr, flush=True)
            stages.append(Stage(rows, services, Runner(core_schema(), QueryLimits())))
        yield stages


class Cost(NamedTuple):
    """Seconds, the whole and what of it was waiting for the database; statements."""

    whole: float
    database: float
    statements: int


async def measure(stages: Sequence[Stage], operation: Operation, rounds: int) -> list[Cost]:
    found: list[list[Cost]] = [[] for _ in stages]
    for round_ in range(rounds + 5):
        for stage, costs in zip(stages, found, strict=True):
            await stage.settle()
            with in_database(stage.services.database) as taken:
                begun = time.perf_counter()
                await operation.run(stage)
                whole = time.perf_counter() - begun
            if round_ >= 5:
                costs.append(Cost(whole, sum(taken), len(taken)))
    return [
        Cost(_low(each.whole for each in costs), _low(each.database for each in costs), costs[0].statements)
        for costs in found
    ]


def _low(values: Iterable[float]) -> float:
    return quantiles(values, n=10)[0]


async def measure_all(kind: str, sizes: Sequence[int], rounds: int = ROUNDS) -> list[tuple[Operation, list[Cost]]]:
    with tempfile.TemporaryDirectory(prefix="growth") as folder:
        async with staged(kind, sizes, Path(folder)) as stages:
            gc.collect()
            gc.freeze()
            gc.disable()
            try:
                return [(operation, await measure(stages, operation, rounds)) for operation in OPERATIONS]
            finally:
                gc.enable()


def ratio_of(costs: Sequence[Cost]) -> float:
    """Of the dearest to the smallest database's."""
    return max(cost.whole for cost in costs) / costs[0].whole


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=ROWS)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    given = parser.parse_args()
    grown = False
    for kind in given.kinds:
        sizes = " | ".join(f"{rows:,} rows" for rows in given.rows)
        print(f"| {kind} | {sizes} | ratio | at most | statements |")
        print("| --- " * (len(given.rows) + 4) + "|")
        for operation, costs in asyncio.run(measure_all(kind, given.rows, given.rounds)):
            cells = " | ".join(f"{1e3 * cost.whole:.2f} ms ({1e3 * cost.database:.2f})" for cost in costs)
            ratio = ratio_of(costs)
            grown = grown or ratio > operation.ratio
            name, statements = operation.name, costs[-1].statements
            print(f"| {name} | {cells} | {ratio:.2f} | {operation.ratio} | {statements} |", flush=True)
    return int(grown)


if __name__ == "__main__":
    sys.exit(main())
