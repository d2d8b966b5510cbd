"""The queue in front of the models is fair between users, whatever comes, goes and gives up."""

import asyncio
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from chat.admission import FairGate

STEPS = st.lists(
    st.tuples(st.sampled_from(["ask", "ask", "ask", "end", "leave"]), st.integers(0, 3), st.integers(0, 9)), max_size=60
)


class Queue:
    """A gate with those who ask for places, and who got one when."""

    def __init__(self, places: int) -> None:
        self.gate = FairGate(places)
        self.served: list[tuple[str, int]] = []
        self.waiting: list[tuple[str, int, asyncio.Task[None]]] = []
        self.inside = 0
        self._numbers: Counter[str] = Counter()

    async def ask(self, user: str) -> None:
        self._numbers[user] += 1
        number = self._numbers[user]

        async def enter() -> None:
            await self.gate.acquire(user)
            self.inside += 1
            self.served.append((user, number))

        self.waiting.append((user, number, asyncio.create_task(enter())))
        await self.settle()

    async def end(self) -> None:
        if self.inside:
            self.inside -= 1
            self.gate.release()
        await self.settle()

    async def leave(self, index: int) -> None:
        if self.waiting:
            self.waiting[index % len(self.waiting)][2].cancel()
        await self.settle()

    async def settle(self) -> None:
        for _ in range(4):
            await asyncio.sleep(0)
        self.waiting = [one for one in self.waiting if not one[2].done()]


@given(st.integers(1, 3), STEPS)
def test_places_are_neither_lost_nor_made_and_each_user_s_order_is_kept(
    places: int, steps: list[tuple[str, int, int]]
) -> None:
    """A place that is lost at a cancel is gone for the life of the process; one too many overloads the model."""

    async def play() -> None:
        queue = Queue(places)
        for what, user, index in steps:
            if what == "ask":
                await queue.ask(f"user{user}")
            elif what == "end":
                await queue.end()
            else:
                await queue.leave(index)
            assert queue.inside <= places
            assert queue.inside == places or not queue.waiting
            assert queue.gate.full == (queue.inside == places)
        while queue.inside:
            await queue.end()
        assert queue.waiting == []
        for name in {name for name, _ in queue.served}:
            mine = [number for one, number in queue.served if one == name]
            assert mine == sorted(mine)

    asyncio.run(play())


@given(st.integers(1, 30), st.integers(1, 4))
def test_nobody_waits_behind_all_of_another_s(greedy: int, modest: int) -> None:
    """Whoever comes behind a user with thirty waiting is served second, not thirty-first."""

    async def play() -> None:
        queue = Queue(1)
        for _ in range(greedy + 1):
            await queue.ask("greedy")
        others = [f"modest{number}" for number in range(modest)]
        for user in others:
            assert queue.gate.position(user) <= 1 + len(others)
            await queue.ask(user)
        for _ in range(modest + 1):
            await queue.end()
        assert {user for user, _ in queue.served[1:]} >= set(others)
        while queue.inside:
            await queue.end()

    asyncio.run(play())
