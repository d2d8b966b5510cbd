import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing

import orjson
import pytest

from bus.memory import MemoryBus
from chat.typing import REMEMBERED, Typing, TypingNotice
from errors import NotFound
from tests.chat.conftest import SECONDS, Core
from tests.waiting import until


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("chat.typing.time", clock)
    return clock


@pytest.fixture
def bus() -> MemoryBus:
    return MemoryBus()


@pytest.fixture
async def typing(core: Core, bus: MemoryBus) -> AsyncIterator[Typing]:
    yield Typing(bus, core.conversations)
    assert not bus._channels, "a follower was left behind"


async def first_notice(typing: Typing, bus: MemoryBus, user: str | None, conversation: str | None, tell: str) -> object:
    """The first notice that the follower gets when both it and `tell` have typed, in this order."""

    async def read() -> TypingNotice:
        async with aclosing(typing.follow(user, conversation)) as notices:
            return await anext(notices)

    reading = asyncio.create_task(read())
    await until(lambda: bool(bus._channels))
    if user is not None:
        assert await typing.tell(user, "me", conversation)
    assert await typing.tell(tell, "them", conversation)
    async with asyncio.timeout(SECONDS):
        return await reading


async def test_everyone_but_the_sender_is_told(typing: Typing, bus: MemoryBus) -> None:
    notice = await first_notice(typing, bus, "me", None, "them")
    assert isinstance(notice, TypingNotice)
    assert (notice.user_id, notice.username, notice.conversation_id) == ("them", "them", None)


async def test_a_guest_has_no_name(typing: Typing, bus: MemoryBus) -> None:
    async with bus.subscribe("typing:public") as messages:
        await typing.tell("guest", None)
        assert b"username" not in await anext(messages)


async def test_a_place_is_the_same_under_both_its_ids(typing: Typing, bus: MemoryBus, core: Core) -> None:
    user = await core.user()
    conversation = await core.conversation(user)
    async with bus.subscribe(f"typing:{conversation.id}") as messages:
        await typing.tell(user, "me", conversation.id)
        assert orjson.loads(await anext(messages))["user_id"] == user


async def test_someone_else_s_conversation_is_not_found(typing: Typing, core: Core) -> None:
    conversation = await core.conversation(await core.user())
    stranger = await core.user()
    with pytest.raises(NotFound):
        await typing.tell(stranger, "x", conversation.id)
    for who in (stranger, None):
        with pytest.raises(NotFound):
            await anext(typing.follow(who, conversation.id))


async def test_at_most_one_notice_in_two_seconds_from_one_user_in_one_place(
    typing: Typing, core: Core, clock: Clock
) -> None:
    user = await core.user()
    place = (await core.conversation(user)).id
    assert await typing.tell(user, "me")
    assert not await typing.tell(user, "me")
    assert await typing.tell(user, "me", place), "another place"
    assert await typing.tell("other", "other"), "another user"
    clock.now += 1.99
    assert not await typing.tell(user, "me")
    clock.now += 0.02
    assert await typing.tell(user, "me")


async def test_what_is_remembered_has_a_bound(typing: Typing, clock: Clock) -> None:
    for number in range(REMEMBERED + 10):
        await typing.tell(f"user_{number}", None)
    assert len(typing._last) == REMEMBERED
    assert not await typing.tell(f"user_{REMEMBERED}", None)
    assert await typing.tell("user_0", None), "forgotten: at worst a notice too many"
