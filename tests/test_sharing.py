"""Limits over all processes: of instances that share a real Redis, and of real workers."""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, suppress

import httpx
import psutil
import pytest
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from auth.device import Device
from bus import tallies
from bus.address import RedisAddress
from bus.tallies import RedisTallies
from errors import RateLimited, Unavailable
from models.ids import new_id
from sharing import Sharing
from tests.conftest import Account, StartServer, register_on
from tests.graph.client import dial
from tests.redises import OwnRedis, Redis, ask
from tests.server import Server
from tests.test_fleet import busy, connected, until_ready, workers_of
from tests.test_traffic import HERE, limits
from tests.waiting import SECONDS, until
from traffic import Operations, Presence

THRICE = 3
"""A machine on which a worker stands still for half a second gives each process its own limits for a moment."""


class Process:
    """What of one server process counts."""

    def __init__(self, url: str, namespace: str, **changes: int) -> None:
        self.sharing = Sharing(RedisTallies(RedisAddress.parse(url), namespace))
        self.operations = Operations(limits(**changes), self.sharing)
        self.presence = Presence(limits(**changes), self.sharing)
        self.places = ExitStack()

    def ask(self, count: int, user: str = "ann") -> int:
        """How many of so many operations may happen."""
        done = 0
        for _ in range(count):
            with suppress(RateLimited):
                self.operations.of_user(user)
                done += 1
        return done

    async def open(self, count: int, user: str = "ann") -> int:
        """How many of so many sockets may be opened. They stay open."""
        before = self.presence.open
        for _ in range(count):
            with suppress(Unavailable), ExitStack() as seats:
                seats.enter_context(await self.presence.socket(HERE))
                seats.enter_context(await self.presence.user(user))
                self.places.push(seats.pop_all())
        return self.presence.open - before


@asynccontextmanager
async def processes(url: str, count: int = 2, **changes: int) -> AsyncIterator[list[Process]]:
    namespace = new_id("test")
    made = [Process(url, namespace, **changes) for _ in range(count)]
    try:
        for each in made:
            await each.sharing.start()
        yield made
    finally:
        for each in made:
            each.places.close()
            await each.sharing.aclose()


async def told(*those: Process) -> None:
    """Until each has told the others what it counted, and heard what they did."""
    for each in (*those, *those):
        tallies_of = each.sharing._tallies
        assert tallies_of is not None
        await each.sharing._exchange(tallies_of)


class TestOperations:
    async def test_of_a_user_are_one_limit_by_themselves_within_a_second_or_two(self, redis: Redis) -> None:
        async with processes(redis.url, user_operations=32) as (here, there):
            assert here.ask(20) == 20
            await asyncio.sleep(0.2)
            assert there.ask(1) == 1
            begun = time.monotonic()
            done = 21
            while time.monotonic() - begun < 2:
                done += there.ask(1)
                await asyncio.sleep(0.05)
            assert there.ask(1, "bob") == 1
            assert done <= 32 + 40 // 2, "an exchange late at most; a second of asking"
            assert here.ask(32) + done < 64

    async def test_as_fast_as_can_be_pass_little_more_than_the_limit(self, redis: Redis) -> None:
        """Who takes much is not told of at the end of a second, but at once."""
        for _ in range(THRICE):
            async with processes(redis.url, 4, user_operations=160) as made:
                passed = 0
                for _ in range(160):
                    passed += sum(each.ask(1) for each in made)
                    await asyncio.sleep(0.005)
                if 160 <= passed <= 240:
                    return
        pytest.fail(f"{passed} passed")

    async def test_of_addresses_and_of_guests_are_counted_apart(self, redis: Redis) -> None:
        async with processes(redis.url, address_operations=5, guest_chats=3) as (here, there):
            for _ in range(3):
                here.operations.of_address(HERE)
                here.operations.guest_chat(HERE)
            await told(here)
            there.operations.of_address(HERE)
            there.operations.guest_chat(Device("192.0.2.9"))
            there.operations.guest_chat(HERE)
            await told(there)
            there.operations.of_address(HERE)
            with pytest.raises(RateLimited):
                there.operations.of_address(HERE)
            with pytest.raises(RateLimited):
                there.operations.guest_chat(HERE)


class TestSockets:
    async def test_are_exact_for_a_user_whom_a_process_has_never_seen(self, redis: Redis) -> None:
        async with processes(redis.url, user_sockets=5) as (here, there):
            assert await here.open(3) == 3
            assert await there.open(5) == 2
            assert await here.open(1) == 0
            assert await there.open(5, "bob") == 5
            here.places.close()
            await told(here)
            assert await there.open(5) == 3

    async def test_of_a_crowd_that_comes_at_once_as_many_are_opened(self, redis: Redis) -> None:
        async with processes(redis.url, 4, address_sockets=50, user_sockets=1_000) as made:
            await asyncio.gather(*(each.open(1, str(number)) for number in range(100) for each in made))
            assert sum(each.presence.open for each in made) == 50

    async def test_of_one_who_left_while_waiting_nobody_is_told_afterwards(self, redis: Redis) -> None:
        """The exchange in front tells that the place is free; the question behind it must not take it again."""
        async with processes(redis.url, user_sockets=1) as (here, there):
            async with here.sharing._placing:
                exchanging = asyncio.create_task(told(here))
                await asyncio.sleep(0.05)
                leaving = asyncio.create_task(here.open(1))
                await asyncio.sleep(0.01)
                leaving.cancel()
                await asyncio.wait([leaving])
            await exchanging
            await until(lambda: here.sharing._asking is not None and here.sharing._asking.done())
            assert await there.open(1) == 1

    async def test_that_wait_when_the_process_ends_are_not_left_waiting(self, redis: Redis) -> None:
        async with processes(redis.url, user_sockets=1) as (here, _), here.sharing._placing:
            waiting = asyncio.create_task(here.open(1))
            await until(lambda: here.sharing._waiting)
            await here.sharing.aclose()
            assert await waiting == 1


