"""Where Redis is, as REDIS_URL says it."""

from dataclasses import dataclass
from urllib.parse import parse_qs, unquote, urlsplit

EXAMPLE = "redis://localhost:6379/0"
SCHEMES = {"redis": "redis", "rediss": "rediss", "unix": "unix", "valkey": "redis", "valkeys": "rediss"}
OPTIONS = frozenset({"db", "username", "password", "ssl_cert_reqs", "ssl_ca_certs", "ssl_certfile", "ssl_keyfile"})
"""What may stand behind `?`: everything else is ours to set, or would be an error in mid-connection."""


@dataclass(frozen=True, slots=True)
class RedisAddress:
    """`url` may hold a password; `str` never does."""

    url: str

    @classmethod
    def parse(cls, url: str) -> "RedisAddress":
        """redis://, rediss:// (TLS), valkey://, valkeys:// with host, port and number of the database; unix:// with a
        path.

        Raises:
            ValueError: it is none.
        """
        parts = urlsplit(url.strip())
        scheme = SCHEMES.get(parts.scheme.lower())
        if scheme is None:
            raise ValueError(f"is not an address like {EXAMPLE}")
        _check_options(parts.query)
        if scheme == "unix":
            if not parts.path.strip("/"):
                raise ValueError("names no socket: unix:///run/redis.sock")
        else:
            _check_host(parts.hostname, parts.path)
            try:
                _ = parts.port
            except ValueError:
                raise ValueError("the port is not a number from 1 to 65535") from None
        return cls(f"{scheme}:{url.strip().partition(':')[2]}")

    def __str__(self) -> str:
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _check_host(host: str | None, path: str) -> None:
    if not host:
        raise ValueError(f"names no host: {EXAMPLE}")
    number = unquote(path).strip("/")
    if number and not (number.isascii() and number.isdigit()):
        raise ValueError("behind the host comes the number of a database, such as /0")


def _check_options(query: str) -> None:
    for name in parse_qs(query, keep_blank_values=True):
        if name not in OPTIONS:
            raise ValueError(f"the option {name!r} is not known")
