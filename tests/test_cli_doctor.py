"""`python cli.py doctor` names what is wrong, and its exit code says whether that keeps the server from working."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

import cli
from models.address import PostgresAddress
from models.migrate import head, migrate
from tests.databases import Postgres, folder_of_binaries, look
from tests.redises import Redis
from tests.server import free_port

Doctor = Callable[..., tuple[int, str]]


class Usage(NamedTuple):
    total: int
    used: int
    free: int


@pytest.fixture
def doctor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Doctor:
    """Its exit code and what it says, with these settings, in a place of its own."""
    monkeypatch.chdir(tmp_path)
    for name in ("DATABASE_URL", "SECRET_KEY", "REDIS_URL", "WORKERS", "MODELS_DIR", "LOCAL_MODEL", "HOST"):
        monkeypatch.delenv(name, raising=False)

    def ask(**settings: str) -> tuple[int, str]:
        values = {"DATA_DIR": str(tmp_path / "data"), "PORT": str(free_port()), **settings}
        for name, value in values.items():
            monkeypatch.setenv(name, value)
        code = cli.main(["doctor"])
        for name in settings:
            monkeypatch.delenv(name)
        return code, capsys.readouterr().out

    return ask


def test_finds_nothing_wrong_where_nothing_is(doctor: Doctor, tmp_path: Path) -> None:
    code, said = doctor()
    assert code == 0
    assert "0 problems" in said
    assert "chat.db (made at the first start)" in said
    assert "is fetched at the first start" in said
    assert list(tmp_path.iterdir()) == [], "asking makes nothing"


def test_looks_at_the_database_and_leaves_it_as_it_is(doctor: Doctor, tmp_path: Path) -> None:
    database = tmp_path / "data" / "chat.db"
    migrate(database)
    assert "(0 users, 0 conversations)" in doctor()[1]
    look(database, "UPDATE alembic_version SET version_num = '0005'")
    assert f"is at migration 0005; the next start brings it to {head()}" in doctor()[1]
    assert look(database, "SELECT version_num FROM alembic_version") == [("0005",)]
    look(database, "UPDATE alembic_version SET version_num = '9999'")
    assert "warning: database      " in doctor()[1]
    database.write_bytes(b"\xff" * 5_000)
    code, said = doctor()
    assert code == 1
    assert "problem: database      DATABASE_URL: cannot use" in said


def test_looks_at_postgres(doctor: Doctor, postgres: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    with postgres.migrated() as address:
        monkeypatch.setenv("PATH", str(folder_of_binaries()), prepend=":")
        code, said = doctor(DATABASE_URL=address.dsn, WORKERS="1")
        assert code == 0
        assert "(0 users, 0 conversations)" in said
        assert "up to 63 by 1 workers; the server takes " in said
        assert "backups       by " in said
        said = doctor(DATABASE_URL=address.dsn, WORKERS="200")[1]
        assert "warning: connections   up to 12600 by 200 workers" in said
        monkeypatch.setenv("PATH", "")
        assert "warning: backups       pg_dump is not on PATH" in doctor(DATABASE_URL=address.dsn)[1]


def test_says_that_postgres_is_away_without_its_password(doctor: Doctor) -> None:
    address = PostgresAddress.parse(f"postgresql://chat:a-password@127.0.0.1:{free_port()}/chat")
    code, said = doctor(DATABASE_URL=address.dsn)
    assert code == 1
    assert "problem: database      DATABASE_URL: cannot use postgresql://chat@127.0.0.1" in said
    assert "a-password" not in said


def test_looks_at_redis(doctor: Doctor, redis: Redis) -> None:
    said = doctor(REDIS_URL=redis.url)[1]
    assert "answers" in said
    assert "warning: redis" not in said
    code, said = doctor(REDIS_URL=f"redis://127.0.0.1:{free_port()}/0")
    assert (code, "warning: redis" in said, "does not answer" in said) == (0, True, True)


def test_looks_at_disk_and_permissions(doctor: Doctor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for free, level, expected in ((5 * 10**7, "problem", 1), (5 * 10**8, "warning", 0)):
        with monkeypatch.context() as patched:
            patched.setattr(shutil, "disk_usage", lambda _, left=free: Usage(10**9, 0, left))
            code, said = doctor()
        assert (code, f"{level}: disk" in said) == (expected, True)
    secret = tmp_path / "data" / "secret.key"
    secret.parent.mkdir()
    secret.write_text("x" * 40)
    secret.chmod(0o644)
    code, said = doctor()
    assert (code, "chmod 600" in said) == (1, True)
    secret.chmod(0o600)
    assert doctor()[0] == 0


def test_of_a_folder_that_cannot_be_written_to_is_a_problem(
    doctor: Doctor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)  # who runs the tests may be root, who may everything
    code, said = doctor()
    assert (code, f"problem: disk          {tmp_path} cannot be written to" in said) == (1, True)


def test_looks_at_the_model(doctor: Doctor) -> None:
    assert doctor(LOCAL_MODEL="no-such-model")[0] == 1
    assert "warning: model" in doctor(EMBEDDED_FETCH="off")[1]
    assert "EMBEDDED_MODEL is off" in doctor(EMBEDDED_MODEL="off")[1]


def test_names_keys_but_does_not_show_them(doctor: Doctor) -> None:
    said = doctor(OPENAI_API_KEY="sk-really-secret", ANTHROPIC_API_KEY="sk-ant-your-anthropic-key")[1]
    assert "provider keys OPENAI_API_KEY\n" in said
    assert "really-secret" not in said
    assert "warning: settings      ANTHROPIC_API_KEY is the guide's placeholder" in said


def test_says_that_the_port_is_taken(doctor: Doctor) -> None:
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        said = doctor(PORT=str(taken.getsockname()[1]))[1]
    assert "warning: listens on    PORT: cannot listen on" in said


def test_a_models_file_that_the_server_would_not_start_with(doctor: Doctor, tmp_path: Path) -> None:
    file = tmp_path / "models.toml"
    code, said = doctor(MODELS_FILE=str(file))
    assert code == 1
    assert "problem: model servers MODELS_FILE: cannot read" in said
    file.write_text("[servers.lab]\nbase_url = 'http://gpu1:8000/v1'\n")
    assert "model servers lab" in doctor(MODELS_FILE=str(file))[1]
