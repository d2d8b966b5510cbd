"""The OpenAI-compatible chat-completions protocol, streamed: what is sent, and what comes back as chunks."""

import asyncio
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import aclosing
from typing import Any

import httpx
import orjson

from providers.answers import Reader, read_answer, text_of
from providers.base import (
    Chunk,
    FinishChunk,
    FinishReason,
    Patience,
    ReasoningChunk,
    TextChunk,
    Usage,
    UsageChunk,
)
from providers.bodies import Response
from providers.failures import Refused, provider_errors
from providers.figures import told_usage
from providers.sse import DONE

MAX_WORDS = 4_000  # characters of an error that are looked at

_FINISH = {
    "stop": FinishReason.STOP,
    "length": FinishReason.LENGTH,
    "model_length": FinishReason.LENGTH,
    "content_filter": FinishReason.CONTENT_FILTER,
    "tool_calls": FinishReason.TOOL_CALLS,
    "function_call": FinishReason.TOOL_CALLS,
}
_BROKEN_OFF = frozenset({"error", "abort", "insufficient_system_resource"})
"""Said by Mistral and OpenRouter, vLLM, and DeepSeek of an answer that they gave up."""


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


def read_completion(response: Response, deadline: float, patience: Patience) -> AsyncGenerator[Chunk, None]:
    """See `read_answer`."""
    return read_answer(response, _Reader(), deadline, patience)


class _Reader(Reader):
    def __init__(self) -> None:
        super().__init__()
        self._usage: Usage | None = None

    def read(self, payload: bytes) -> list[Chunk]:
        if payload == DONE:
            self.done = True
            return []
        return super().read(payload)

    def chunks(self, message: dict[str, Any]) -> Iterator[Chunk]:
        if error := message.get("error") or (message if message.get("object") == "error" else None):
            raise refused_by(error, 500)
        if usage := message.get("usage"):
            self._usage = _usage(usage) or self._usage
        for choice in message.get("choices") or ():
            if not self.finished:
                yield from self._choice(choice)

    def _choice(self, choice: dict[str, Any]) -> Iterator[Chunk]:
        delta = choice.get("delta") or {}
        # DeepSeek's and llama.cpp's name for it; Ollama's, Groq's and vLLM's.
        if thought := delta.get("reasoning_content") or delta.get("reasoning"):
            yield ReasoningChunk(text_of(thought))
        if text := delta.get("content"):
            yield from _parts(text)
        if reason := choice.get("finish_reason"):
            if reason in _BROKEN_OFF:
                raise self.cut()
            self.finished = True
            yield FinishChunk(_FINISH.get(reason, FinishReason.STOP))

    def end(self) -> Iterator[Chunk]:
        if self._usage is not None:
            yield UsageChunk(self._usage)

    def refused(self, body: object, status: int) -> Refused:
        own = body.get("error") if isinstance(body, dict) else None
        return refused_by(own or (body if status != 200 else None), status)


def _parts(content: object) -> Iterator[Chunk]:
    """Text; from Mistral's thinking models a list of texts and thoughts."""
    if not isinstance(content, list):
        yield TextChunk(text_of(content))
        return
    for part in content:
        if part.get("type") == "thinking":
            yield from (ReasoningChunk(text_of(thought.get("text"))) for thought in part.get("thinking"))
        elif part.get("type") == "text":
            yield TextChunk(text_of(part.get("text")))


def _usage(usage: dict[str, Any]) -> Usage | None:
    prompt, completion = usage.get("prompt_tokens_details") or {}, usage.get("completion_tokens_details") or {}
    return told_usage(
        usage.get("prompt_tokens"),
        usage.get("completion_tokens"),
        prompt.get("cached_tokens"),
        completion.get("reasoning_tokens"),
    )


def refused_by(error: object, status: int) -> Refused:
    """An error object, or whatever stands in its place: every server has another shape, so all of it is its words. Its
    own number goes before the response's, if that is none."""
    code = error.get("code") if isinstance(error, dict) else None
    if isinstance(code, int) and status in (200, 500):
        status = code
    return Refused(status, "" if error is None else str(error)[:MAX_WORDS])
