"""`cli.py chat` as it is used: a message, a pipe, a terminal, and a server beside it."""

import asyncio
import fcntl
import io
import os
import pty
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

import cli
from assembly import build_services
from cli_chat import Talk
from providers.base import Role, Turn
from settings import load_settings
from tests.server import ROOT, environment, running

SECONDS = 60


def variables(data_dir: Path) -> dict[str, str]:
    return environment(data_dir, 0, PORT="8000", SCRIPTED_MODEL="on", EMBEDDED_MODEL="off", RETRIES="0")


def chat(data_dir: Path, *arguments: str, typed: str = "") -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "cli.py", "chat", *arguments]
    return subprocess.run(
        command, cwd=ROOT, env=variables(data_dir), input=typed, capture_output=True, text=True, timeout=SECONDS
    )


@contextmanager
def terminal(data_dir: Path, *arguments: str) -> Iterator["Terminal"]:
    ours, theirs = pty.openpty()
    command = [sys.executable, "cli.py", "chat", *arguments]
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=variables(data_dir),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        # So that the keys are signals, as where somebody sits.
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509
    )
    os.close(theirs)
    try:
        yield Terminal(process, ours)
    finally:
        process.kill()
        process.wait()
        os.close(ours)


class Terminal:
    """Somebody who reads and types."""

    def __init__(self, process: "subprocess.Popen[bytes]", handle: int) -> None:
        self.process = process
        self._handle = handle
        self.seen = ""

    def until(self, words: str) -> None:
        deadline = time.monotonic() + SECONDS
        while words not in self.seen:
            assert time.monotonic() < deadline, self.seen
            self.seen += os.read(self._handle, 4096).decode()

    def rest(self) -> str:
        """What is left to read of a process that has ended."""
        os.set_blocking(self._handle, False)
        with suppress(OSError):
            while more := os.read(self._handle, 4096).decode():
                self.seen += more
        return self.seen

    def type(self, line: str) -> None:
        self.seen = ""
        os.write(self._handle, line.encode())


def test_a_message_is_answered_and_a_pipe_too_also_beside_a_server(tmp_path: Path) -> None:
    """The answer alone is the output, so that it can go into a file."""
    with running(tmp_path / "data"):
        told = chat(tmp_path / "data", "what", "is", "this")
        assert (told.returncode, told.stdout.rstrip()) == (0, "what is this"), told.stderr
    told = chat(tmp_path / "data", "--max-tokens", "3", typed="one two\nthree")
    assert (told.returncode, told.stdout.split(), told.stderr) == (0, ["one", "two", "three"], "")


@pytest.mark.parametrize(
    ("arguments", "output", "error"),
    [
        (["--model", "scripted:text=a,fail=PROVIDER_AUTH", "hi"], "a\n", "refused the server's key"),
        (["--model", "llama", "hi"], "", "No provider here has the model 'llama'"),
        (["--max-tokens", "0", "hi"], "", "maxTokens must be from 1 to 4096"),
        ([], "", "there is no message"),
    ],
)
def test_what_cannot_be_answered_is_one_line_and_code_1(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    output: str,
    error: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    for name, value in (variables(tmp_path) | {"MODEL_FALLBACK": "none"}).items():
        monkeypatch.setenv(name, value)
    assert cli.main(["chat", *arguments]) == 1
    told = capsys.readouterr()
    assert told.out == output
    assert error in told.err
    assert told.err.count("\n") == 1


@pytest.mark.parametrize(("model", "hint"), [("llama", ""), ("gpt-4o", ". Set OPENAI_API_KEY to use it")])
def test_whoever_answers_for_a_model_that_nobody_has_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], model: str, hint: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    for name, value in variables(tmp_path).items():
        monkeypatch.setenv(name, value)
    assert cli.main(["chat", "--model", model, "hi"]) == 0
    told = capsys.readouterr()
    assert (told.out.rstrip(), told.err) == (
        "hi",
        f"No provider here has the model {model!r}{hint}; scripted answers instead\n",
    )


def test_a_terminal_goes_on_until_ctrl_d(tmp_path: Path) -> None:
    with terminal(tmp_path) as person:
        person.until("> ")
        person.type("first thing\n")
        person.until("first thing\r\nfirst thing \r\n> ")
        person.type("\n")
        person.until("> ")
        person.type("second\n")
        person.until("second\r\nsecond \r\n> ")
        person.type("\x04")
        assert person.process.wait(SECONDS) == 0


def test_an_answer_comes_as_it_is_written_and_ctrl_c_ends_it(tmp_path: Path) -> None:
    with terminal(tmp_path, "--model", "scripted:text=begun,think=hm,stall", "go") as person:
        person.until("begun")
        person.until("hm")
        begun = time.monotonic()
        person.process.send_signal(signal.SIGINT)
        assert person.process.wait(SECONDS) == 130
        assert time.monotonic() - begun < 15


CTRL_C, CTRL_D = "\x03", "\x04"


def test_ctrl_c_stops_the_answer_alone_and_keeps_what_came(tmp_path: Path) -> None:
    with terminal(tmp_path, "--model", "scripted:every=0.05,words=3000") as person:
        person.until("> ")
        person.type("first\n")
        person.until("w3 ")
        begun = time.monotonic()
        person.type(CTRL_C)
        person.until("(stopped)\r\n> ")
        assert time.monotonic() - begun < 15
        assert "Traceback" not in person.seen
        person.type("second\n")
        person.until("w3 ")
        person.type(CTRL_C)
        person.until("(stopped)\r\n> ")
        person.type(CTRL_D)
        assert person.process.wait(SECONDS) == 1, "the last answer did not come to its end"


async def test_what_came_of_a_stopped_answer_is_a_part_of_the_conversation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, value in variables(tmp_path / "data").items():
        monkeypatch.setenv(name, value)
    async with asyncio.timeout(SECONDS), build_services(load_settings()) as services:
        talk = Talk(services, "scripted:text=begun,stall", None)
        answer = asyncio.create_task(talk.ask("go"))
        while "begun" not in capsys.readouterr().out:
            await asyncio.sleep(0.01)
        answer.cancel()
        await asyncio.wait({answer})
        assert answer.cancelled()
        assert talk.turns == [Turn(Role.USER, "go"), Turn(Role.ASSISTANT, "begun")]


@pytest.mark.parametrize("leave", [CTRL_C, CTRL_D])
def test_ctrl_c_at_the_prompt_says_how_to_leave(tmp_path: Path, leave: str) -> None:
    with terminal(tmp_path) as person:
        person.until("> ")
        person.type("half a li")
        person.until("half a li")
        person.type(CTRL_C)
        person.until("(Ctrl-C again, or Ctrl-D, leaves)\r\n> ")
        person.type("hello\n")
        person.until("hello\r\nhello \r\n> ")
        person.type(CTRL_C)
        person.until("(Ctrl-C again, or Ctrl-D, leaves)\r\n> ")
        person.type(leave)
        assert person.process.wait(SECONDS) == 0
        assert "Traceback" not in person.rest()


def test_whoever_reads_a_part_of_the_answer_gets_no_traceback(tmp_path: Path) -> None:
    command = [sys.executable, "cli.py", "chat", "hi", "--model", "scripted:every=0.01,words=3000"]
    with subprocess.Popen(
        command, cwd=ROOT, env=variables(tmp_path), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.read(3) == b"w0 "
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(SECONDS) == 141
