"""Whatever a user follows for long: a run, who types, everything in one conversation, everything that is the viewer's.
Each ends at once when the right to it does.

What is told of a conversation or of a viewer is replayable behind a cursor, then live: a client that comes back with it
misses nothing, or is told to fetch again.
"""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from chat.access import Rights
from chat.chats import Chats
from chat.cursor import MAX_RUNS, Cursor
from chat.events import RunEvent, RunFinished
from chat.feed import Feed, TooOld
from chat.gathering import Gathering
from chat.typing import Typing, TypingNotice
from errors import BadUserInput, NotFound
from models.change import Change, ChangeKind, newest_change
from models.conversation import kept_conversation
from models.database import Database
from models.member import readable_conversation
from models.run import runs_writing


@dataclass(frozen=True, slots=True)
class Happening:
    """`audience` is the conversation's own id, or the viewer's. `what` is a change, an event of a run, a notice of
    typing, or None: the cursor was too old, fetch again."""

    audience: str
    cursor: str
    what: Change | RunEvent | TypingNotice | None


@dataclass(frozen=True, slots=True)
class _Begun:
    """Answers that have begun by `position`; `resync`: what was behind the cursor is no longer kept."""

    position: int
    run_ids: Sequence[str]
    resync: bool = False


@dataclass(frozen=True, slots=True)
class _Over:
    """There is no more of this answer."""

    run_id: str


class Happenings:
    def __init__(self, database: Database, feed: Feed, rights: Rights, chats: Chats, typing: Typing) -> None:
        self._database = database
        self._feed = feed
        self._rights = rights
        self._chats = chats
        self._typing = typing

    async def of_run(self, user_id: str, run_id: str, after: int | None) -> AsyncGenerator[RunEvent, None]:
        """The log of one run behind `after`; ends behind RunFinished.

        Raises:
            NotFound: no such run, or no part in its conversation any more.
            BadUserInput: `after` is out of range.
        """
        conversation_id = (await self._chats.own_run(user_id, run_id)).conversation_id
        async with aclosing(self._chats.follow(user_id, run_id, after)) as events:
            if conversation_id is None:
                async for event in events:
                    yield event
                return
            async with self._rights.guard(user_id, conversation_id) as (guard, _), aclosing(guard.each(events)) as mine:
                async for event in mine:
                    yield event

    async def of_typing(self, user_id: str, key: str | None) -> AsyncGenerator[TypingNotice, None]:
        """Who types in a conversation, or, with none, in the legacy socket's broadcast.

        Raises:
            NotFound: no such conversation, or no part in it any more.
        """
        if key is None:
            async with aclosing(self._typing.follow(user_id)) as notices:
                async for notice in notices:
                    yield notice
            return
        async with (
            self._rights.guard(user_id, key) as (guard, conversation),
            aclosing(self._typing.follow(user_id, conversation.id)) as notices,
            aclosing(guard.each(notices)) as mine,
        ):
            async for notice in mine:
                yield notice

    async def of_viewer(self, user_id: str, after: str | None) -> AsyncGenerator[Happening, None]:
        """What happens to the viewer, on any device.

        Raises:
            BadUserInput: `after` is no cursor.
        """
        # Only the changes' part of it: no run's text is told here.
        position = await self._feed.now(user_id) if after is None else Cursor.decode(after).change
        while True:
            try:
                async with aclosing(self._feed.follow(user_id, position)) as batches:
                    async for changes in batches:
                        for change in changes:
                            position = change.id or position
                            yield Happening(user_id, Cursor(position, {}).encode(), change)
            except TooOld:
                position = await self._feed.now(user_id)
                yield Happening(user_id, Cursor(position, {}).encode(), None)

    async def of_conversation(self, user_id: str, key: str, after: str | None) -> AsyncGenerator[Happening, None]:
        """What happens in a conversation; ends behind its deletion.

        Raises:
            NotFound: no such conversation, or no part in it any more.
            BadUserInput: `after` is no cursor.
        """
        cursor = None if after is None else Cursor.decode(after)
        async with self._rights.guard(user_id, key) as (guard, conversation), Gathering() as gathering:
            following = _Following(self, user_id, conversation.id, gathering)
            async with aclosing(following.each(cursor)) as all_of_it, aclosing(guard.each(all_of_it)) as mine:
                async for happening in mine:
                    yield happening

    async def moment(self, conversation_id: str) -> _Begun:
        """The position of now, and the answers that are written. Nothing is begun meanwhile: none of them begins behind
        the position."""
        async with self._database.still(conversation_id) as session:
            position = await newest_change(session)
            return _Begun(position, [run.id for run in await runs_writing(session, conversation_id)])

    async def changes(self, conversation_id: str, after: int) -> AsyncGenerator[Change, None]:
        """
        Raises:
            TooOld
        """
        async with aclosing(self._feed.follow(conversation_id, after)) as batches:
            async for changes in batches:
                for change in changes:
                    yield change

    def run_events(self, user_id: str, conversation_id: str, run_id: str, seq: int) -> AsyncGenerator[RunEvent, None]:
        """Of a run of this conversation alone: the follower's right is watched there."""
        return self._chats.follow(user_id, run_id, None if seq < 0 else seq, within=conversation_id)

    def notices(self, user_id: str, conversation_id: str) -> AsyncGenerator[TypingNotice, None]:
        return self._typing.follow(user_id, conversation_id)

    async def check(self, user_id: str, conversation_id: str) -> None:
        """
        Raises:
            NotFound: the user has no part in it any more; not if it is gone itself, which is told on its own.
        """
        async with self._database.read() as session:
            if await readable_conversation(session, user_id, conversation_id) is not None:
                return
            if await kept_conversation(session, conversation_id) is not None:
                raise NotFound("对话不存在", field="conversationId")


