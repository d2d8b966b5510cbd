"""What a legacy socket remembers, and the line of its chats."""

from __future__ import annotations

import asyncio

from chat.prompt import estimate_tokens
from providers.base import Role
from rest.exchange import MEMORY_MESSAGES, MEMORY_TOKENS, Asked, Line, Memory


def test_memory_is_the_exchange_in_order() -> None:
    memory = Memory(2_000, 100_000)
    memory.remember("q1", "a1")
    memory.remember("q2", "a2")
    assert [(turn.role, turn.content) for turn in memory.turns()] == [
        (Role.USER, "q1"),
        (Role.ASSISTANT, "a1"),
        (Role.USER, "q2"),
        (Role.ASSISTANT, "a2"),
    ]


def test_memory_leaves_out_what_was_never_answered() -> None:
    memory = Memory(2_000, 100_000)
    memory.remember("q1", " \n")
    assert memory.turns() == []


def test_memory_is_bounded_in_messages() -> None:
    memory = Memory(2_000, 100_000)
    for number in range(MEMORY_MESSAGES * 2):
        memory.remember(f"q{number}", "a")
    turns = memory.turns()
    assert len(turns) == MEMORY_MESSAGES
    assert turns[-2].content == f"q{MEMORY_MESSAGES * 2 - 1}"


def test_memory_is_bounded_in_tokens_and_so_in_characters() -> None:
    memory = Memory(2_000, 100_000)
    for number in range(20):
        memory.remember(f"{number} " + "x" * 5_000, "答" * 500)
        assert sum(estimate_tokens(turn.content) for turn in memory.turns()) <= MEMORY_TOKENS
        assert memory.turns()[-2].content.startswith(f"{number} ")


def test_memory_forgets_an_exchange_that_is_too_long_on_its_own() -> None:
    memory = Memory(2_000, 100_000)
    memory.remember("q", "a")
    memory.remember("q", "x" * 400_000)
    assert memory.turns() == []
    memory.remember("q", "b")
    assert [turn.content for turn in memory.turns()] == ["q", "b"]


def test_memory_keeps_to_what_a_prompt_may_hold() -> None:
    memory = Memory(messages=4, chars=5)
    for number in range(3):
        memory.remember(f"q{number}", "a")
    assert [turn.content for turn in memory.turns()] == ["q2", "a"]
    memory.remember("q3", "123456")
    assert memory.turns() == []
    memory = Memory(messages=1, chars=5)
    memory.remember("q", "a")
    assert memory.turns() == []


async def test_line_holds_one_and_four_waiting() -> None:
    line = Line()
    assert [line.add(Asked(str(number))) for number in range(6)] == [True] * 5 + [False]
    assert await line.next() == Asked("0")
    assert not line.add(Asked("still full"))
    line.done()
    assert line.add(Asked("5"))
    assert not line.add(Asked("full again"))


async def test_gaps_keep_their_place_and_join() -> None:
    line = Line()
    line.gap()
    line.add(Asked("a"))
    for _ in range(1_000):
        line.gap()
    line.add(Asked("b"))
    line.gap()
    assert [await line.next() for _ in range(5)] == [1, Asked("a"), 1_000, Asked("b"), 1]


async def test_next_waits() -> None:
    line = Line()
    waiting = asyncio.create_task(line.next())
    await asyncio.sleep(0)
    assert not waiting.done()
    line.add(Asked("a"))
    assert await waiting == Asked("a")
