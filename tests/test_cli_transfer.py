"""`python cli.py export` and `import`, as an operator types them."""

import asyncio
import stat
from pathlib import Path

import pytest

import cli
from models.address import Address
from models.opening import open_database
from tests.chat.test_transfer import add_tree
from tests.conftest import add_user
from tests.databases import url_of

pytestmark = pytest.mark.on_both


@pytest.fixture
def owner(address: Address, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """Has one conversation, in the database that the settings name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATABASE_URL", url_of(address))

    async def fill() -> str:
        database = open_database(address)
        try:
            await add_tree(database, owner := await add_user(database))
        finally:
            await database.aclose()
        return owner

    return asyncio.run(fill())


def test_export_then_import(owner: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = str(tmp_path / "mine.jsonl")
    assert cli.main(["export", owner, file]) == 0
    assert capsys.readouterr().out == f"{file}: 1 conversations, 5 messages\n"
    assert stat.S_IMODE(Path(file).stat().st_mode) == 0o600
    assert cli.main(["export", owner, file]) == 1
    assert capsys.readouterr().err == f"{file}: it exists; --force overwrites it\n"
    assert cli.main(["import", owner, file]) == 0
    assert capsys.readouterr().out == f"{owner}: 0 conversations with 0 messages added, 1 were there already\n"


def test_what_cannot_be_is_one_line(owner: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad").write_text("{}\n")
    for arguments, told in (
        (["export", "nobody", "file"], "there is no user 'nobody'"),
        (["export", "\udcff", "file"], "there is no user"),
        (["export", "a\0b", "file"], "there is no user"),
        (["import", owner, "nowhere"], "nowhere: No such file"),
        (["import", owner, "bad"], "bad, line 1: is not an export"),
        (["export", owner, "no/folder/file"], "no/folder/file: No such file"),
    ):
        assert cli.main(arguments) == 1
        said = capsys.readouterr()
        assert said.out == ""
        assert said.err.startswith(told), said.err
        assert said.err.count("\n") == 1


def test_a_database_that_is_not_up_to_date_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is made or migrated on the way."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATABASE_URL", "sqlite:///none.db")
    assert cli.main(["export", "somebody", "file"]) == 1
    assert "there is no database yet; run `python cli.py migrate`" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_what_came_in_before_the_damage_is_said(owner: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    head = '{"format": "ai-chat-studio/conversations", "version": 1}'
    one = '{"conversation": {"id": "c%d", "title": "t", "model": "m", "createdAt": 1, "updatedAt": 1}}'
    said = '{"message": {"id": "a", "role": "USER", "content": "x", "createdAt": 1}}'
    (tmp_path / "cut").write_text("\n".join((head, one % 1, said, one % 2, said)))
    assert cli.main(["import", owner, "cut"]) == 1
    told = capsys.readouterr().err.splitlines()
    assert told[0] == f"{owner}: 1 conversations with 1 messages added, 0 were there already, before this stopped"
    assert told[1].startswith("cut, line 6: the file was cut off here")