class _Following:
    """One reader of one conversation: its sources, and a cursor that moves with what it has taken."""

    def __init__(self, happenings: Happenings, user_id: str, conversation_id: str, gathering: Gathering) -> None:
        self._happenings = happenings
        self._user_id = user_id
        self._id = conversation_id
        self._gathering = gathering
        self._cursor = Cursor(0, {})
        self._followed: set[str] = set()
        self._places = asyncio.Semaphore(MAX_RUNS)

    async def each(self, cursor: Cursor | None) -> AsyncGenerator[Happening, None]:
        if cursor is None:
            now = await self._happenings.moment(self._id)
            cursor = Cursor(now.position, dict.fromkeys(now.run_ids, -1))
        self._cursor = cursor
        for run_id, seq in cursor.runs.items():
            await self._reserve(run_id)
            self._gathering.add(self._run(run_id, seq))
        self._gathering.add(self._changes(cursor.change))
        self._gathering.add(self._notices())
        while True:
            what = await self._gathering.next()
            if isinstance(what, Change) and what.kind == ChangeKind.CHANGED:
                # Another process may have put the user out: what comes behind that change is not for them.
                await self._happenings.check(self._user_id, self._id)
            told, happening = self._take(what)
            if told:
                yield Happening(self._id, cursor.encode(), happening)
            if isinstance(what, Change) and what.kind == ChangeKind.DELETED:
                return

    def _take(self, what: object) -> tuple[bool, Change | RunEvent | TypingNotice | None]:
        """Move the cursor; whether the reader is told, and of what."""
        cursor = self._cursor
        match what:
            case _Begun():
                cursor.change = what.position
                for run_id in what.run_ids:
                    cursor.runs[run_id] = -1
                    self._gathering.add(self._run(run_id, -1))
                return what.resync, None
            case _Over():
                cursor.runs.pop(what.run_id, None)
                self._followed.discard(what.run_id)
                self._places.release()
                return False, None
            case Change():
                cursor.change = what.id or cursor.change
                return True, what
            case RunFinished():
                cursor.runs.pop(what.run_id, None)
                return True, what
            case RunEvent():
                cursor.runs[what.run_id] = what.seq
                return True, what
            case TypingNotice():
                return True, what
        raise AssertionError(what)

    async def _reserve(self, run_id: str) -> None:
        self._followed.add(run_id)
        await self._places.acquire()

    async def _changes(self, after: int) -> None:
        while True:
            try:
                async with aclosing(self._happenings.changes(self._id, after)) as changes:
                    async for change in changes:
                        if change.kind == ChangeKind.RUN:
                            await self._begin(change.id or 0, [change.ref])
                        else:
                            await self._gathering.put(change)
            except TooOld:
                now = await self._happenings.moment(self._id)
                after = now.position
                await self._begin(after, now.run_ids, resync=True)

    async def _begin(self, position: int, run_ids: Sequence[str], *, resync: bool = False) -> None:
        fresh = [run_id for run_id in run_ids if run_id not in self._followed]
        for run_id in fresh:
            await self._reserve(run_id)
        await self._gathering.put(_Begun(position, fresh, resync))

    async def _run(self, run_id: str, seq: int) -> None:
        try:
            async with aclosing(self._happenings.run_events(self._user_id, self._id, run_id, seq)) as events:
                async for event in events:
                    await self._gathering.put(event)
        except (NotFound, BadUserInput):
            # The conversation went with the run, or the cursor is a forged one: the changes say what there is.
            pass
        await self._gathering.put(_Over(run_id))

    async def _notices(self) -> None:
        try:
            async with aclosing(self._happenings.notices(self._user_id, self._id)) as notices:
                async for notice in notices:
                    await self._gathering.put(notice)
        except NotFound:
            # Deleted a moment ago, which is told on its own.
            return
