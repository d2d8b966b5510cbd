"""What a run leaves in the database when the database, or another worker, has trouble."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path

import pytest

from chat.drafts import ConversationDraft, MessageDraft
from chat.events import RunEvent, RunFinished, text_of
from errors import ErrorCode, Unavailable
from models.message import Message, messages_of
from models.run import Run, RunStatus
from models.sqlite_journal import SqliteJournal
from models.user import user_by_id
from models.worker import renew_lease
from providers.base import ModelInfo, Role
from providers.prices import flat_price
from tests.chat.conftest import LONG_AGO, SECONDS, Core, OddProvider, open_core
from tests.waiting import until

BUSY = 0.5
LONG = "words=2000"
LONG_TEXT = "".join(f"w{number} " for number in range(2_000))
LARGE = ConversationDraft(messages=[MessageDraft(Role.USER, "x" * 2_000)] * 10)
"""More than fits into the free room of a page."""


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tenth of the usual patience with a database that cannot work: the same steps in less time."""
    monkeypatch.setattr("models.sqlite.BUSY_SECONDS", BUSY)
    monkeypatch.setattr("models.sqlite_journal.BUSY_SECONDS", BUSY)
    monkeypatch.setattr("chat.records.RETRY_SECONDS", (0.02, 0.1, 0.3))
    monkeypatch.setattr("chat.writer.PATIENCE_SECONDS", 0.8)