class TestRedis:
    async def test_away_and_back_costs_nobody_anything_and_heals(
        self, own_redis: OwnRedis, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with processes(own_redis.url, user_operations=20, user_sockets=5) as (here, there):
            assert (here.ask(8), there.ask(8)) == (8, 8)
            assert (await here.open(2), await there.open(2)) == (2, 2)
            await told(here, there)
            own_redis.stop()
            begun = time.monotonic()
            assert await here.open(3) == 3, "for itself"
            assert here.ask(1, "bob") == 1
            assert time.monotonic() - begun < 1
            await until(lambda: there.sharing._away)
            begun = time.monotonic()
            assert (await here.open(1), await there.open(4)) == (0, 3)
            assert here.ask(20, "eve") == 20
            assert time.monotonic() - begun < 0.2
            assert "each process counts its own limits" in caplog.text

            own_redis.start()
            await until(lambda: not here.sharing._away and not there.sharing._away)
            await told(here, there)
            assert (await here.open(1), await there.open(1)) == (0, 0), "ten are open, and nobody is put out"
            here.places.close()
            await told(here)
            assert await there.open(1) == 0, "five are its own"
            assert await here.open(1) == 0
            there.places.close()
            await told(there)
            assert await here.open(9) == 5
            assert (here.ask(1), there.ask(1), there.ask(1, "eve")) == (1, 1, 1)
            await told(here, there)
            assert there.ask(8) == 2, "what was counted before is counted still"
            assert there.ask(1, "eve") == 0, "what was counted meanwhile, too"
            assert len([record for record in caplog.records if record.levelno == logging.WARNING]) == 4
            assert "Traceback" not in caplog.text

    async def test_that_stands_still_delays_only_those_who_are_waiting(self, own_redis: OwnRedis) -> None:
        async with processes(own_redis.url, user_sockets=5) as (here, there):
            assert await there.open(3) == 3
            own_redis.signal(signal.SIGSTOP)
            begun = time.monotonic()
            assert await here.open(2) == 2
            assert time.monotonic() - begun < 4
            begun = time.monotonic()
            assert await here.open(3) == 3
            assert time.monotonic() - begun < 0.2
            own_redis.signal(signal.SIGCONT)
            await until(lambda: not here.sharing._away)
            await told(here, there)
            assert await there.open(1) == 0

    async def test_that_was_emptied_is_told_again(self, own_redis: OwnRedis) -> None:
        async with processes(own_redis.url, user_operations=20, user_sockets=5) as (here, there):
            assert (here.ask(15), await here.open(3)) == (15, 3)
            await told(here)
            assert ask(own_redis.url, "FLUSHALL") == "+OK"
            await told(here)
            assert await there.open(5) == 2
            assert there.ask(1) == 1
            await told(there)
            assert there.ask(20) == 4


async def say_hello(socket: ClientConnection, account: Account) -> bool:
    """Whether the socket stays open."""
    with suppress(ConnectionClosed):
        await socket.send(json.dumps({"type": "connection_init", "payload": {"authorization": account.token}}))
        return bool(json.loads(await socket.recv())["type"] == "connection_ack")
    assert socket.close_code == 1013
    return False


async def open_until_refused(server: Server, account: Account, stack: AsyncExitStack) -> int:
    opened = 0
    while True:
        socket = await stack.enter_async_context(dial(server))
        if not await say_hello(socket, account):
            return opened
        opened += 1


async def spread(server: Server, account: Account, count: int, requests: int) -> int:
    """Send so many requests over so many connections, which meet every worker; how many were answered."""
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(httpx.AsyncClient(base_url=server.url)) for _ in range(count)]
        answered = 0
        for _ in range(requests // count):
            answers = await asyncio.gather(
                *(client.get("/api/stats", headers=account.headers, timeout=SECONDS) for client in clients)
            )
            assert {answer.status_code for answer in answers} <= {200, 429}
            answered += sum(answer.status_code == 200 for answer in answers)
            assert min(busy(server)) > 0
        return answered


async def test_workers_are_one_limit_and_one_that_is_killed_holds_no_place(
    start_server: StartServer, redis: Redis
) -> None:
    """`WORKERS=2`, requests and sockets over both. The sockets of the one that is killed are free within seconds."""
    server = start_server(
        WORKERS="2", REDIS_URL=redis.url, RATE_LIMITS="on", OPERATIONS_PER_MINUTE="120", USER_SOCKETS="16"
    )
    until_ready(server, 2)
    answered = []
    for _ in range(THRICE):
        answered.append(await spread(server, register_on(server), 40, 240))
        if answered[-1] <= 160:
            break
    assert 119 <= answered[-1] <= 160, answered

    async with AsyncExitStack() as stack:
        account = register_on(server)
        with connected(server, 1):
            assert await open_until_refused(server, account, stack) == 16
        victim = min(workers_of(server), key=_connections)
        held = _connections(victim)
        victim.kill()
        assert held > 0
        deadline = time.monotonic() + tallies.DEAD_SECONDS + SECONDS
        again = 0
        while again == 0:
            assert time.monotonic() < deadline
            again = await open_until_refused(server, account, stack)
            await asyncio.sleep(0.2)
        assert 0 < again <= 16


def _connections(worker: psutil.Process) -> int:
    return sum(held.status == psutil.CONN_ESTABLISHED for held in worker.net_connections("tcp"))
