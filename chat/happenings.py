"""Everything that happens in one conversation, or to one viewer: replayable behind a cursor, then live.

A cursor is opaque: the last change that was seen and, for each answer under way, the last event of it. A client that
comes back with it misses nothing, or is told to fetch again.
"""

import asyncio
import base64
import binascii
from collections.abc import AsyncGenerator, Coroutine
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from chat.access import readable
from chat.chats import Chats
from chat.events import RunEvent, RunFinished
from chat.feed import Feed, TooOld
from chat.typing import Typing, TypingNotice
from errors import BadUserInput, NotFound
from models.change import Change, ChangeKind
from models.database import Database
from models.run import runs_writing

BACKLOG = 32
"""Happenings that wait for a slow reader; behind them the sources wait."""
MAX_RUNS = 16


@dataclass(slots=True)
class Cursor:
    """`runs`: the last seq seen of each answer under way, -1 before the first."""

    change: int
    runs: dict[str, int]

    def encode(self) -> str:
        parts = [str(self.change), *(f"{run_id}.{seq + 1}" for run_id, seq in self.runs.items())]
        return base64.urlsafe_b64encode("~".join(parts).encode()).decode().rstrip("=")

    @classmethod
    def decode(cls, text: str) -> "Cursor":
        """
        Raises:
            BadUserInput: not a cursor of ours.
        """
        try:
            raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True).decode("ascii")
            change, *runs = raw.split("~")
            pairs = [pair.rsplit(".", 1) for pair in runs[:MAX_RUNS]]
            return cls(_number(change), {run_id: _number(seq) - 1 for run_id, seq in pairs})
        except (binascii.Error, ValueError):
            raise BadUserInput("after is not a cursor", field="after") from None


def _number(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 15:
        raise ValueError(text)
    return int(text)


@dataclass(frozen=True, slots=True)
class Happening:
    """`what` is a change, an event of a run, a notice of typing, or None: the cursor was too old, fetch again."""

    cursor: str
    what: Change | RunEvent | TypingNotice | None


class Happenings:
    def __init__(self, database: Database, feed: Feed, chats: Chats, typing: Typing) -> None:
        self._database = database
        self._feed = feed
        self._chats = chats
        self._typing = typing

    async def of_viewer(self, user_id: str, after: str | None) -> AsyncGenerator[Happening, None]:
        """What happens to the viewer, on any device.

        Raises:
            BadUserInput: `after` is no cursor.
        """
        cursor = Cursor.decode(after) if after is not None else Cursor(await self._feed.now(), {})
        while True:
            try:
                async with aclosing(self._feed.follow(user_id, cursor.change)) as batches:
                    async for changes in batches:
                        for change in changes:
                            cursor.change = change.id or 0
                            yield Happening(cursor.encode(), change)
            except TooOld:
                cursor.change = await self._feed.now()
                yield Happening(cursor.encode(), None)

    async def of_conversation(self, user_id: str, key: str, after: str | None) -> AsyncGenerator[Happening, None]:
        """What happens in a conversation; ends behind its deletion.

        Raises:
            NotFound: no such conversation, or no part in it any more.
            BadUserInput: `after` is no cursor.
        """
        conversation_id = await self._readable(user_id, key)
        cursor = await self._begin(conversation_id, after)
        async with _Gathering() as gathering:
            for run_id, seq in list(cursor.runs.items()):
                gathering.add(self._run(gathering, user_id, run_id, seq))
            gathering.add(self._changes(gathering, conversation_id, cursor.change))
            gathering.add(self._notices(gathering, user_id, conversation_id))
            while True:
                what = await gathering.next()
                if isinstance(what, Change) and what.kind != ChangeKind.DELETED:
                    await self._readable(user_id, conversation_id)
                if isinstance(what, TypingNotice):
                    await self._readable(user_id, conversation_id)
                if isinstance(what, Change) and what.ref in gathering.runs:
                    cursor.change = max(cursor.change, what.id or 0)
                    continue
                self._advance(cursor, what)
                if isinstance(what, Change) and what.kind == ChangeKind.RUN:
                    gathering.add(self._run(gathering, user_id, what.ref, -1))
                    continue
                if isinstance(what, _Resync):
                    gathering.add(self._changes(gathering, conversation_id, what.now))
                    yield Happening(cursor.encode(), None)
                    continue
                yield Happening(cursor.encode(), what)
                if isinstance(what, Change) and what.kind == ChangeKind.DELETED:
                    return

    async def _begin(self, conversation_id: str, after: str | None) -> Cursor:
        if after is not None:
            return Cursor.decode(after)
        # The position first: a run that begins between the two is then met twice rather than missed.
        position = await self._feed.now()
        async with self._database.read() as session:
            running = await runs_writing(session, conversation_id)
        return Cursor(position, {run.id: -1 for run in running[-MAX_RUNS:]})

    @staticmethod
    def _advance(cursor: Cursor, what: object) -> None:
        if isinstance(what, Change):
            cursor.change = max(cursor.change, what.id or 0)
            if what.kind == ChangeKind.RUN:
                cursor.runs.setdefault(what.ref, -1)
        elif isinstance(what, _Resync):
            cursor.change = what.now
        elif isinstance(what, RunFinished):
            cursor.runs.pop(what.run_id, None)
        elif isinstance(what, RunEvent):
            cursor.runs[what.run_id] = what.seq

    async def _readable(self, user_id: str, key: str) -> str:
        async with self._database.read() as session:
            conversation = await readable(session, user_id, key)
        if conversation is None:
            raise NotFound("对话不存在", field="conversationId")
        return conversation.id

    async def _changes(self, gathering: "_Gathering", conversation_id: str, after: int) -> None:
        try:
            async with aclosing(self._feed.follow(conversation_id, after)) as batches:
                async for changes in batches:
                    for change in changes:
                        await gathering.put(change)
        except TooOld:
            await gathering.put(_Resync(await self._feed.now()))

    async def _run(self, gathering: "_Gathering", user_id: str, run_id: str, seq: int) -> None:
        if run_id in gathering.runs:
            return
        gathering.runs.add(run_id)
        try:
            async with aclosing(self._chats.follow(user_id, run_id, None if seq < 0 else seq)) as events:
                async for event in events:
                    await gathering.put(event)
        except (NotFound, BadUserInput):
            # The conversation went with the run, or the cursor is a forged one: the changes say what there is.
            return

    async def _notices(self, gathering: "_Gathering", user_id: str, conversation_id: str) -> None:
        async with aclosing(self._typing.follow(user_id, conversation_id)) as notices:
            async for notice in notices:
                await gathering.put(notice)


@dataclass(frozen=True, slots=True)
class _Resync:
    now: int


class _Gathering:
    """Several sources as one stream with a bound; the first source that fails ends it."""

    def __init__(self) -> None:
        self.runs: set[str] = set()
        self._queue: asyncio.Queue[object] = asyncio.Queue(BACKLOG)
        self._tasks: set[asyncio.Task[None]] = set()
        self._failed: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()

    async def __aenter__(self) -> "_Gathering":
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def add(self, source: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(source)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and not self._failed.done():
            self._failed.set_result(error)

    async def put(self, what: object) -> None:
        await self._queue.put(what)

    async def next(self) -> Any:
        if not self._queue.empty():
            return self._queue.get_nowait()
        getting = asyncio.create_task(self._queue.get())
        waiting: set[asyncio.Future[Any]] = {getting, self._failed}
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            if not getting.done():
                getting.cancel()
        if getting.done() and not getting.cancelled():
            return getting.result()
        raise self._failed.result()
