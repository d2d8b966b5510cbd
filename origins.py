"""Which browsers' pages may open a socket: their own origin's, and those that ALLOWED_ORIGINS lists."""

from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.requests import HTTPConnection

SCHEMES = {"ws": "http", "wss": "https", "http": "http", "https": "https"}


def origin_allowed(connection: HTTPConnection, allowed: Collection[str]) -> bool:
    """True without an Origin (not a browser), for the request's own scheme and host, and for a listed one."""
    origin = connection.headers.get("origin")
    if origin is None:
        return True
    origin = origin.rstrip("/").lower()
    if origin in allowed:
        return True
    parts = urlsplit(origin)
    scheme = SCHEMES.get(connection.url.scheme, connection.url.scheme)
    return parts.scheme == scheme and parts.netloc == connection.headers.get("host", "").lower()
