"""Where the server processes of one data directory and their one child meet.

    <data_dir>/embedded/
        servers/<pid>-<random>.lock   held by each server process for its life; none held: the child ends
        owner.lock                    held by the server process that looks after the child
        child.lock                    held by the child for its life: never two
        server.json                   written by the child: where it listens, and the secret
        notice.json                   written by the owner: why there is no child yet, for the other processes
        child.log                     what the child prints

Locks, not process ids, say who lives: the system releases them at any death, SIGKILL included, and no
number is reused.
"""

import os
import secrets
import subprocess
import sys
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

import orjson
from filelock import BaseFileLock, FileLock, Timeout

if sys.platform == "win32":
    DETACHED: Final[dict[str, Any]] = {
        "creationflags": subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.CREATE_NO_WINDOW
    }
else:
    DETACHED: Final[dict[str, Any]] = {"start_new_session": True}
"""How a helper process is started: out of reach of the terminal's Ctrl-C, which is the server's to answer."""


@dataclass(frozen=True, slots=True)
class ChildConfig:
    """What the child is told, on its standard input: an argument would show the secret to every user's `ps`."""

    root: str
    path: str
    model: str
    identity: str
    slots: int
    context: int
    threads: int
    secret: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Discovery:
    """Where the child listens, on 127.0.0.1; `port` is 0 while it loads. `started`: Unix time, seconds."""

    pid: int
    port: int
    secret: str = field(repr=False)
    model: str
    identity: str
    slots: int
    context: int
    started: float

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@dataclass(frozen=True, slots=True)
class Notice:
    """The owner's word to the other processes. `passing`: waiting some seconds may help."""

    reason: str
    passing: bool


T = TypeVar("T", Discovery, Notice)


@dataclass(frozen=True, slots=True)
class Rendezvous:
    """The directory, as operations. All of them touch the disk: call them from a thread."""

    root: Path

    @property
    def servers(self) -> Path:
        return self.root / "servers"

    @property
    def log(self) -> Path:
        return self.root / "child.log"

    def join(self) -> BaseFileLock:
        """Makes this process one of the living; release what it returns with `leave`. Raises OSError, Timeout."""
        self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.servers.mkdir(exist_ok=True, mode=0o700)
        lock = _lock(self.servers / f"{os.getpid()}-{secrets.token_hex(4)}.lock")
        lock.acquire(timeout=5)  # a child that sweeps may hold it for a moment
        return lock

    def try_own(self) -> BaseFileLock | None:
        return _try(self.root / "owner.lock")

    def try_be_child(self) -> BaseFileLock | None:
        return _try(self.root / "child.lock")

    def child_lives(self) -> bool:
        lock = self.try_be_child()
        if lock is not None:
            lock.release()
        return lock is None

    def anyone_lives(self) -> bool:
        """Whether any server process of this directory lives; deletes the locks of the dead. Raises OSError."""
        return any([_lives(path) for path in self.servers.glob("*.lock")])  # noqa: C419 - sweeps them all

    def discover(self) -> Discovery | None:
        return _read(self.root / "server.json", Discovery)

    def announce(self, discovery: Discovery) -> None:
        _write(self.root / "server.json", discovery)

    def forget(self) -> None:
        (self.root / "server.json").unlink(missing_ok=True)

    def read_notice(self) -> Notice | None:
        return _read(self.root / "notice.json", Notice)

    def post(self, notice: Notice) -> None:
        _write(self.root / "notice.json", notice)


def leave(lock: BaseFileLock) -> None:
    """Gives up a lock of `Rendezvous.join` and its file."""
    _discard(lock, Path(lock.lock_file))


def _lives(path: Path) -> bool:
    lock = _try(path)
    if lock is not None:
        _discard(lock, path)
    return lock is None


def _discard(lock: BaseFileLock, path: Path) -> None:
    """Unlinks before the release, so that who waits for the lock sees that its file is gone and makes a new one.
    Windows refuses that, and there only an unlocked file can be deleted, so the other order is safe."""
    if sys.platform != "win32":
        path.unlink(missing_ok=True)
    lock.release()
    if sys.platform == "win32":
        with suppress(OSError):
            path.unlink(missing_ok=True)


def _lock(path: Path) -> BaseFileLock:
    # An existence lock (the fallback where flock is missing) would outlive a SIGKILL: better to fail.
    return FileLock(path, thread_local=False, fallback_to_soft=False)


def _try(path: Path) -> BaseFileLock | None:
    lock = _lock(path)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        return None
    return lock


def _read(path: Path, kind: type[T]) -> T | None:
    try:
        return kind(**orjson.loads(path.read_bytes()))
    except (OSError, ValueError, TypeError):
        return None


def _write(path: Path, value: Discovery | Notice) -> None:
    """Atomic, and readable by this user only. Each file has one writer at a time, so one temporary name will do."""
    temporary = path.with_suffix(".tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(orjson.dumps(asdict(value)))
    temporary.replace(path)
