"""What a socket and a streamed token cost a worker, through real sockets: `python -m benchmarks.sockets [--postgres]`.

The server is `python app.py` in a process of its own, on SQLite or PostgreSQL; processor time and memory are read from
outside, so that the clients' cost is not in it: the memory of a socket that waits; the processor time of a token that
is generated, stored and delivered to its one reader; that of each further delivery, to readers who follow the same run.
"""

import argparse
import asyncio
import json
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from pathlib import Path

import psutil
from websockets.asyncio.client import ClientConnection, connect
from websockets.typing import Subprotocol

from tests.conftest import register_on
from tests.databases import postgres_server
from tests.server import Server, running

CHAT = """subscription { chat(input: { messages: [{ role: USER, content: "go" }], model: "%s", maxTokens: 4096 }) {
    __typename runId seq ... on RunTextDelta { text } } }"""
FOLLOW = 'subscription { runEvents(runId: "%s") { __typename seq ... on RunTextDelta { text } } }'


@asynccontextmanager
async def opened(server: Server, token: str) -> AsyncIterator[ClientConnection]:
    url = f"{server.ws}/graphql"
    async with connect(url, subprotocols=[Subprotocol("graphql-transport-ws")], proxy=None, compression=None) as socket:
        await socket.send(json.dumps({"type": "connection_init", "payload": {"authorization": f"Bearer {token}"}}))
        assert json.loads(await socket.recv())["type"] == "connection_ack"
        yield socket


async def read(socket: ClientConnection, query: str, first: asyncio.Future[str] | None = None) -> int:
    """The number of deltas, to the end; `first` is given the run's id."""
    await socket.send(json.dumps({"id": "1", "type": "subscribe", "payload": {"query": query}}))
    deltas = 0
    while True:
        message = json.loads(await socket.recv())
        if message["type"] != "next":
            assert message["type"] == "complete", message
            return deltas
        (event,) = message["payload"]["data"].values()
        deltas += event["__typename"] == "RunTextDelta"
        if first is not None and not first.done():
            first.set_result(event["runId"])


def spent(server: Server) -> float:
    times = psutil.Process(server.process.pid).cpu_times()
    return float(times.user + times.system)


def spent_by(process: int | None) -> float:
    """By a server of databases with all its processes; those that have ended are counted by their parent."""
    if process is None:
        return 0.0
    whole = 0.0
    for each in (psutil.Process(process), *psutil.Process(process).children(recursive=True)):
        times = each.cpu_times()
        whole += times.user + times.system
    return whole


def memory(server: Server) -> int:
    return int(psutil.Process(server.process.pid).memory_info().rss)


async def measure(server: Server, sockets: int, seconds: float, database: int | None) -> dict[str, float]:
    token = register_on(server).token
    script = f"scripted:every=0.05,words={int(seconds / 0.05)}"
    async with AsyncExitStack() as stack:
        # The first ones bring what is loaded once.
        every = [await stack.enter_async_context(opened(server, token)) for _ in range(20)]
        await asyncio.sleep(0.5)
        before = memory(server)
        every += [await stack.enter_async_context(opened(server, token)) for _ in range(sockets)]
        await asyncio.sleep(0.5)
        idle = (memory(server) - before) / sockets

        begun, cpu = time.perf_counter(), spent(server)
        await asyncio.sleep(3)
        waiting = (spent(server) - cpu) / (time.perf_counter() - begun) / sockets

        writers = every[: sockets // 2]
        cpu, stored = spent(server), spent_by(database)
        own = sum(await asyncio.gather(*(read(socket, CHAT % script) for socket in writers)))
        token_cost, stored = (spent(server) - cpu) / own, (spent_by(database) - stored) / own
        streaming = (memory(server) - before - sockets * idle) / len(writers)

        cpu = spent(server)
        first: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        writer = asyncio.create_task(read(every[0], CHAT % script, first))
        run = await first
        shared = sum(await asyncio.gather(*(read(socket, FOLLOW % run) for socket in every[1:])))
        await writer
        delivery = (spent(server) - cpu) / shared
    return {
        "socket, waiting, KiB": idle / 1024,
        "socket, waiting, µs of processor a second": 1e6 * waiting,
        "stream under way, KiB more": max(streaming, 0) / 1024,
        "token generated, stored and delivered, µs": 1e6 * token_cost,
        "besides, in PostgreSQL, µs": 1e6 * stored,
        "one more delivery of it, µs": 1e6 * delivery,
        "tokens delivered": own + shared,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sockets", type=int, default=400)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--postgres", action="store_true")
    given = parser.parse_args()
    settings = {"RUNS_PER_PROCESS": "2000", "RUNS_PER_USER": "2000", "RUN_QUEUE": "2000"}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sockets")))
        database = None
        if given.postgres:
            own = stack.enter_context(postgres_server())
            settings["DATABASE_URL"] = stack.enter_context(own.empty()).dsn
            database = own.own.process_id if own.own is not None else None
        server = stack.enter_context(running(folder, None, **settings))
        for name, value in asyncio.run(measure(server, given.sockets, given.seconds, database)).items():
            print(f"{name}: {value:,.1f}")


if __name__ == "__main__":
    main()
