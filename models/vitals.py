"""A file for each server process, locked while it lives: the operating system lets go of it however the process ends.

What a lease says after two seconds of silence this says at once, where all processes share one machine and one SQLite
file; and of one that is late it says that it lives, though it may stand still. Where there is no file, or no lock, the
lease alone decides.
"""

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock, Timeout

CANNOT = (OSError, NotImplementedError)
"""A full disk, a file system without locks."""


class Seen(NamedTuple):
    """Those whose processes have certainly ended, and those whose processes are certainly there."""

    gone: list[str]
    there: list[str]


class Vitals:
    """`folder` None: there are none, as on PostgreSQL, whose workers may be anywhere."""

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._held: dict[str, FileLock] = {}

    def hold(self, worker: str) -> None:
        """This process is the worker, from before its name is known to anybody until `release` or its end."""
        if self._folder is None:
            return
        with suppress(Timeout, *CANNOT):
            self._folder.mkdir(exist_ok=True)
            lock = FileLock(self._folder / worker, thread_local=False)
            lock.acquire(blocking=False)
            self._held[worker] = lock

    def look(self, workers: Iterable[str]) -> Seen:
        """Each lock is tried once."""
        held = {worker: self._is_held(worker) for worker in workers}
        gone = [worker for worker, state in held.items() if state is False]
        return Seen(gone, [worker for worker, state in held.items() if state])

    def _is_held(self, worker: str) -> bool | None:
        """None: nothing is known."""
        if worker in self._held:
            return True
        # It must not be made here: a worker without a file is one that has none to lock.
        if self._folder is None or not (path := self._folder / worker).exists():
            return None
        try:
            with FileLock(path, thread_local=False, blocking=False):
                return False
        except Timeout:
            return True
        except CANNOT:
            return None

    def bury(self, workers: Iterable[str]) -> None:
        """Their names are in the database no more."""
        if self._folder is not None:
            for worker in workers:
                with suppress(OSError):
                    (self._folder / worker).unlink(missing_ok=True)

    def release(self, worker: str) -> None:
        """This process is that worker no more, and has told the database so."""
        lock = self._held.pop(worker, None)
        if lock is not None:
            self.bury([worker])
            lock.release()
