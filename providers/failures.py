"""Whatever goes wrong between us and a model's HTTP server, as one of our errors: one table, one context manager.

The messages are ours: nothing a server said is repeated to a user, since it may name hosts, keys or paths.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import httpx
import httpx2

from errors import (
    ContentFiltered,
    ContextTooLong,
    ModelUnavailable,
    ProviderAuth,
    ProviderError,
    ProviderRateLimited,
    ProviderTimeout,
)

LONGEST_RETRY_AFTER = 3600.0  # seconds


class Garbled(Exception):
    """What came is not the protocol. The text is ours and safe to show."""


class Refused(Exception):
    """The server answered with an error: a status number, the words of its error object, a Retry-After header."""

    def __init__(self, status: int, words: str = "", retry_after: str | None = None) -> None:
        self.status = status
        self.words = words
        self.retry_after = retry_after
        super().__init__(status)


@contextmanager
def provider_errors() -> Iterator[None]:
    """Turns the failures of an HTTP exchange into errors.ProviderErrors."""
    try:
        yield
    except ProviderError:
        raise
    except tuple(_TABLE) as exc:
        translate = next(to for kind, to in _TABLE.items() if isinstance(exc, kind))
        raise translate(exc) from exc


def _refusal(exc: Exception) -> ProviderError:
    assert isinstance(exc, Refused)
    for status, words, kind in _REFUSALS:
        if exc.status in status and words.search(exc.words):
            return kind(retry_after=_seconds(exc.retry_after))
    return ProviderError("The model's provider refused the request")


def _says(message: str, kind: type[ProviderError] = ProviderError) -> Callable[[Exception], ProviderError]:
    return lambda _: kind(message)


_TABLE: Mapping[type[Exception], Callable[[Exception], ProviderError]] = {
    Refused: _refusal,
    Garbled: lambda exc: ProviderError(str(exc)),
    TimeoutError: _says(ProviderTimeout.default_message, ProviderTimeout),
    **{
        getattr(library, name): translate
        for library in (httpx, httpx2)  # ours, and the SDKs'
        for name, translate in {
            "TimeoutException": _says(ProviderTimeout.default_message, ProviderTimeout),
            "ConnectError": _says("The model's provider could not be reached"),
            "HTTPError": _says("The connection to the model's provider broke"),
            "InvalidURL": _says("The address of the model's provider is not valid"),
            "StreamError": _says("The connection to the model's provider broke"),
        }.items()
    },
    OSError: _says("The connection to the model's provider broke"),
}

_ANY = re.compile("")
_TOO_LONG = re.compile(
    r"exceed_context_size|context_length_exceeded|context (size|length|window)|maximum context|too many tokens", re.I
)
_REFUSALS: tuple[tuple[range | tuple[int, ...], re.Pattern[str], type[ProviderError]], ...] = (
    ((401, 403), _ANY, ProviderAuth),
    ((429,), _ANY, ProviderRateLimited),
    ((400, 413, 422, 500), _TOO_LONG, ContextTooLong),
    ((400, 422), re.compile(r"content_filter|content_policy|content management policy", re.I), ContentFiltered),
    ((404,), re.compile(r"model", re.I), ModelUnavailable),
    ((503,), re.compile(r"loading", re.I), ModelUnavailable),
    ((408, 504), _ANY, ProviderTimeout),
)


def _seconds(header: str | None) -> float | None:
    """A Retry-After header, seconds or a date, as seconds from now, bounded."""
    if header is None:
        return None
    try:
        seconds = float(header) if header.strip().isdigit() else _until(header)
    except (ValueError, TypeError):
        return None
    return min(max(seconds, 0.0), LONGEST_RETRY_AFTER)


def _until(date: str) -> float:
    moment = parsedate_to_datetime(date)
    return (moment.replace(tzinfo=moment.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
