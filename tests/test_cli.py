import os
import subprocess
import sys
from pathlib import Path

import pytest

import app
import cli
from models.migrate import migrate
from tests.server import ROOT, environment, free_port


@pytest.fixture(autouse=True)
def _own_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No `.env` and no data of the developer's."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATA_DIR", str(tmp_path / "data"))
    for name in ("DATABASE_URL", "SECRET_KEY", "HOST", "WORKERS", "REDIS_URL", "MODELS_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PORT", str(free_port()))


def test_migrate_makes_the_database_and_may_be_said_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        assert cli.main(["migrate"]) == 0
        assert capsys.readouterr().out == f"{tmp_path / 'data' / 'chat.db'} is at the newest migration\n"
    assert (tmp_path / "data" / "chat.db").exists()


def test_doctor_says_what_there_would_be(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor"]) == 0
    before = capsys.readouterr().out
    assert "chat.db (made at the first start)" in before
    assert f"http://0.0.0.0:{os.environ['PORT']}" in before
    assert not (tmp_path / "data").exists(), "asking makes nothing"
    migrate(tmp_path / "data" / "chat.db")
    assert cli.main(["doctor"]) == 0
    assert "(0 users, 0 conversations)" in capsys.readouterr().out


def test_doctor_repeats_the_warnings(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("LEGACY_SOCKET", "open")
    assert cli.main(["doctor"]) == 0
    assert "LEGACY_SOCKET=open" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["migrate", "doctor", "serve"])
def test_settings_that_cannot_work_are_one_line_and_code_1(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("REDIS_URL", "http://h")
    assert cli.main([command]) == 1
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("REDIS_URL: ")
    assert told.err.count("\n") == 1


def test_serve_is_python_app_py(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "main", lambda: 42)
    assert cli.main(["serve"]) == 42


@pytest.mark.parametrize("arguments", [[], ["no-such-command"], ["migrate", "--what"]])
def test_what_is_no_command_shows_how_to_use_it(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == 2
    assert "usage: cli.py" in capsys.readouterr().err


def test_help_names_every_command() -> None:
    done = subprocess.run(
        [sys.executable, "cli.py", "--help"],
        cwd=ROOT,
        env=environment(Path("data"), free_port()),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0
    for name, command in cli.COMMANDS.items():
        assert name in done.stdout
        assert command.text.split(",")[0] in " ".join(done.stdout.split())


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_what_the_table_names_is_there(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """It is imported only when the command is chosen."""
    with pytest.raises(SystemExit) as caught:
        cli.main([name, "--help"])
    assert caught.value.code == 0
    assert f"usage: cli.py {name}" in capsys.readouterr().out
    assert callable(cli.COMMANDS[name].load(cli.COMMANDS[name].function))
