"""Anthropic's messages, streamed: what is sent, and what comes back as chunks."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from providers.answers import Reader, text_of
from providers.base import Chunk, FinishChunk, FinishReason, GenerationRequest, ReasoningChunk, TextChunk, UsageChunk
from providers.failures import Refused
from providers.figures import told_usage, total
from providers.turns import dialogue, room_to_think

WITH_TEMPERATURE = {"anthropic-version": "2023-06-01"}
"""The version after this one refuses a temperature, of any model."""

_FINISH = {
    "end_turn": FinishReason.STOP,
    "stop_sequence": FinishReason.STOP,
    "max_tokens": FinishReason.LENGTH,
    "model_context_window_exceeded": FinishReason.LENGTH,
    "pause_turn": FinishReason.LENGTH,
    "tool_use": FinishReason.TOOL_CALLS,
    "refusal": FinishReason.CONTENT_FILTER,
}
# An answer that ends so before its first word is no answer.
_SILENT = {"refusal": "content_filter", "model_context_window_exceeded": "context window"}
# Inside a stream an error has no status of its own.
_STATUS = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "timeout_error": 504,
    "overloaded_error": 529,
}
# Up to 4.6 models take a temperature and think only if told how much; from then on they think as they see fit, keep
# their thoughts to themselves unless asked, and refuse a temperature.
_EARLIER = re.compile(r"claude-(?:instant|v\d|[234]|[a-z]+-4-(?:[0-6]|2025\d{4})(?!\d))")


def thinks(model: str) -> bool:
    """Whether it is asked to think, and gets `room_to_think`."""
    return not _EARLIER.match(model)


def message_request(request: GenerationRequest) -> tuple[dict[str, object], Mapping[str, str]]:
    """The body of a streamed request, and the headers that it needs."""
    system, turns = dialogue(request.turns)
    body: dict[str, object] = {
        "model": request.model,
        "messages": [{"role": turn.role.value.lower(), "content": turn.content} for turn in turns],
        "stream": True,
    }
    if system:
        body["system"] = system
    if not thinks(request.model):
        temperature = min(request.temperature, 1.0)
        return body | {"max_tokens": request.max_tokens, "temperature": temperature}, WITH_TEMPERATURE
    room = room_to_think(request.max_tokens)
    thinking = {"type": "adaptive", "display": "summarized"}
    return body | {"max_tokens": request.max_tokens + room, "thinking": thinking}, {}


class MessageReader(Reader):
    """Events in, chunks out. Signatures, tool calls and citations are dropped."""

    def __init__(self) -> None:
        super().__init__()
        self._spoke = False
        self._usage: dict[str, Any] = {}

    def chunks(self, message: dict[str, Any]) -> Iterator[Chunk]:
        kind = message.get("type")
        if kind == "content_block_delta":
            yield from self._delta(message.get("delta") or {})
        elif kind == "content_block_start":
            yield from self._delta(message.get("content_block") or {})
        elif kind == "message_start":
            self._count((message.get("message") or {}).get("usage"))
        elif kind == "message_delta":
            self._count(message.get("usage"))
            yield from self._end((message.get("delta") or {}).get("stop_reason"))
        elif kind == "message_stop":
            self.done = True
        elif kind == "error":
            raise self.refused(message, 500)

    def _delta(self, delta: dict[str, Any]) -> Iterator[Chunk]:
        if text := delta.get("text"):
            self._spoke = True
            yield TextChunk(text_of(text))
        elif thought := delta.get("thinking"):
            yield ReasoningChunk(text_of(thought))

    def _count(self, usage: dict[str, Any] | None) -> None:
        """The later figures are sums up to there; they may leave out what has not changed."""
        self._usage |= {name: value for name, value in (usage or {}).items() if value is not None}

    def _end(self, reason: str | None) -> Iterator[Chunk]:
        if reason is None or self.finished:
            return
        if not self._spoke and reason in _SILENT:
            raise Refused(400, _SILENT[reason])
        self.finished = True
        yield FinishChunk(_FINISH.get(reason, FinishReason.STOP))

    def end(self) -> Iterator[Chunk]:
        told = self._usage
        cached, written = told.get("cache_read_input_tokens"), told.get("cache_creation_input_tokens")
        details = told.get("output_tokens_details")
        usage = told_usage(
            total(told.get("input_tokens"), cached, written),
            told.get("output_tokens"),
            cached,
            details.get("thinking_tokens") if isinstance(details, dict) else None,
        )
        if usage is not None:
            yield UsageChunk(usage)

    def refused(self, body: object, status: int) -> Refused:
        return refused_by(body, status)


def refused_by(body: object, status: int) -> Refused:
    """An error's body. In a stream, where the response's status says nothing, its type stands for one."""
    error = body.get("error") if isinstance(body, dict) else None
    if not isinstance(error, dict):
        return Refused(status)
    kind, details = error.get("type"), error.get("details")
    code = details.get("error_code") if isinstance(details, dict) else None
    if status in (200, 500) and isinstance(kind, str):
        status = _STATUS.get(kind, 500)
    return Refused(status, " ".join(str(part or "") for part in (kind, code, error.get("message"))))
