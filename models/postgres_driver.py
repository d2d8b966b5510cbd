"""Connections to PostgreSQL with the bounds that keep one that is lost from holding anything for long."""

import asyncio
import time
from typing import Any

import asyncpg
from asyncpg.exceptions import InterfaceError, InternalClientError, PostgresError

from errors import Unavailable
from models.address import PostgresAddress

SERVER = "ai-chat-studio"
"""The name under which our servers' sessions stand in pg_stat_activity."""
PATIENCE_SECONDS = 2.0
"""A server that is being restarted, or has no place left, is asked again for so long."""
NO_CONNECTION_LEFT = "53300"
RETRY_STATES = frozenset({NO_CONNECTION_LEFT, "57P01", "57P02", "57P03"})
GONE_STATES = frozenset({"57P01", "57P02", "57P03", "57P05", "25P03", "25P04"})
"""Behind each of them the server closes the connection."""
LOCK_SECONDS = 5.0
STANDING_SECONDS = 5.0
"""No transaction of ours waits for anything but the database: one that stands still belongs to a process that does."""


def _server_settings(seconds: float) -> dict[str, str]:
    return {
        "application_name": SERVER,
        "timezone": "UTC",
        "synchronous_commit": "on",
        # Our statements are short: compiling one takes longer than running it.
        "jit": "off",
        "statement_timeout": _millis(seconds),
        "lock_timeout": _millis(min(LOCK_SECONDS, seconds)),
        "idle_in_transaction_session_timeout": _millis(STANDING_SECONDS),
        # A client that is gone gives back what it has taken, also while it waits for something.
        "client_connection_check_interval": "1s",
        "tcp_keepalives_idle": "5",
        "tcp_keepalives_interval": "2",
        "tcp_keepalives_count": "3",
        "tcp_user_timeout": _millis(2 * STANDING_SECONDS),
    }


def _millis(seconds: float) -> str:
    return f"{round(seconds * 1000)}ms"


async def connect(address: PostgresAddress, seconds: float, patience: float | None = None, **settings: str) -> Any:
    """A connection whose statements take no longer than `seconds`, asked for again for as long as the patience lasts.
    `settings` are the session's own.

    Raises:
        Unavailable: the server is away, or does not let us in; the cause says which.
    """
    begun, pause = time.monotonic(), 0.05
    patience = PATIENCE_SECONDS if patience is None else patience
    while True:
        try:
            return await asyncpg.connect(
                address.dsn,
                timeout=address.connect_timeout,
                # A little more than the server's own bound, for a server that does not answer at all.
                command_timeout=seconds + 1,
                server_settings=_server_settings(seconds) | settings,
            )
        except (OSError, TimeoutError, PostgresError, InterfaceError) as error:
            # A server without TLS says so at once, and will say so again.
            away = isinstance(error, ConnectionError) and "SSL" not in str(error)
            again = away or getattr(error, "sqlstate", None) in RETRY_STATES
            if not again or time.monotonic() - begun > patience:
                raise Unavailable("The database cannot be reached; try again", retry_after=1) from error
        await asyncio.sleep(pause)
        pause = min(pause * 2, 0.2)


async def facts_of(address: PostgresAddress) -> tuple[int, int]:
    """The server's major version, and how many connections it takes.

    Raises:
        Unavailable: as `connect`.
    """
    connection = await connect(address, LOCK_SECONDS)
    try:
        return connection.get_server_version().major, int(await connection.fetchval("SHOW max_connections"))
    finally:
        await connection.close()


def is_away(error: BaseException) -> bool:
    """Whether nothing more can be expected of the connection. A server that stops says so first, and hangs up a moment
    later: in between the driver takes the connection for open, and fails at its own state."""
    state = getattr(error, "sqlstate", None) or ""
    return isinstance(error, OSError | TimeoutError | InternalClientError) or state[:2] == "08" or state in GONE_STATES
