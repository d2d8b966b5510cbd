"""Gemini's generateContent, streamed: what is sent, and what comes back as chunks."""

import re
from collections.abc import Iterator
from typing import Any

from providers.answers import Reader, parsed, text_of
from providers.base import (
    Chunk,
    FinishChunk,
    FinishReason,
    GenerationRequest,
    ReasoningChunk,
    Role,
    TextChunk,
    UsageChunk,
)
from providers.bodies import MAX_ERROR_BODY
from providers.failures import Refused
from providers.figures import told_usage, total
from providers.sse import DataLines
from providers.turns import dialogue, room_to_think

_FINISH = {
    "STOP": FinishReason.STOP,
    "MAX_TOKENS": FinishReason.LENGTH,
    "CONTINUATION": FinishReason.LENGTH,
    "MALFORMED_FUNCTION_CALL": FinishReason.TOOL_CALLS,
    "UNEXPECTED_TOOL_CALL": FinishReason.TOOL_CALLS,
    "TOO_MANY_TOOL_CALLS": FinishReason.TOOL_CALLS,
    "SAFETY": FinishReason.CONTENT_FILTER,
    "RECITATION": FinishReason.CONTENT_FILTER,
    "LANGUAGE": FinishReason.CONTENT_FILTER,
    "BLOCKLIST": FinishReason.CONTENT_FILTER,
    "PROHIBITED_CONTENT": FinishReason.CONTENT_FILTER,
    "SPII": FinishReason.CONTENT_FILTER,
    "ESCALATION": FinishReason.CONTENT_FILTER,
    "MODEL_ARMOR": FinishReason.CONTENT_FILTER,
}
# The text until then is not an answer, whatever it looks like.
_BROKEN = {"OTHER", "MALFORMED_RESPONSE", "MISSING_THOUGHT_SIGNATURE", "FINISH_REASON_UNSPECIFIED"}
# Not for this text: the operator's account may not ask for any.
_BANNED = "PUP_LIMITED_DISABLED"

_GENERATION = re.compile(r"gemini-(?:[a-z-]+-)?(?:(\d{1,4})(?:\.(\d{1,4}))?)?")
_NEWEST = (99, 0)  # of gemini-flash-latest
_NO_THOUGHTS = re.compile(r"-(image|tts|live|audio|embedding)")


def thinks(model: str) -> bool:
    """Whether it is asked to think, and gets `room_to_think`."""
    return _generation(model) >= (2, 5) and not _NO_THOUGHTS.search(model)


def content_request(request: GenerationRequest) -> dict[str, object]:
    """The body of a streamed request."""
    system, turns = dialogue(request.turns)
    config: dict[str, object] = {"maxOutputTokens": request.max_tokens}
    if _generation(request.model) < (3, 0):
        # Later models are made for their own; they ignore another temperature, and are going to refuse it.
        config["temperature"] = request.temperature
    if thinks(request.model):
        config["maxOutputTokens"] = request.max_tokens + room_to_think(request.max_tokens)
        config["thinkingConfig"] = {"includeThoughts": True}
    body: dict[str, object] = {
        "contents": [
            {"role": "user" if turn.role is Role.USER else "model", "parts": [{"text": turn.content}]} for turn in turns
        ],
        "generationConfig": config,
    }
    if system:
        body["systemInstruction"] = {"parts": [{"text": system}]}
    return body


def _generation(model: str) -> tuple[int, int]:
    """(0, 0) of what is no Gemini: the open models, which know neither."""
    match = _GENERATION.search(model)
    if match is None:
        return 0, 0
    return (int(match[1]), int(match[2] or 0)) if match[1] else _NEWEST


class ContentReader(Reader):
    """Responses in, chunks out. Older models say at each of them that they have finished: only the last one counts."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: _Lines = _Lines()
        self._spoke = False
        self._called = False
        self._reason = ""
        self._usage: dict[str, Any] = {}

    def chunks(self, message: dict[str, Any]) -> Iterator[Chunk]:
        if message.get("error"):
            raise self.refused(message, 500)
        self._usage = message.get("usageMetadata") or self._usage
        candidates = message.get("candidates")
        if not candidates and (message.get("promptFeedback") or {}).get("blockReason") and not self._spoke:
            raise Refused(400, "prohibited_content")
        for candidate in candidates or ():
            for part in (candidate.get("content") or {}).get("parts") or ():
                yield from self._part(part)
            if reason := candidate.get("finishReason"):
                self._finish(text_of(reason))

    def _part(self, part: dict[str, Any]) -> Iterator[Chunk]:
        self._called = self._called or "functionCall" in part
        if not (text := part.get("text")):
            return
        if part.get("thought"):
            yield ReasoningChunk(text_of(text))
        else:
            self._spoke = True
            yield TextChunk(text_of(text))

    def _finish(self, reason: str) -> None:
        if reason == _BANNED:
            raise Refused(403)
        if reason in _BROKEN:
            raise super().cut()
        if not self._spoke and _FINISH.get(reason) is FinishReason.CONTENT_FILTER:
            raise Refused(400, "prohibited_content")
        self.finished, self._reason = True, reason

    def end(self) -> Iterator[Chunk]:
        finish = _FINISH.get(self._reason, FinishReason.STOP)
        yield FinishChunk(FinishReason.TOOL_CALLS if self._called and finish is FinishReason.STOP else finish)
        told = self._usage
        thoughts = told.get("thoughtsTokenCount")
        usage = told_usage(
            total(told.get("promptTokenCount"), told.get("toolUsePromptTokenCount")),
            total(told.get("candidatesTokenCount") or 0, thoughts),
            told.get("cachedContentTokenCount"),
            thoughts,
        )
        if usage is not None:
            yield UsageChunk(usage)

    def cut(self) -> Exception:
        refused = refused_by(parsed(self.lines.noise), 500)
        return refused if refused.words else super().cut()

    def refused(self, body: object, status: int) -> Refused:
        return refused_by(body, status)


class _Lines(DataLines):
    """Keeps what came behind the last payload: Google breaks an answer off with an error that is no event, but JSON
    over several lines."""

    noise = b""

    def feed(self, data: bytes) -> list[bytes]:
        payloads = super().feed(data)
        if payloads:
            self.noise = data.rpartition(b"data:")[2].partition(b"\n")[2]
        else:
            self.noise = (self.noise + data)[-MAX_ERROR_BODY:]
        return payloads


def refused_by(body: object, status: int) -> Refused:
    """An error's body. In a stream, where the response's status says nothing, its own number stands for one."""
    if isinstance(body, list) and len(body) == 1:
        body = body[0]
    error = body.get("error") if isinstance(body, dict) else None
    if not isinstance(error, dict):
        return Refused(status)
    code, details = error.get("code"), error.get("details")
    told = [detail for detail in details if isinstance(detail, dict)] if isinstance(details, list) else []
    waits = [delay.removesuffix("s") for detail in told if isinstance(delay := detail.get("retryDelay"), str)]
    reasons = [reason for detail in told if isinstance(reason := detail.get("reason"), str)]
    if isinstance(code, int) and status in (200, 500):
        status = code
    # A limit that passes is told in the words of one that has to be paid for: "check your plan and billing details".
    message = "" if waits else str(error.get("message") or "")
    return Refused(status, " ".join([str(error.get("status") or ""), *reasons, message]), next(iter(waits), None))
