"""Places of one process; those of all are in test_sharing."""

from __future__ import annotations

import asyncio

import pytest

from seats import Full, Seats


async def nobody(key: str, own: int, most: int) -> int:
    return 0


async def test_places_are_taken_and_given_back() -> None:
    seats = Seats(2, nobody)
    first = await seats.take("a")
    with await seats.take("a"):
        with pytest.raises(Full):
            await seats.take("a")
        with await seats.take("b"):
            pass
    first.close()
    first.close()
    held = [await seats.take("a") for _ in range(2)]
    with pytest.raises(Full):
        await seats.take("a")
    for place in held:
        place.close()


async def test_those_of_others_count() -> None:
    asked = []

    async def others(key: str, own: int, most: int) -> int:
        asked.append((key, own, most))
        return 2

    seats = Seats(3, others)
    with await seats.take("a"), pytest.raises(Full):
        await seats.take("a")
    assert asked == [("a", 1, 3), ("a", 2, 3)]


async def test_who_leaves_while_others_are_asked_holds_nothing() -> None:
    answer = asyncio.get_running_loop().create_future()

    async def others(key: str, own: int, most: int) -> int:
        return int(await asyncio.shield(answer))

    seats = Seats(1, others)
    taking = asyncio.create_task(seats.take("a"))
    await asyncio.sleep(0)
    with pytest.raises(Full):
        await seats.take("a")
    taking.cancel()
    await asyncio.wait([taking])
    answer.set_result(0)
    with await seats.take("a"):
        pass


async def test_changes_are_told_once_and_all_places_by_turns() -> None:
    seats = Seats(5, nobody)
    held = [await seats.take(key) for key in "abc"]
    assert seats.changed(10) == [], "whoever was asked for a place knows of it"
    held[0].close()
    (await seats.take("b")).close()
    assert seats.changed(1) == [("a", 0)]
    assert seats.changed(10) == [("b", 1)]
    assert seats.changed(10) == []
    told = [place for _ in range(6) for place in seats.some(1)]
    assert set(told) == {("b", 1), ("c", 1)}
    seats.tell_again()
    assert seats.changed(10) == [("b", 1), ("c", 1)]
    held[1].close()
    seats.forget_changes()
    assert seats.changed(10) == []


async def test_without_a_limit_nothing_is_counted_or_asked() -> None:
    async def others(key: str, own: int, most: int) -> int:
        raise AssertionError

    seats = Seats(None, others)
    with await seats.take("a"):
        pass
    assert seats.changed(10) == []
