"""The OpenAI-compatible chat-completions protocol, streamed: what is sent, and what comes back as chunks."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextlib import aclosing
from typing import Any, Protocol

import httpx
import httpx2
import orjson

from providers.base import (
    Chunk,
    FinishChunk,
    FinishReason,
    GenerationRequest,
    Patience,
    ReasoningChunk,
    TextChunk,
    Usage,
    UsageChunk,
)
from providers.failures import Garbled, Refused, provider_errors
from providers.figures import told_usage
from providers.sse import NOT_AN_ANSWER, DataLines

MAX_ERROR_BODY = 1 << 16  # bytes
ERROR_WAIT = 5.0  # seconds for the body of an error
USAGE_WAIT = 5.0  # seconds after the finish: the answer is whole, its figures may still come
DRAIN = 0.1  # seconds after [DONE] for the end of the body, without which the connection cannot be used again

_FINISH = {
    "stop": FinishReason.STOP,
    "length": FinishReason.LENGTH,
    "content_filter": FinishReason.CONTENT_FILTER,
    "tool_calls": FinishReason.TOOL_CALLS,
    "function_call": FinishReason.TOOL_CALLS,
}


class Response(Protocol):
    """What is read of an HTTP response whose body has not been: httpx's, or httpx2's, which the SDKs use."""

    @property
    def status_code(self) -> int: ...
    @property
    def headers(self) -> Mapping[str, str]: ...
    def aiter_bytes(self) -> AsyncIterator[bytes]: ...


def completion_body(request: GenerationRequest) -> dict[str, object]:
    """The JSON of a streamed request, for a server or an adapter to add to."""
    return {
        "model": request.model,
        "messages": [{"role": turn.role.value.lower(), "content": turn.content} for turn in request.turns],
        "temperature": request.temperature,
        "max_tokens": request.max_tokens,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


async def stream_completion(
    client: httpx.AsyncClient, url: str, body: Mapping[str, object], headers: Mapping[str, str], patience: Patience
) -> AsyncGenerator[Chunk, None]:
    """Posts `body` and yields the answer as it is made: text and reasoning, one FinishChunk, then perhaps usage.

    Closing the generator closes the connection at once. Raises only errors.ProviderErrors.
    """
    deadline = asyncio.get_running_loop().time() + patience.first
    with provider_errors():
        request = client.build_request(
            "POST",
            url,
            content=orjson.dumps(body),
            headers={"Content-Type": "application/json", "Accept": "text/event-stream", **headers},
            timeout=httpx.Timeout(patience.connect, read=None),
        )
        async with asyncio.timeout_at(deadline):
            response = await client.send(request, stream=True)
        try:
            async with aclosing(read_completion(response, deadline, patience)) as chunks:
                async for chunk in chunks:
                    yield chunk
        finally:
            await response.aclose()


async def read_completion(response: Response, deadline: float, patience: Patience) -> AsyncGenerator[Chunk, None]:
    """The chunks of an answer whose head has come, the first of them until `deadline` (of the loop's clock).

    Raises Garbled, Refused, TimeoutError and the errors of the response's library: for `provider_errors`.
    """
    await _refuse(response)
    async with aclosing(_chunks(response, deadline, patience)) as chunks:
        async for chunk in chunks:
            yield chunk


async def _refuse(response: Response) -> None:
    """Raises if the answer is not a stream: an error status, a web page, a plain object."""
    media = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    if response.status_code == 200 and media not in ("text/html", "application/json"):
        return
    body = b""
    async with asyncio.timeout(ERROR_WAIT):
        async for data in response.aiter_bytes():
            body += data
            if len(body) > MAX_ERROR_BODY:
                break
    refused = refused_by(_parse(body).get("error"), response.status_code)
    refused.retry_after = response.headers.get("retry-after")
    raise refused if response.status_code != 200 or refused.words else Garbled(NOT_AN_ANSWER)


async def _chunks(response: Response, deadline: float, patience: Patience) -> AsyncGenerator[Chunk, None]:
    """The clock runs only while we wait: a slow consumer is not a slow server. Noise does not set it back."""
    now = asyncio.get_running_loop().time
    lines, reader = DataLines(), _Reader()
    reads = response.aiter_bytes()
    data: bytes | None = b""
    while data is not None:
        try:
            async with asyncio.timeout_at(deadline):
                data = await anext(reads, None)
        except (TimeoutError, httpx.HTTPError, httpx2.HTTPError):
            if reader.finished:
                break
            raise
        chunks = [chunk for line in lines.feed(b"\n" if data is None else data) for chunk in reader.read(line)]
        for chunk in chunks:
            yield chunk
        if chunks or reader.done:
            deadline = now() + (patience.between if not reader.finished else DRAIN if reader.done else USAGE_WAIT)
        if reader.done and not reader.finished:
            break
    if not reader.finished:
        raise Garbled("The model's provider stopped in the middle of the answer")
    if reader.usage is not None:
        yield UsageChunk(reader.usage)


class _Reader:
    """One answer's state: payloads in, chunks out."""

    def __init__(self) -> None:
        self.finished = False
        self.done = False
        self.usage: Usage | None = None

    def read(self, payload: bytes) -> list[Chunk]:
        if payload == b"[DONE]":
            self.done = True
            return []
        try:
            return list(self._read(orjson.loads(payload)))
        except (ValueError, TypeError, AttributeError) as exc:
            raise Garbled(NOT_AN_ANSWER) from exc

    def _read(self, message: dict[str, Any]) -> Iterator[Chunk]:
        if error := message.get("error"):
            raise refused_by(error, 500)
        if usage := message.get("usage"):
            self.usage = _usage(usage) or self.usage
        for choice in message.get("choices") or ():
            if not self.finished:
                yield from self._choice(choice)

    def _choice(self, choice: dict[str, Any]) -> Iterator[Chunk]:
        delta = choice.get("delta") or {}
        if thought := delta.get("reasoning_content"):
            yield ReasoningChunk(_text(thought))
        if text := delta.get("content"):
            yield TextChunk(_text(text))
        if reason := choice.get("finish_reason"):
            self.finished = True
            yield FinishChunk(_FINISH.get(reason, FinishReason.STOP))


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _usage(usage: dict[str, Any]) -> Usage | None:
    prompt, completion = usage.get("prompt_tokens_details") or {}, usage.get("completion_tokens_details") or {}
    return told_usage(
        usage.get("prompt_tokens"),
        usage.get("completion_tokens"),
        prompt.get("cached_tokens"),
        completion.get("reasoning_tokens"),
    )


def _parse(body: bytes) -> dict[str, Any]:
    try:
        parsed = orjson.loads(body)
    except ValueError:
        return {}
    return parsed if isinstance(parsed, dict) else {}


def refused_by(error: object, status: int) -> Refused:
    """An error object (or whatever stands in its place) as one string of words, its number before the response's."""
    if not isinstance(error, dict):
        return Refused(status, str(error or ""))
    words = " ".join(str(error.get(key) or "") for key in ("type", "code", "message"))
    code = error.get("code")
    return Refused(code if isinstance(code, int) and status in (200, 500) else status, words)
