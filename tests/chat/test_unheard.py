"""Windows that the database took and never answered: it was stopped, or the connection cut, in between.

Whoever follows at another process reads them. What that one saw must hold: the number, wherever it is brought, and the
text, however the run ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

import chat.writer
from chat.events import RunFinished, text_of
from errors import BadUserInput, Unavailable
from models.address import Address
from models.journal import Piece
from models.journal_writer import JournalWriter
from models.message import Message
from models.run import RunStatus
from tests.chat.conftest import SECONDS, Core, open_core
from tests.waiting import until

pytestmark = pytest.mark.on_both


class Unheard(JournalWriter):
    """Once `deaf`, windows are stored and the answer is lost; `gone`: nothing is stored any more either."""

    def __init__(self, inner: JournalWriter) -> None:
        self.inner = inner
        self.deaf = False
        self.gone = False

    async def append(self, worker: str, body: bytes) -> int:
        gone, self.gone = self.gone, self.deaf
        row = 0 if gone else await self.inner.append(worker, body)
        if self.deaf:
            raise Unavailable("The log cannot be written now; try again", retry_after=1)
        return row

    async def checkpoint(self, worker: str, segments: Sequence[Piece], up_to: int) -> None:
        if self.deaf:
            raise Unavailable
        await self.inner.checkpoint(worker, segments, up_to)

    async def aclose(self) -> None:
        await self.inner.aclose()


def make_deaf(core: Core) -> Unheard:
    journal = Unheard(core.engine.writer._journal)
    core.engine.writer._journal = journal
    return journal


async def seen_elsewhere(reader: Core, user: str, run_id: str, wanted: str) -> int:
    """Follow until there is this text; the number of its last event."""
    text, seq = "", -1
    async with asyncio.timeout(SECONDS):
        async for event in reader.chats.follow(user, run_id, None):
            text, seq = text + text_of([event]), event.seq
            if text == wanted:
                break
    return seq


async def test_a_number_from_elsewhere_is_waited_for(address: Address) -> None:
    async with open_core(address) as writer, open_core(address) as reader:
        user = await writer.user()
        run = await writer.send(user, "text=a,wait=0.5,text=b,wait=1,text=c")
        await until(lambda: (log := writer.engine.log_of(run.id)) is not None and log.text == "a")
        journal = make_deaf(writer)
        journal.deaf = True
        seen = await seen_elsewhere(reader, user, run.id, "ab")
        log = writer.engine.log_of(run.id)
        assert log is not None
        assert log.last_seq < seen, "the writer has not heard of it"
        with pytest.raises(BadUserInput):
            await writer.events(user, run, seen + 1)
        rest = asyncio.create_task(writer.events(user, run, seen))
        await asyncio.sleep(0.1)
        assert not rest.done()
        journal.deaf = False
        assert text_of(await rest) == "c"
        assert text_of(await reader.events(user, run)) == "abc"


async def test_what_was_seen_elsewhere_is_in_the_end_of_a_run_that_is_given_up(
    address: Address, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chat.writer, "PATIENCE_SECONDS", 0.6)
    async with open_core(address) as writer, open_core(address) as reader:
        user = await writer.user()
        run = await writer.send(user, "text=a,wait=0.5,text=b,wait=9,text=c")
        await until(lambda: (log := writer.engine.log_of(run.id)) is not None and log.text == "a")
        here = asyncio.create_task(writer.events(user, run))
        make_deaf(writer).deaf = True
        seen = await seen_elsewhere(reader, user, run.id, "ab")
        with pytest.raises(Unavailable):
            await writer.events(user, run, seen)
        with pytest.raises(Unavailable):
            await here
        ended = await writer.engine.wait_for_end(run)
        stored = await reader.row(run.id)
        assert (ended.status, stored.status) == (RunStatus.INTERRUPTED, RunStatus.INTERRUPTED)
        for place in (writer, reader):
            rest = await place.events(user, run, seen)
            assert [(type(event), event.seq) for event in rest] == [(RunFinished, seen + 1)]
            assert text_of(await place.events(user, run)) == "ab"
        async with reader.database.read() as session:
            message = await session.get(Message, run.message_id)
        assert message is not None
        assert message.content == "ab"
