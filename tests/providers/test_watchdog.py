"""One timer for many deadlines, on both event loops."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest

from watchdog import Watchdog


@pytest.fixture
async def watchdog() -> AsyncIterator[Watchdog]:
    opened = Watchdog()
    yield opened
    opened.close()


def after(seconds: float) -> float:
    return asyncio.get_running_loop().time() + seconds


def left_cancelled() -> bool:
    """Whether the running task still has a cancel in it that nobody took back."""
    task = asyncio.current_task()
    assert task is not None
    return task.cancelling() > 0


async def test_what_comes_in_time_comes(watchdog: Watchdog) -> None:
    for _ in range(10):
        with watchdog.until(after(5)):
            await asyncio.sleep(0.001)


@pytest.mark.parametrize("earlier", [0.0, 0.02])
async def test_what_is_late_is_not_waited_for(watchdog: Watchdog, earlier: float) -> None:
    """Also when the timer was set for waits before it, and fires early."""
    for _ in range(3):
        with watchdog.until(after(0.05)):
            await asyncio.sleep(earlier)
    begun = time.monotonic()
    with pytest.raises(TimeoutError), watchdog.until(after(0.2)):
        await asyncio.Event().wait()
    assert 0.18 < time.monotonic() - begun < 2
    await asyncio.sleep(0.01)
    with watchdog.until(after(5)):
        await asyncio.sleep(0)


async def test_a_nearer_deadline_is_kept(watchdog: Watchdog) -> None:
    with watchdog.until(after(60)):
        await asyncio.sleep(0)
    async with asyncio.timeout(5):
        with pytest.raises(TimeoutError), watchdog.until(after(0.05)):
            await asyncio.Event().wait()


async def test_a_deadline_that_is_past_is_late(watchdog: Watchdog) -> None:
    with pytest.raises(TimeoutError), watchdog.until(after(-1)):
        await asyncio.Event().wait()


async def test_between_two_waits_nothing_is_late(watchdog: Watchdog) -> None:
    for _ in range(3):
        with watchdog.until(after(0.05)):
            await asyncio.sleep(0)
        await asyncio.sleep(0.1)


async def test_cancelling_is_not_being_late(watchdog: Watchdog) -> None:
    async def wait() -> None:
        with watchdog.until(after(60)):
            await asyncio.Event().wait()

    waiting = asyncio.create_task(wait())
    await asyncio.sleep(0.01)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting


async def test_a_limit_further_out_is_its_own(watchdog: Watchdog) -> None:
    async def wait() -> None:
        async with asyncio.timeout(0.05):
            with watchdog.until(after(60)):
                await asyncio.Event().wait()

    with pytest.raises(TimeoutError):
        await wait()
    assert not left_cancelled()


async def test_an_error_is_told_as_it_is(watchdog: Watchdog) -> None:
    with pytest.raises(ValueError, match="told"), watchdog.until(after(60)):
        raise ValueError("told")


async def test_a_deadline_that_is_moved_in_time_is_not_met(watchdog: Watchdog) -> None:
    with watchdog.until(after(0.1)):
        for _ in range(6):
            await asyncio.sleep(0.04)
            watchdog.until(after(0.1))


async def test_a_deadline_that_is_moved_nearer_is_met(watchdog: Watchdog) -> None:
    async def wait() -> None:
        with watchdog.until(after(60)):
            watchdog.until(after(0.05))
            await asyncio.Event().wait()

    async with asyncio.timeout(5):
        with pytest.raises(TimeoutError):
            await wait()
    assert not left_cancelled()


async def test_who_takes_no_notice_is_told_once(watchdog: Watchdog) -> None:
    """A second cancel would be left behind in the task."""
    with watchdog.until(after(-1)):
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        watchdog.until(after(-1))
        await asyncio.sleep(0.02)
    assert not left_cancelled()
