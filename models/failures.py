"""What databases say when they cannot work, as our errors. One table for both."""

from collections.abc import Callable

from asyncpg.exceptions import InterfaceError, InternalClientError
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from errors import BadUserInput, ChatError, Unavailable

SQLITE_MARKS = ("database is locked", "disk is full", "disk i/o error", "readonly database", "unable to open")
UNAVAILABLE_CLASSES = ("08", "53", "57", "58")
"""SQLSTATE: connection exceptions; out of connections, memory, disk; stopped, restarted, timed out; I/O errors."""
UNAVAILABLE_STATES = frozenset({"25006", "25P03", "25P04", "40001", "40P01", "55P03"})
"""Read only (a standby), a transaction that stood still, a conflict, a deadlock, a lock that was not to be had."""
UNFIT_STATES = frozenset({"22000", "22003", "22021", "22P05"})
"""Characters that are no text, numbers that no column holds: only a client sends them. SQLite just finds nothing, but
for what UTF-8 does not write."""
TRANSLATED = (DBAPIError, PoolTimeout, UnicodeEncodeError)
UNFIT = "A value cannot be stored by any database"


def failure_of(error: BaseException) -> ChatError | None:
    """Our error for what a driver raised; None for what is a bug, or a constraint that was violated."""
    if isinstance(error, UnicodeEncodeError):
        return BadUserInput(UNFIT)
    if isinstance(error, PoolTimeout):
        return Unavailable("The database is busy; try again", retry_after=1)
    if isinstance(error, DBAPIError):
        cause = error.orig
        if cause is None:
            return None
        return failure_of(cause.__cause__) if cause.__cause__ is not None else _of_driver(cause)
    return _of_driver(error)


def _of_driver(error: BaseException) -> ChatError | None:
    state = getattr(error, "sqlstate", None)
    if state in UNFIT_STATES:
        return BadUserInput(UNFIT)
    down = (
        isinstance(error, OSError | InterfaceError | InternalClientError)
        or (state is not None and (state[:2] in UNAVAILABLE_CLASSES or state in UNAVAILABLE_STATES))
        or any(mark in str(error).lower() for mark in SQLITE_MARKS)
    )
    return Unavailable("The database cannot do this now; try again", retry_after=1) if down else None


class translated:  # noqa: N801
    """Turns what a database says when it cannot work (full disk, lock, lost connection) into `Unavailable`. What the
    block itself raises passes as it is. `refused` is called in the first case."""

    def __init__(self, refused: Callable[[], None] | None = None) -> None:
        self._refused = refused

    def __enter__(self) -> None:
        return None

    def __exit__(self, _kind: type[BaseException] | None, error: BaseException | None, _traceback: object) -> None:
        if isinstance(error, TRANSLATED) and (failure := failure_of(error)) is not None:
            if self._refused is not None and isinstance(failure, Unavailable):
                self._refused()
            raise failure from error
