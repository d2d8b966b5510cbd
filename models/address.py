"""Where the database is: a file, or a PostgreSQL server."""

from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

SCHEMES = ("postgresql", "postgres", "postgresql+asyncpg", "postgresql+psycopg", "postgresql+psycopg2")
OTHERS = frozenset(
    {
        "async_fallback",
        "channel_binding",
        "client_encoding",
        "connection_limit",
        "fallback_application_name",
        "gssencmode",
        "keepalives",
        "keepalives_count",
        "keepalives_idle",
        "keepalives_interval",
        "pgbouncer",
        "pool_timeout",
        "prepared_statement_cache_size",
        "requirepeer",
        "sslcompression",
        "statement_cache_size",
        "tcp_user_timeout",
    }
)
"""What addresses made for other drivers carry: asyncpg would take it for a setting of the server, which refuses it."""
CONNECT_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class PostgresAddress:
    """`dsn` is as asyncpg takes it, password included; `str` is without it. Times in seconds."""

    dsn: str = field(repr=False)
    connect_timeout: float = CONNECT_SECONDS

    @classmethod
    def parse(cls, url: str) -> "PostgresAddress":
        """
        Raises:
            ValueError: it names no database, or is no such address; says nothing of its password.
        """
        try:
            parts = urlsplit(url)
        except ValueError:
            # Its message may have the password in it.
            raise ValueError("is not an address") from None
        if parts.scheme not in SCHEMES:
            raise ValueError("is not an address we know")
        if parts.fragment:
            raise ValueError("has a # in it; in a password it is written %23")
        _check_ports(parts.netloc.rpartition("@")[2])
        if len(parts.path) < 2:
            raise ValueError("names no database; use postgresql://user:password@host:5432/name")
        seconds = CONNECT_SECONDS
        query = []
        for name, value in parse_qsl(parts.query, keep_blank_values=True):
            if name == "connect_timeout":
                seconds = float(value) if value.isdigit() and int(value) else seconds
            elif name == "ssl":
                query.append(("sslmode", {"true": "require", "false": "disable"}.get(value, value)))
            elif name not in OTHERS:
                query.append((name, value))
        dsn = urlunsplit(("postgresql", parts.netloc, parts.path, urlencode(query, quote_via=quote), ""))
        return cls(dsn, seconds)

    def __str__(self) -> str:
        parts = urlsplit(self.dsn)
        user, _, host = parts.netloc.rpartition("@")
        name = user.partition(":")[0]
        return f"postgresql://{name + '@' if name else ''}{host}{parts.path}"


def _check_ports(hosts: str) -> None:
    """asyncpg's own message of a wrong one is a traceback."""
    for host in hosts.split(","):
        port = host.rpartition("]")[2].partition(":")[2]
        if port and not (port.isascii() and port.isdigit() and 0 < int(port) < 65_536):
            raise ValueError("has a port that is no number from 1 to 65535")


Address = Path | PostgresAddress


def parse_address(url: str) -> Address:
    """
    Raises:
        ValueError: says what is wrong with it.
    """
    scheme, separator, rest = url.partition(":///")
    if scheme in {"sqlite", "sqlite+aiosqlite"}:
        if not separator or not rest or rest.startswith((":memory:", "file:", "?")):
            raise ValueError("names no file; use sqlite:///path/to/chat.db")
        return Path(rest.partition("?")[0]).resolve()
    if url.partition("://")[0] in SCHEMES:
        return PostgresAddress.parse(url)
    raise ValueError("is not an address we know; use sqlite:///path/to/chat.db or postgresql://user:password@host/name")
