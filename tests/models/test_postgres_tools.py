"""pg_dump and pg_restore: which ones, with what, and what they fail of."""

from pathlib import Path

import pytest

from models.address import PostgresAddress
from models.backup import BackupError
from models.postgres_backup import back_up
from models.postgres_tools import connection_arguments, output_of, run
from tests.databases import Postgres, folder_of_binaries


def test_that_are_missing_or_old_are_named_with_what_to_install(
    postgres: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with postgres.migrated() as address:
        with pytest.raises(BackupError, match=r"pg_dump is not on PATH; install .*postgresql-client"):
            back_up(address, tmp_path / "backup", lambda *_: None, force=False)
        old = tmp_path / "pg_dump"
        old.write_text('#!/bin/sh\necho "pg_dump (PostgreSQL) 12.3"\n')
        old.chmod(0o755)
        with pytest.raises(BackupError, match=r"is of PostgreSQL 12, the server of \d+; install postgresql-client-\d+"):
            back_up(address, tmp_path / "backup", lambda *_: None, force=False)
    assert not (tmp_path / "backup").exists()


def test_do_not_show_the_password() -> None:
    """Arguments can be read by every user of the machine."""
    address = PostgresAddress.parse("postgresql://me:p%40ss:word@h:5/db?sslmode=require&jit=off&connect_timeout=7")
    arguments, environment = connection_arguments(address)
    assert environment["PGPASSWORD"] == "p@ss:word"
    told = "postgresql://me@h:5/db?sslmode=require&application_name=backup&connect_timeout=7"
    assert arguments == ["--dbname", told]


def test_tell_what_they_failed_of_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(folder_of_binaries()), prepend=":")
    arguments, environment = connection_arguments(PostgresAddress.parse("postgresql://me@127.0.0.1:1/db"))
    with pytest.raises(BackupError, match="pg_dump: error: connection to server at") as caught:
        run(["pg_dump", *arguments], environment, lambda: None)
    assert "\n" not in str(caught.value)
    (tmp_path / "dump").write_bytes(b"PGDMP and no more")
    with (
        pytest.raises(BackupError, match="pg_restore: error: "),
        output_of(["pg_restore", "--file=-", str(tmp_path / "dump")]) as stream,
    ):
        assert stream.read() == b""