@asynccontextmanager
async def locked(path: Path) -> AsyncIterator[None]:
    """Another process holds the file. SQLite's locks work alike between connections."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    try:
        await asyncio.to_thread(connection.execute, "BEGIN IMMEDIATE")
        yield
    finally:
        connection.close()


@asynccontextmanager
async def full_disk(core: Core) -> AsyncIterator[None]:
    """No more pages for this database: a limit that each connection has for itself."""

    async def limit(full: bool) -> None:
        async with core.database.write() as session:
            connection = await session.connection()
            pages = (await connection.exec_driver_sql("PRAGMA page_count")).scalar_one() if full else 1_000_000
            await connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
        journal = core.engine.writer._journal
        assert isinstance(journal, SqliteJournal)
        await journal._run(lambda: journal._open().execute(f"PRAGMA max_page_count = {pages}"))

    await limit(True)
    try:
        yield
    finally:
        await limit(False)


async def collect(core: Core, user: str, run: Run, seen: list[RunEvent]) -> None:
    """Follow into `seen`, which has what came in front of a failure."""
    async for event in core.chats.follow(user, run.id, None):
        seen.append(event)


async def answer_of(core: Core, user: str, run: Run) -> Message:
    assert run.message_id is not None
    async with core.database.read() as session:
        return (await messages_of(session, user, [run.message_id]))[run.message_id]


async def tokens_of(core: Core, user_id: str) -> int:
    async with core.database.read() as session:
        user = await user_by_id(session, user_id)
    assert user is not None
    return user.total_tokens


async def stored(core: Core, run: Run) -> Run:
    """The row, once it says that the run has ended."""
    async with asyncio.timeout(SECONDS):
        while (row := await core.row(run.id)).active:
            await asyncio.sleep(0.01)
    return row


class TestTheEnd:
    async def test_is_counted_for_the_user_once(self, core: Core) -> None:
        user = await core.user()
        await core.events(user, await core.send(user, "text=a,usage=30/12"))
        await core.events(user, await core.send(user, "text=a,usage=3/1"))
        assert await tokens_of(core, user) == 46

    async def test_waits_for_a_database_that_another_process_holds(self, path: Path) -> None:
        """Longer than one patience: the write is tried again, and the follower sees COMPLETED, later."""
        async with open_core(path) as core:
            user = await core.user()
            run = await core.send(user, "text=a,wait=0.1,text=b")
            log = core.engine.log_of(run.id)
            assert log is not None
            await until(lambda: log.text == "a")
            async with locked(path):
                following = asyncio.create_task(core.events(user, run))
                await asyncio.sleep(BUSY * 1.3)
                assert not following.done()
            end = (await following)[-1]
            assert isinstance(end, RunFinished)
            assert end.status is RunStatus.COMPLETED
            assert (await answer_of(core, user, run)).content == "ab"

    async def test_that_cannot_be_stored_is_said_and_stored_as_soon_as_it_can(self, path: Path) -> None:
        """A full disk costs the answer what came behind it: its followers are told, what they saw is kept, and the
        end is there when there is room."""
        async with open_core(path, lease=0.4) as core:
            user = await core.user()
            conversation = await core.conversation(user)
            await core.events(user, await core.send(user, "text=before", conversation))
            run = await core.send(user, f"text=first_,wait=0.2,{LONG}", conversation)
            seen: list[RunEvent] = []
            async with full_disk(core):
                with pytest.raises(Unavailable):
                    await collect(core, user, run, seen)
                with pytest.raises(Unavailable):
                    await core.conversations.create(user, LARGE)
                _, messages = await core.conversations.get(user, conversation.id)
                assert messages[1].content == "before"
                assert core.provider.active == 0, "nothing is paid for that cannot be kept"
            row = await stored(core, run)
            assert (row.status, row.error_code) == (RunStatus.INTERRUPTED, ErrorCode.UNAVAILABLE)
            answer = await answer_of(core, user, run)
            rest = await core.events(user, run, seen[-1].seq)
            # The window that was refused last may have been stored all the same: it is in the end, for everyone.
            assert (answer.content, answer.status) == (text_of([*seen, *rest]), "INTERRUPTED")
            assert answer.content.startswith("first ")
            assert (rest[-1].seq, type(rest[-1])) == (row.last_seq, RunFinished)
            assert text_of(await core.events(user, await core.send(user, "text=after", conversation))) == "after"

    async def test_that_was_never_stored_is_stored_at_the_stop(self, path: Path) -> None:
        """A whole answer whose end alone does not fit: COMPLETED it is, once there is room."""
        async with open_core(path, lease=3_000) as core:
            user = await core.user()
            run = await core.send(user, f"wait=0.05,{LONG},wait=0.1")
            log = core.engine.log_of(run.id)
            assert log is not None
            await until(lambda: log.text == LONG_TEXT)
            async with full_disk(core):
                with pytest.raises(Unavailable):
                    await core.events(user, run)
                assert (await core.row(run.id)).active
                with pytest.raises(Unavailable):
                    await core.chats.cancel(user, run.id)
                with pytest.raises(Unavailable):
                    await core.conversations.delete(user, run.conversation_id or "")
            await core.engine.aclose()
            answer = await answer_of(core, user, run)
            assert (answer.content, answer.status) == (LONG_TEXT, "COMPLETE")

    async def test_with_figures_that_no_database_takes_keeps_the_text(self, path: Path) -> None:
        class Dear(OddProvider):
            def find(self, model: str) -> ModelInfo | None:
                price = flat_price(Decimal(10**30), Decimal(0))
                return ModelInfo("odd", self.name, None, price=price) if model == "odd" else None

        async with open_core(path, providers=[Dear("a")]) as core:
            user = await core.user()
            conversation = await core.conversation(user, "odd")
            run = await core.ask(user, conversation, "odd")
            end = (await core.events(user, run))[-1]
            assert isinstance(end, RunFinished)
            assert end.error is not None
            assert end.error.code is ErrorCode.INTERNAL_ERROR
            assert (await core.row(run.id)).status == RunStatus.FAILED
            assert (await answer_of(core, user, run)).content == "a"


class TestRecovery:
    async def test_ends_the_runs_of_a_worker_whose_lease_has_passed(self, path: Path) -> None:
        async with open_core(path, lease=0.4) as core:
            user = await core.user()
            live = await core.send(user, "text=a,wait=30")
            lost = await self.lose_a_run(core, user)
            row = await stored(core, lost)
            assert (row.status, row.error_code, row.error_retryable) == ("INTERRUPTED", "UNAVAILABLE", True)
            assert (await answer_of(core, user, lost)).status == "INTERRUPTED"
            events = await core.events(user, lost)
            assert isinstance(events[-1], RunFinished)
            assert events[-1].status is RunStatus.INTERRUPTED
            assert (await core.row(live.id)).active
            await core.chats.cancel(user, live.id)

    async def lose_a_run(self, core: Core, user: str) -> Run:
        """As a worker leaves it that is killed in the middle of an answer."""
        run = await core.send(user, "text=a,wait=30")
        copy = Run(**{**run.model_dump(exclude={"id"}), "status": RunStatus.RUNNING})
        await core.chats.cancel(user, run.id)
        copy.worker = "killed"
        message = await answer_of(core, user, run)
        message.status, message.run_id = "STREAMING", copy.id
        async with core.database.write() as session:
            session.add_all([copy, message])
        return copy

    async def test_happens_at_the_start(self, path: Path) -> None:
        async with open_core(path, lease=3_000) as core:
            user = await core.user()
            lost = await self.lose_a_run(core, user)
            async with open_core(path, lease=3_000):
                assert (await core.row(lost.id)).status == RunStatus.INTERRUPTED

    async def test_leaves_the_runs_of_living_workers_alone(self, path: Path) -> None:
        """Four times the lease, in two processes on one file."""
        async with open_core(path, lease=0.8) as mine, open_core(path, lease=0.8) as theirs:
            user = await mine.user()
            run = await mine.send(user, "text=a,wait=3.2,text=b")
            events = await theirs.events(user, run)
            assert (text_of(events), events[-1].seq) == ("ab", (await mine.row(run.id)).last_seq)
            assert events[-1].status is RunStatus.COMPLETED if isinstance(events[-1], RunFinished) else False

    async def test_does_not_end_a_run_whose_lease_was_renewed_meanwhile(self, path: Path) -> None:
        """The look and the end are two: between them the worker may have come back, and then it is left alone."""
        async with open_core(path, lease=3_000) as core, open_core(path, lease=3_000) as slow:
            user = await core.user()
            run = await slow.send(user, "wait=30")
            await set_lease(core, slow, LONG_AGO)
            async with core.database.write() as session:
                recovering = asyncio.create_task(core.engine.keeper.recover())
                await asyncio.sleep(0.1)
                assert await renew_lease(session, slow.engine.keeper.worker, 3_000)
            await recovering
            assert (await core.row(run.id)).active
            await slow.chats.cancel(user, run.id)

    async def test_is_patient_with_one_whose_process_is_there(self, path: Path) -> None:
        """On SQLite its file's lock says so: late, where a machine has more to do than it can, is not dead."""
        async with open_core(path, lease=3_000) as core, open_core(path, lease=3_000) as slow:
            user = await core.user()
            run = await slow.send(user, "wait=30")
            for seconds in (-1, -11_000):
                await set_lease(core, slow, seconds)
                await core.engine.keeper.recover()
                assert (await core.row(run.id)).active
            await set_lease(core, slow, -13_000)
            await core.engine.keeper.recover()
            assert (await core.row(run.id)).status == RunStatus.INTERRUPTED

    async def test_by_mistake_costs_no_text(self, path: Path) -> None:
        """A worker that was only slow finds its run ended by another: what its followers saw is what is stored, and
        they get the other's end."""
        async with open_core(path, lease=3_000) as core, open_core(path, lease=3_000) as slow:
            user = await core.user()
            run = await slow.send(user, "text=a,wait=0.3,text=b")
            log = slow.engine.log_of(run.id)
            assert log is not None
            following = asyncio.create_task(slow.events(user, run))
            await until(lambda: log.text == "a")
            await set_lease(core, slow, LONG_AGO)
            await core.engine.keeper.recover()
            events = await following
            end = events[-1]
            assert isinstance(end, RunFinished)
            assert (end.status, end.error is not None, text_of(events)) == (RunStatus.INTERRUPTED, True, "a")
            assert (await core.row(run.id)).status == RunStatus.INTERRUPTED
            answer = await answer_of(core, user, run)
            assert (answer.content, answer.status) == ("a", "INTERRUPTED")
            # And the process that was fenced off works on, under another name.
            await until(lambda: slow.engine.writer.worker != run.worker)
            assert text_of(await slow.events(user, await slow.send(user, "text=c"))) == "c"


async def set_lease(core: Core, other: Core, seconds: float) -> None:
    """Let the other's lease end so many seconds from now, by the database's clock."""
    async with core.database.write() as session:
        assert await renew_lease(session, other.engine.keeper.worker, seconds)


async def test_the_start_is_only_for_those_who_look(path: Path) -> None:
    """A database that is held while a run begins delays what is to be seen, and fails nothing."""
    async with open_core(path) as core:
        user = await core.user()
        run = await core.send(user, "text=a,wait=0.05,text=b")
        async with locked(path):
            await asyncio.sleep(0.3)
        assert text_of(await core.events(user, run)) == "ab"
        assert (await core.row(run.id)).started_at is not None
