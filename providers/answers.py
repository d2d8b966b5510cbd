"""A streamed answer as it is read: the waits, the end, and what must not pass for one.

What a vendor's words mean is for its `Reader`.
"""

import asyncio
import json
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Iterable, Iterator
from contextlib import closing
from dataclasses import replace
from typing import Any

import httpx
import httpx2
import orjson

from providers.base import Chunk, Patience, ReasoningChunk, TextChunk
from providers.bodies import MAX_ERROR_BODY, Response, beginning_of, body_of
from providers.failures import Garbled, Refused
from providers.sse import NOT_AN_ANSWER, DataLines
from watchdog import Watchdog

ERROR_WAIT = 5.0  # seconds for the body of an error
USAGE_WAIT = 5.0  # seconds after the finish: the answer is whole, its figures may still come
DRAIN = 0.1  # seconds after the last word for the end of the body, without which the connection cannot be used again


class Reader(ABC):
    """One answer's state: payloads in, chunks out. `finished`: the model has said how it ended; `done`: and nothing
    more will come, though the body may stay open."""

    finished = False
    done = False

    def __init__(self) -> None:
        self.lines = DataLines()
        self._half = ""
        """The first of the two that UTF-16 makes of a character; the next text begins with the other."""

    def read(self, payload: bytes) -> list[Chunk]:
        """
        Raises:
            Garbled: it is not what this vendor sends.
            Refused: it is an error.
        """
        try:
            try:
                message = orjson.loads(payload)
                whole = not self._half
            except orjson.JSONDecodeError:
                # Unlike orjson it takes half a character: some servers cut texts by UTF-16.
                message, whole = json.loads(payload), False
            chunks = self.chunks(message)
            return list(chunks if whole else self._joined(chunks))
        except (ValueError, TypeError, AttributeError, RecursionError) as exc:
            raise Garbled(NOT_AN_ANSWER) from exc

    def _joined(self, chunks: Iterable[Chunk]) -> Iterator[Chunk]:
        """With the two halves of a character as one; a half that stays alone is U+FFFD."""
        for chunk in chunks:
            if not isinstance(chunk, TextChunk | ReasoningChunk):
                yield chunk
                continue
            text = self._half + chunk.text
            self._half = text[-1:] if "\ud800" <= text[-1:] <= "\udbff" else ""
            units = text.removesuffix(self._half).encode("utf-16", "surrogatepass")
            if said := units.decode("utf-16", "replace"):
                yield replace(chunk, text=said)

    @abstractmethod
    def chunks(self, message: dict[str, Any]) -> Iterable[Chunk]:
        """What one payload says. ValueError, TypeError and AttributeError stand for nonsense."""

    def end(self) -> Iterable[Chunk]:
        """What is left to say of an answer that is finished, its body read."""
        return ()

    def cut(self) -> Exception:
        """What went wrong when the body ended and the answer was not finished."""
        return Garbled("The model's provider stopped in the middle of the answer")

    @abstractmethod
    def refused(self, body: object, status: int) -> Refused:
        """The body of an error; without words if it is none of this vendor's."""


async def read_answer(
    response: Response, reader: Reader, deadline: float, patience: Patience
) -> AsyncGenerator[Chunk, None]:
    """The chunks of an answer whose head has come, the first of them until `deadline` (of the loop's clock).

    The clock runs only while we wait: a slow consumer is not a slow server. Noise does not set it back.

    Raises Garbled, Refused, TimeoutError and the errors of the response's library: for `provider_errors`.
    """
    await _refuse(response, reader)
    now = asyncio.get_running_loop().time
    body = body_of(response)
    data: bytes | None = b""
    with closing(Watchdog()) as watchdog:
        while data is not None:
            try:
                with watchdog.until(deadline):
                    data = await body.read()
            except (TimeoutError, httpx.HTTPError, httpx2.HTTPError):
                if reader.finished:
                    break
                raise
            came = False
            for line in reader.lines.feed(b"\n\n" if data is None else data):
                # One by one: what came before an error, even in the same packet, was said.
                for chunk in reader.read(line):
                    came = True
                    yield chunk
            if came or reader.done:
                deadline = now() + (patience.between if not reader.finished else DRAIN if reader.done else USAGE_WAIT)
            if reader.done and not reader.finished:
                break
    if not reader.finished:
        raise reader.cut()
    for chunk in reader.end():
        yield chunk


async def _refuse(response: Response, reader: Reader) -> None:
    """Raises if the answer is not a stream: an error status, a web page, a plain object."""
    media = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    if response.status_code == 200 and media not in ("text/html", "application/json"):
        return
    async with asyncio.timeout(ERROR_WAIT):
        body = await beginning_of(response, MAX_ERROR_BODY)
    refused = reader.refused(parsed(body), response.status_code)
    refused.retry_after = refused.retry_after or response.headers.get("retry-after")
    raise refused if response.status_code != 200 or refused.words else Garbled(NOT_AN_ANSWER)


def text_of(value: object) -> str:
    """
    Raises:
        TypeError: it is not text.
    """
    if not isinstance(value, str):
        raise TypeError
    return value


def parsed(body: bytes) -> object:
    """The JSON of a body; None if it is none."""
    try:
        return orjson.loads(body)
    except ValueError:
        return None
