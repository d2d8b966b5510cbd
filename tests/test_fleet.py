"""Several processes are one server: whichever of them a client meets, and whichever of them dies."""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager

import httpx
import psutil
import pytest

from tests.conftest import StartServer
from tests.databases import Postgres
from tests.redises import Redis
from tests.server import Server, running
from tests.test_scenario import TRANSPORTS, Transport, play
from tests.test_serve import open_stream

SECONDS = 90
"""Four workers take five seconds to start on two cores, and fifteen times as long beside other work."""


def workers_of(server: Server) -> list[psutil.Process]:
    """The processes that serve for this one."""
    children = psutil.Process(server.process.pid).children()
    return [child for child in children if "spawn_main" in " ".join(child.cmdline())]


def until_ready(server: Server, starts: int) -> None:
    """Until so many workers have started in all."""
    deadline = time.monotonic() + SECONDS
    while server.log().count("Application startup complete") < starts:
        assert time.monotonic() < deadline, server.log()
        time.sleep(0.05)


@contextmanager
def connected(server: Server, count: int) -> Iterator[None]:
    """So many connections that say nothing."""
    with ExitStack() as stack:
        for _ in range(count):
            stack.enter_context(closing(socket.create_connection(("127.0.0.1", server.port))))
        yield


def busy(server: Server) -> list[int]:
    """How many connections each worker holds."""
    return [
        sum(held.status == psutil.CONN_ESTABLISHED for held in worker.net_connections("tcp"))
        for worker in workers_of(server)
    ]


SETUPS = [
    "two commands",
    "2 workers",
    "4 workers, PostgreSQL",
    "4 workers, PostgreSQL, Redis",
    "uvicorn, PostgreSQL, Redis",
]
UVICORN = [sys.executable, "-m", "uvicorn", "app:app", "--workers", "4", "--host", "127.0.0.1", "--port", "{port}"]
# uvicorn's own 5 s are not enough for a worker that begins on a machine with twenty other processes at work.
PATIENT = {"UVICORN_TIMEOUT_WORKER_HEALTHCHECK": "60"}


@pytest.fixture(scope="module", params=SETUPS)
def fleet(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Server]]:
    """Where clients may connect."""
    setup, folder = str(request.param), tmp_path_factory.mktemp("fleet")
    settings: dict[str, str] = {}
    with ExitStack() as stack:
        if "PostgreSQL" in setup:
            postgres: Postgres = request.getfixturevalue("postgres")
            settings["DATABASE_URL"] = stack.enter_context(postgres.migrated()).dsn
        if "Redis" in setup:
            redis: Redis = request.getfixturevalue("redis")
            settings["REDIS_URL"] = redis.url
        if setup == "two commands":
            yield [stack.enter_context(running(folder)) for _ in range(2)]
            return
        if setup.startswith("uvicorn"):
            count, server = 4, stack.enter_context(running(folder, UVICORN, **settings, **PATIENT))
        else:
            count = int(setup[0])
            server = stack.enter_context(running(folder, None, WORKERS=str(count), **settings))
        until_ready(server, count)
        yield [server]


@pytest.mark.parametrize("kind", TRANSPORTS)
async def test_the_scenario_is_played_over_all_of_them(fleet: list[Server], kind: type[Transport]) -> None:
    """Each request meets another process than the one before, or may."""
    await asyncio.gather(*(play(kind, *fleet) for _ in range(3)))


class TestWorkers:
    def test_share_the_port_are_replaced_and_drain(self, start_server: StartServer) -> None:
        """`WORKERS=2 python app.py`, its banner, a worker's death, and the end of all."""
        server = start_server(WORKERS="2", SHUTDOWN_GRACE_SECONDS="0.5")
        until_ready(server, 2)
        assert server.log().count("🚀") == 1
        assert f"http://localhost:{server.port}/graphql" in server.log()
        with connected(server, 60):
            deadline = time.monotonic() + SECONDS
            while sum(busy(server)) < 60:
                assert time.monotonic() < deadline
                time.sleep(0.05)
            assert min(busy(server)) > 0

        before = workers_of(server)
        before[0].kill()
        until_ready(server, 3)
        after = workers_of(server)
        assert len(after) == 2
        assert before[1] in after
        assert httpx.get(f"{server.url}/health").status_code == 200

        with open_stream(server) as stream:
            server.process.send_signal(signal.SIGTERM)
            rest = list(stream)
        assert "chat_complete" in rest[-1]
        assert server.process.wait(SECONDS) == 0
        assert not any(worker.is_running() for worker in after)
        assert "Traceback" not in server.log()

    def test_stop_when_the_one_that_started_them_was_killed(self, start_server: StartServer) -> None:
        """They would keep the port, and nobody could tell them anything any more."""
        server = start_server(WORKERS="2")
        until_ready(server, 2)
        workers = workers_of(server)
        server.process.kill()
        _, alive = psutil.wait_procs(workers, SECONDS)
        assert not alive
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", server.port))

    def test_by_ctrl_c_are_quiet(self, start_server: StartServer) -> None:
        """A terminal sends it to all of them."""
        server = start_server(WORKERS="2")
        until_ready(server, 2)
        for worker in workers_of(server):
            worker.send_signal(signal.SIGINT)
        assert server.stop(signal.SIGINT) == 0
        assert "Traceback" not in server.log()
