"""How many answers a user may have under way, and begin in a minute.

Asked twice. First in this process, which costs nothing and refuses most of a flood; then in the transaction that stores
the run, where the database knows of all processes. A user's transactions that begin runs stand in a row there, so that
none of them looks before the one in front has begun its run.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from sqlmodel.ext.asyncio.session import AsyncSession

from chat.jobs import EngineLimits, Place
from errors import RateLimited, Unavailable
from models.run import Run, count_under_way, runs_writing, runs_writing_and_under_way
from models.run_rate import count_begun
from rates import Rates


class Places:
    """Of this process."""

    def __init__(self, limits: EngineLimits) -> None:
        self._limits = limits
        self._per_user: Counter[str | None] = Counter()
        self._begun = Rates(limits.per_minute)

    @property
    def taken(self) -> int:
        return self._per_user.total()

    @contextmanager
    def take(self, user_id: str | None, *, again: bool = False) -> Iterator[Place]:
        """Reserve a place for one run; given back if the block leaves without using it. `again`: the run had one in a
        process that died, and was counted then.

        Raises:
            RateLimited: the user has too many runs under way, or began too many.
            Unavailable: the queue is full.
        """
        limits = self._limits
        if limits.counted and self.taken >= limits.per_process + limits.queue:
            raise Unavailable("Too many answers are waiting; try again", retry_after=5)
        if user_id is not None and not again:
            if limits.counted:
                _check_under_way(limits, self._per_user[user_id])
            _check_begun(limits, self._begun.take(user_id))
        place = Place(user_id)
        self._per_user[user_id] += 1
        try:
            yield place
        finally:
            if not place.used:
                self.leave(user_id)

    def leave(self, user_id: str | None) -> None:
        self._per_user[user_id] -= 1
        if not self._per_user[user_id]:
            del self._per_user[user_id]


async def admit(session: AsyncSession, limits: EngineLimits, user_id: str | None) -> None:
    """Let this transaction store one more run of the user's. A guest is nobody who could be counted.

    Raises:
        RateLimited: they have too many runs under way, or began too many, over all processes.
    """
    if user_id is None or not limits.counted:
        return
    _check_begun(limits, await count_begun(session, user_id, limits.per_minute))
    _check_under_way(limits, await count_under_way(session, user_id))


async def admit_in(session: AsyncSession, limits: EngineLimits, user_id: str, conversation_id: str) -> Sequence[Run]:
    """`admit`, and the active runs of a conversation, oldest first, by the same statement."""
    if not limits.counted:
        return await runs_writing(session, conversation_id)
    # In this order: behind it nobody else's transaction begins a run of the user's.
    _check_begun(limits, await count_begun(session, user_id, limits.per_minute))
    runs, under_way = await runs_writing_and_under_way(session, conversation_id, user_id)
    _check_under_way(limits, under_way)
    return runs


def _check_under_way(limits: EngineLimits, count: int) -> None:
    if count >= limits.per_user:
        raise RateLimited(f"At most {limits.per_user} answers at a time", retry_after=2)


def _check_begun(limits: EngineLimits, wait: int) -> None:
    if wait:
        raise RateLimited(f"At most {limits.per_minute} answers a minute", retry_after=wait)
