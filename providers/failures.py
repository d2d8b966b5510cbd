"""Whatever goes wrong between us and a model's HTTP server, as one of our errors: one table, one context manager.

The messages are ours: nothing a server said is repeated to a user, since it may name hosts, keys or paths.
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import anyio
import httpx
import httpx2

from errors import (
    ContentFiltered,
    ContextTooLong,
    ModelUnavailable,
    ModelUnknown,
    ProviderAuth,
    ProviderBusy,
    ProviderError,
    ProviderRateLimited,
    ProviderRefused,
    ProviderSilent,
    ProviderTimeout,
    ProviderUnpaid,
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


def refusal(exc: Exception) -> ProviderError:
    """What a `Refused` means."""
    assert isinstance(exc, Refused)
    for status, words, kind in _REFUSALS:
        if exc.status in status and words.search(exc.words):
            return kind(retry_after=_seconds(exc.retry_after))
    return ProviderError(retry_after=_seconds(exc.retry_after))


Translate = Callable[[Exception], ProviderError]


def _says(message: str | None = None, kind: type[ProviderError] = ProviderError) -> Translate:
    return lambda _: kind(message)


_UNREACHABLE = _says("The model's provider could not be reached; try again")
_BROKEN = _says("The connection to the model's provider broke; try again")
_INVALID = _says("The address of the model's provider is not valid; tell the operator", ProviderRefused)

_TABLE: Mapping[type[Exception], Translate] = {
    Refused: refusal,
    Garbled: lambda exc: ProviderError(f"{exc}; try again"),
    **{
        getattr(library, name): translate
        for library in (httpx, httpx2)  # ours, and the SDKs'
        for name, translate in {
            "ConnectTimeout": _UNREACHABLE,
            "PoolTimeout": _UNREACHABLE,
            "ConnectError": _UNREACHABLE,
            "TimeoutException": _says(kind=ProviderSilent),
            "InvalidURL": _INVALID,
            "UnsupportedProtocol": _INVALID,
            "HTTPError": _BROKEN,
            "StreamError": _BROKEN,
        }.items()
    },
    TimeoutError: _says(kind=ProviderSilent),
    OSError: _BROKEN,
    # httpx2 lets it through: https://github.com/pydantic/httpx2/issues/854
    anyio.EndOfStream: _BROKEN,
}

_ANY = re.compile("")
_TOO_LONG = re.compile(
    r"exceed_context_size|context_length_exceeded|context (size|length|window)|maximum context|too many tokens"
    r"|prompt is too long|exceed context limit|request_too_large|input token count",
    re.I,
)
_BAD_KEY = re.compile(r"api_key_invalid|api key (not valid|not found|expired)", re.I)
_FILTERED = re.compile(r"content_filter|content_policy|content management policy|prohibited_content", re.I)
_UNPAID = re.compile(r"insufficient_quota|insufficient balance|credit.balance|billing|spend.limit", re.I)
_UNKNOWN = re.compile(r"model", re.I)
_LOADING = re.compile(r"loading", re.I)
_BUSY = re.compile(r"overloaded", re.I)
_LIMITED = re.compile(r"rate.?limit", re.I)

# The first that fits. Nothing else is certain to pass: a 5xx is tried again, what remains of the 4xx is not.
_REFUSALS: tuple[tuple[range | tuple[int, ...], re.Pattern[str], type[ProviderError]], ...] = (
    ((402,), _ANY, ProviderUnpaid),
    ((400, 403, 429), _UNPAID, ProviderUnpaid),
    ((401, 403), _ANY, ProviderAuth),
    ((400,), _BAD_KEY, ProviderAuth),
    ((429,), _ANY, ProviderRateLimited),
    ((400, 413, 422, 500), _TOO_LONG, ContextTooLong),
    ((400, 422), _FILTERED, ContentFiltered),
    ((404,), _UNKNOWN, ModelUnknown),
    ((503,), _LOADING, ModelUnavailable),
    ((503, 529), _ANY, ProviderBusy),
    ((500,), _BUSY, ProviderBusy),
    ((500,), _LIMITED, ProviderRateLimited),
    ((408, 504), _ANY, ProviderTimeout),
    ((409, 425), _ANY, ProviderError),
    (range(400, 500), _ANY, ProviderRefused),
)


def _seconds(header: str | None) -> float | None:
    """A Retry-After header, seconds or a date, as seconds from now, bounded."""
    if header is None:
        return None
    try:
        seconds = float(header)
    except ValueError:
        try:
            seconds = _until(header)
        except (ValueError, TypeError, OverflowError):
            return None
    return None if math.isnan(seconds) else min(max(seconds, 0.0), LONGEST_RETRY_AFTER)


def _until(date: str) -> float:
    moment = parsedate_to_datetime(date)
    return (moment.replace(tzinfo=moment.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
