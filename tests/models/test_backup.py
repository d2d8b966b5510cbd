"""A backup is worth what its restore is worth: on both databases, while others write, with everything that breaks."""

from __future__ import annotations

import asyncio
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from alembic import command
from sqlalchemy.exc import OperationalError

from models import postgres_backup, sqlite_backup
from models.address import Address, PostgresAddress
from models.backup import BackupError, Content
from models.conversation import Conversation
from models.database import Database
from models.message import Message
from models.migrate import head
from models.opening import open_database
from models.user import add_to_counters
from tests.conftest import add_user
from tests.databases import Postgres, folder_of_binaries, look
from tests.models.test_migrate import alembic

pytestmark = pytest.mark.on_both
TEXT = "what was said: 你好 \\N \t 'quoted' \\. \n end"
"""With everything that a format of lines and backslashes could trip over."""


@pytest.fixture(autouse=True)
def _tools(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """PostgreSQL's programs, from where the tests' server is."""
    if kind == "PostgreSQL":
        monkeypatch.setenv("PATH", str(folder_of_binaries()), prepend=":")


def silent(_what: str, _done: int, _total: int | None) -> None: ...


def back_up(address: Address, file: Path, *, force: bool = False) -> Content:
    if isinstance(address, PostgresAddress):
        return postgres_backup.back_up(address, file, silent, force=force)
    return sqlite_backup.back_up(address, file, silent, force=force)


def restore(address: Address, file: Path, *, force: bool = False) -> Content:
    if isinstance(address, PostgresAddress):
        return postgres_backup.restore(address, file, silent, force=force)
    return sqlite_backup.restore(address, file, silent, force=force)


def refused(work: Callable[..., Content], *arguments: object, **options: bool) -> str:
    with pytest.raises(BackupError) as caught:
        work(*arguments, **options)
    line = str(caught.value)
    assert "\n" not in line
    return line


async def add_conversation(database: Database, user_id: str, messages: int = 3) -> None:
    """In one transaction: who sees one of its rows must see all, and the user's counter."""
    conversation = Conversation(owner_id=user_id, title="t", model="m", message_count=messages)
    rows = [Message(conversation_id=conversation.id, depth=n, role="USER", content=TEXT) for n in range(messages)]
    async with database.write() as session:
        session.add(conversation)
        await session.flush()
        session.add_all(rows)
        await add_to_counters(session, user_id, conversations=1, messages=messages)


def fill(address: Address, conversations: int = 3) -> None:
    async def work() -> None:
        database = open_database(address)
        try:
            user_id = await add_user(database)
            for _ in range(conversations):
                await add_conversation(database, user_id)
        finally:
            await database.aclose()

    asyncio.run(work())


def stored(address: Address) -> list[object]:
    """Everything that matters, in an order of its own."""
    return [
        sorted(look(address, "SELECT id, username, conversation_count, message_count FROM user_account")),
        sorted(look(address, "SELECT id, owner_id, title, updated_at FROM conversation")),
        sorted(look(address, "SELECT id, conversation_id, depth, content FROM message")),
        look(address, "SELECT version_num FROM alembic_version"),
    ]


@pytest.fixture
def elsewhere(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Address]:
    """Where nothing is yet."""
    if kind == "SQLite":
        yield tmp_path / "elsewhere" / "chat.db"
        return
    server: Postgres = request.getfixturevalue("postgres")
    with server.empty() as address:
        yield address


def test_what_was_backed_up_is_what_is_restored(address: Address, elsewhere: Address, tmp_path: Path) -> None:
    """To another place, and over what has changed since."""
    fill(address)
    before, file = stored(address), tmp_path / "backup"
    content = back_up(address, file)
    assert (content.revision, content.rows["conversation"], content.rows["message"]) == (head(), 3, 9)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    restore(elsewhere, file)
    assert stored(elsewhere) == before
    assert TEXT in str(before) or look(elsewhere, "SELECT content FROM message LIMIT 1")[0][0] == TEXT
    fill(address)
    assert stored(address) != before
    assert "--force" in refused(restore, address, file)
    restore(address, file, force=True)
    assert stored(address) == before
    assert list(tmp_path.glob(".*.part")) == []


async def test_a_restored_database_takes_new_rows(address: Address, tmp_path: Path) -> None:
    """Counters of ids go on behind the rows that came from the backup."""
    await asyncio.to_thread(fill, address)
    for number in range(3):
        look(address, "INSERT INTO change (audience, kind, ref, at) VALUES ('a', 'k', 'r', 1)")
        assert number < 3
    await asyncio.to_thread(back_up, address, tmp_path / "backup")
    await asyncio.to_thread(restore, address, tmp_path / "backup", force=True)
    look(address, "INSERT INTO change (audience, kind, ref, at) VALUES ('b', 'k', 'r', 1)")
    assert [row[0] for row in look(address, "SELECT id FROM change ORDER BY id")] == [1, 2, 3, 4]
    database = open_database(address)
    await add_conversation(database, (look(address, "SELECT id FROM user_account"))[0][0])
    await database.aclose()


async def test_is_one_moment_while_others_write(
    address: Address, database: Database, elsewhere: Address, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy that took its rows one after the other would have messages without their conversation. Nor does anybody
    who writes wait for it; SQLite's own way begins again at each commit of another process."""
    monkeypatch.setattr(sqlite_backup, "PAGES", 1)
    user_id = await add_user(database)
    for _ in range(50):
        await add_conversation(database, user_id)
    copying = asyncio.create_task(asyncio.to_thread(back_up, address, tmp_path / "backup"))
    written = 0
    while not copying.done():
        await add_conversation(database, user_id)
        written += 1
    assert written > 0
    content = await copying
    assert content.rows["message"] == content.rows["conversation"] * 3
    await asyncio.to_thread(restore, elsewhere, tmp_path / "backup")
    found = look(elsewhere, "SELECT conversation_count, message_count FROM user_account")
    assert tuple(found[0]) == (content.rows["conversation"], content.rows["message"])
    assert 50 <= content.rows["conversation"] <= 50 + written


def test_an_older_one_is_migrated_up(address: Address, elsewhere: Address, tmp_path: Path) -> None:
    fill(address)
    alembic(address, command.downgrade, "0005")
    assert back_up(address, tmp_path / "backup").revision == "0005"
    assert restore(elsewhere, tmp_path / "backup").revision == "0005"
    assert look(elsewhere, "SELECT version_num FROM alembic_version")[0][0] == head()
    assert look(elsewhere, "SELECT count(*) FROM daily_usage")[0][0] == 0
    # Also over a newer one, whose tables the older did not have.
    fill(elsewhere)
    restore(elsewhere, tmp_path / "backup", force=True)
    assert look(elsewhere, "SELECT count(*) FROM conversation")[0][0] == 3


def test_a_newer_one_is_refused(address: Address, elsewhere: Address, tmp_path: Path) -> None:
    fill(address)
    look(address, "UPDATE alembic_version SET version_num = '9999'")
    back_up(address, tmp_path / "backup")
    assert "newer version (its migration is 9999)" in refused(restore, elsewhere, tmp_path / "backup")


def damaged(file: Path) -> Iterator[Path]:
    whole = file.read_bytes()
    for name, content in {
        "empty": b"",
        "half": whole[: len(whole) // 2],
        "tail": whole[:-200],
        "beginning": whole[:60],
        "hole": whole[: len(whole) // 3] + b"\0" * 4_000 + whole[len(whole) // 3 + 4_000 :],
        "text": b"{}\n" * 100,
        "zeros": b"\0" * 10_000,
    }.items():
        bad = file.with_name(name)
        bad.write_bytes(content)
        yield bad


def test_what_is_not_a_whole_backup_changes_nothing(address: Address, tmp_path: Path) -> None:
    fill(address, 60)
    before, file = stored(address), tmp_path / "backup"
    back_up(address, file)
    for bad in [*damaged(file), tmp_path, tmp_path / "nowhere"]:
        line = refused(restore, address, bad, force=True)
        assert str(bad) in line or "pg_restore" in line or "it ends in" in line, line
        assert stored(address) == before


def test_a_restore_that_fails_half_way_changes_nothing(
    address: Address, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At its last step, when all is in place but the migrations."""
    fill(address)
    back_up(address, tmp_path / "backup")
    fill(address)
    before = stored(address)

    def fail(*_: object) -> None:
        raise OperationalError("migrate", {}, Exception("no space left"))

    for module in (sqlite_backup, postgres_backup):
        monkeypatch.setattr(module, "upgrade", fail)
    assert "no space left" in refused(restore, address, tmp_path / "backup", force=True)
    assert stored(address) == before
    assert list(tmp_path.glob(".*.part")) == []


def test_a_file_that_is_there_stays_without_force(address: Address, tmp_path: Path) -> None:
    file = tmp_path / "backup"
    file.write_text("something dear")
    assert refused(back_up, address, file) == f"{file}: it exists; --force overwrites it"
    assert file.read_text() == "something dear"
    back_up(address, file, force=True)
    assert "not a plain file" in refused(back_up, address, tmp_path, force=True)
    assert "No such file" in refused(back_up, address, tmp_path / "no" / "folder")


def test_of_the_other_database_is_refused_with_the_way_to_go(address: Address, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_bytes(b"PGDMP..." if isinstance(address, Path) else b"SQLite format 3\x00...")
    assert "`export` and `import`" in refused(restore, address, other)


def test_where_there_is_no_database_of_ours(elsewhere: Address, tmp_path: Path) -> None:
    line = refused(back_up, elsewhere, tmp_path / "backup")
    assert "there is no database yet" in line or "not a database of this server" in line
    assert not (tmp_path / "backup").exists()


async def test_is_not_restored_under_a_server(address: Address, database: Database, tmp_path: Path) -> None:
    """One connection is enough to know: a server always has one. When it is gone the restore goes through."""
    await asyncio.to_thread(fill, address)
    await asyncio.to_thread(back_up, address, tmp_path / "backup")
    async with database.read() as session:
        await session.get(Conversation, "x")
    line = await asyncio.to_thread(refused, restore, address, tmp_path / "backup", force=True)
    assert "stop it first" in line
    await database.aclose()
    await asyncio.to_thread(restore, address, tmp_path / "backup", force=True)


def test_sqlite_that_is_damaged_is_replaced_by_force(address: Address, tmp_path: Path) -> None:
    """For which one has backups."""
    if isinstance(address, PostgresAddress):
        return
    fill(address)
    before = stored(address)
    back_up(address, tmp_path / "backup")
    address.write_bytes(b"\xff" * 20_000)
    address.with_name("chat.db-wal").write_bytes(b"rest of the old one")
    assert "damaged" in refused(restore, address, tmp_path / "backup")
    restore(address, tmp_path / "backup", force=True)
    assert stored(address) == before
