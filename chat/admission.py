"""The queue in front of the models: so many runs at a time, and users in turn, however many each has waiting."""

import asyncio
from collections import OrderedDict, deque


class FairGate:
    """A semaphore whose waiters are served user by user, each user's in order."""

    def __init__(self, places: int) -> None:
        self._free = places
        self._queues: OrderedDict[str | None, deque[asyncio.Future[None]]] = OrderedDict()

    @property
    def full(self) -> bool:
        return self._free == 0

    def position(self, user_id: str | None) -> int:
        """How many runs would be served before this user's next one: each other user's as often as this one's turn."""
        mine = len(self._queues.get(user_id, ()))
        others = sum(min(len(queue), mine + 1) for user, queue in self._queues.items() if user != user_id)
        return mine + others

    async def acquire(self, user_id: str | None) -> None:
        if self._free and not self._queues:
            self._free -= 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queues.setdefault(user_id, deque()).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.release()
            else:
                self._leave(user_id, turn)
            raise

    def release(self) -> None:
        """Give the place to the next user in turn."""
        while self._queues:
            user_id, queue = next(iter(self._queues.items()))
            turn = queue.popleft()
            if queue:
                self._queues.move_to_end(user_id)
            else:
                del self._queues[user_id]
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1

    def _leave(self, user_id: str | None, turn: "asyncio.Future[None]") -> None:
        queue = self._queues.get(user_id)
        if queue is not None and turn in queue:
            queue.remove(turn)
            if not queue:
                del self._queues[user_id]
