"""What it costs to follow an answer at another process, by polling or told by Redis: `python -m benchmarks.buses`.

Two `python app.py` on one PostgreSQL: one writes the answers, and each is read at both of them. *Behind* is from a
word's arrival at the writer's reader to that at the other's, on the clock of the one process that reads them all, from
two seconds behind the start. Both ways are played by turns in the same run; processor time is read from outside. It
fails if a word is missing or comes twice.
"""

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path

from websockets.asyncio.client import ClientConnection

from benchmarks.log import percentile
from benchmarks.sockets import CHAT, FOLLOW, opened, spent, spent_by
from benchmarks.table import Table
from tests.conftest import register_on
from tests.databases import postgres_server
from tests.redises import OwnRedis
from tests.server import Server, running

MANY = {"RUNS_PER_PROCESS": "2000", "RUNS_PER_USER": "2000", "RUN_QUEUE": "2000"}
EVERY = 0.05
START_WORDS = int(2 / EVERY)


async def read(socket: ClientConnection, query: str, run: asyncio.Future[str] | None = None) -> list[float]:
    """When each word came, to the end; `run` is given the run's id."""
    await socket.send(json.dumps({"id": "1", "type": "subscribe", "payload": {"query": query}}))
    moments: list[float] = []
    while True:
        message = json.loads(await socket.recv())
        if message["type"] != "next":
            assert message["type"] == "complete", message
            return moments
        (event,) = message["payload"]["data"].values()
        moments += [time.perf_counter()] * len(event.get("text", "").split())
        if run is not None and not run.done():
            run.set_result(event["runId"])


async def play(writer: Server, reader: Server, runs: int, seconds: float, database: int | None) -> dict[str, float]:
    token = register_on(writer).token
    script = f"scripted:every={EVERY},words={int(seconds / EVERY)}"
    loop = asyncio.get_running_loop()
    async with AsyncExitStack() as stack:
        here = [await stack.enter_async_context(opened(writer, token)) for _ in range(runs)]
        there = [await stack.enter_async_context(opened(reader, token)) for _ in range(runs)]
        before = spent(writer), spent(reader), spent_by(database)
        names: list[asyncio.Future[str]] = [loop.create_future() for _ in range(runs)]
        pairs = zip(here, names, strict=True)
        written = [asyncio.create_task(read(socket, CHAT % script, name)) for socket, name in pairs]
        ids = await asyncio.gather(*names)
        followed = await asyncio.gather(*(read(socket, FOLLOW % name) for socket, name in zip(there, ids, strict=True)))
        near = await asyncio.gather(*written)
        after = spent(writer), spent(reader), spent_by(database)
    behind = [
        1_000 * (far - close)
        for mine, theirs in zip(near, followed, strict=True)
        for close, far in list(zip(mine, theirs, strict=True))[START_WORDS:]
    ]
    words = sum(map(len, followed))
    cost = [1e6 * (now - then) / words for then, now in zip(before, after, strict=True)]
    return {
        "behind the writer's own reader, ms, p50": statistics.median(behind),
        "behind the writer's own reader, ms, p99": percentile(behind, 0.99),
        "processor, the one that follows, µs a token": cost[1],
        "processor, the one that writes, µs a token": cost[0],
        "processor, PostgreSQL, µs a token": cost[2],
    }


def measure(runs: int, seconds: float, rounds: int) -> Table:
    found: dict[str, list[dict[str, float]]] = {"polling": [], "told": []}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="buses")))
        postgres = stack.enter_context(postgres_server())
        redis = OwnRedis(folder)
        stack.callback(redis.stop)
        database = postgres.own.process_id if postgres.own is not None else None
        for turn in range(rounds):
            for way, results in found.items():
                settings = {**MANY, "DATABASE_URL": stack.enter_context(postgres.migrated()).dsn}
                if way == "told":
                    settings["REDIS_URL"] = redis.url
                with ExitStack() as both:
                    pair = [both.enter_context(running(folder / f"{way}{turn}{n}", None, **settings)) for n in "ab"]
                    results.append(asyncio.run(play(pair[0], pair[1], runs, seconds, database)))
    table = Table()
    table.head(f"told by Redis, {runs} runs x {1 / EVERY:.0f} tokens/s", "polling")
    for name in found["told"][0]:
        told, polling = (statistics.median(result[name] for result in found[way]) for way in ("told", "polling"))
        table.row(name, told, reference=polling)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    print(measure(given.runs, given.seconds, given.rounds))


if __name__ == "__main__":
    main()
