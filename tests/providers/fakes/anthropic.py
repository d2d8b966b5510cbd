"""Anthropic's messages: https://platform.claude.com/docs/en/build-with-claude/streaming, and the SDK's own fixtures."""

from collections.abc import Iterator, Mapping, Sequence
from json import JSONDecodeError
from typing import Any

import anthropic
import httpx2
import orjson
from anthropic.types import ThinkingBlock

from errors import ErrorCode
from providers.anthropic import AnthropicProvider
from providers.base import FinishReason, GenerationRequest, Patience, Provider, Role, Usage
from tests.providers.fakes.base import Fake, Seen, Told
from tests.providers.fakes.steps import Failure, Figures, Finish, Page, Raw, Refuse, Say, Sent, Step, Think

FINISH = {
    FinishReason.STOP: "end_turn",
    FinishReason.LENGTH: "max_tokens",
    FinishReason.CONTENT_FILTER: "refusal",
    FinishReason.TOOL_CALLS: "tool_use",
}
REFUSALS = {
    Failure.AUTH: (401, "authentication_error", "invalid x-api-key"),
    Failure.RATE_LIMIT: (
        429,
        "rate_limit_error",
        "This request would exceed your organization's rate limit of 50,000 input tokens per minute.",
    ),
    Failure.OVERLOADED: (529, "overloaded_error", "Overloaded"),
    Failure.BROKEN: (500, "api_error", "Internal server error"),
    Failure.CONTEXT_TOO_LONG: (400, "invalid_request_error", "prompt is too long: 208310 tokens > 200000 maximum"),
    Failure.BAD_REQUEST: (400, "invalid_request_error", "messages.0.content.0: unexpected value"),
    Failure.UNKNOWN_MODEL: (404, "not_found_error", "model: claude-none"),
}
FILTERED = Refuse(Failure.CONTENT_FILTER)
REFUSED_STOP = {"type": "refusal", "category": "cyber", "explanation": "This request was refused due to policy."}


class AnthropicFake(Fake):
    key = "sk-ant-api03-a-key-that-is-right"
    model = "claude-sonnet-5-5"

    def provider(self, key: str, patience: Patience) -> Provider:
        return AnthropicProvider(key, self.address, patience=patience)

    def authorised(self, request: Seen) -> bool:
        told = (request.headers.get("authorization"), request.headers.get("x-api-key"))
        return told in ((f"Bearer {self.key}", None), (None, self.key))

    def page(self, request: Seen) -> Page | None:
        """What the real server is strict about."""
        if request.path != "/v1/messages" or request.headers.get("anthropic-version") not in VERSIONS:
            return _refusal_page(404, "not_found_error", "Not found")
        wrong = _wrong(request)
        return None if wrong is None else _refusal_page(400, "invalid_request_error", wrong)

    def refusal(self, failure: Failure) -> tuple[int, object] | None:
        if failure is Failure.CONTENT_FILTER:
            return None
        status, kind, message = REFUSALS[failure]
        return status, _error(kind, message)

    def wire(self, steps: Sequence[Step], request: Seen) -> Iterator[Sent]:
        figures = next((step for step in steps if isinstance(step, Figures)), Figures(7, 1))
        message, blocks = _message(request.json["model"], figures), _Blocks()
        begun = False
        for step in steps:
            if not begun and (isinstance(step, Say | Think | Finish) or step == FILTERED):
                begun = True
                yield _event("message_start", message=message)
                yield _event("ping")
            if isinstance(step, Say):
                yield from blocks.say({"type": "text", "text": ""}, {"type": "text_delta", "text": step.text})
            elif isinstance(step, Think):
                thought = {"type": "thinking_delta", "thinking": step.text}
                yield from blocks.say({"type": "thinking", "thinking": "", "signature": ""}, thought)
            elif isinstance(step, Finish):
                yield from blocks.finish(step.reason)
                yield _ending(FINISH[step.reason], figures)
            elif step == FILTERED:
                yield from blocks.say({"type": "text", "text": ""}, None)
                yield from blocks.close()
                yield _ending("refusal", figures)
            elif isinstance(step, Refuse):
                yield _event(**_error(*REFUSALS[step.failure][1:]))
                return
            elif isinstance(step, Raw):
                yield step.data.replace(b"data: ", b"event: content_block_delta\ndata: ", 1)
            elif not isinstance(step, Page | Figures):
                yield step
        if any(isinstance(step, Finish | Refuse) for step in steps):
            yield _event("message_stop")

    async def sdk(self, request: GenerationRequest, key: str) -> Told:
        told = Told()
        system = "".join(turn.content for turn in request.turns if turn.role is Role.SYSTEM)
        messages: Any = [
            {"role": turn.role.value.lower(), "content": turn.content}
            for turn in request.turns
            if turn.role is not Role.SYSTEM
        ]
        async with anthropic.AsyncAnthropic(api_key=key, base_url=self.address, max_retries=0) as client:
            try:
                async with client.messages.stream(
                    model=request.model, messages=messages, system=system, max_tokens=request.max_tokens
                ) as stream:
                    async for event in stream:
                        if event.type == "text":
                            told.text += event.text
                        elif event.type == "thinking":
                            told.reasoning += event.thinking
                    _take(told, await stream.get_final_message())
            except (anthropic.AnthropicError, httpx2.HTTPError, JSONDecodeError, AssertionError) as error:
                told.error = _code(error)
        return told


VERSIONS = {"2023-06-01", anthropic._constants.ANTHROPIC_API_VERSION}


def _wrong(request: Seen) -> str | None:
    asked = request.json
    turns = asked.get("messages") or []
    if request.headers["anthropic-version"] != "2023-06-01" and "temperature" in asked:
        return "temperature: Extra inputs are not permitted"
    if not turns or turns[0]["role"] != "user":
        return 'messages: first message must use the "user" role'
    if turns[-1]["role"] != "user":
        return "This model does not support assistant message prefill. The conversation must end with a user message."
    if any(not turn["content"].strip() for turn in turns) or not asked.get("system", "x").strip():
        return "messages: text content blocks must contain non-whitespace text"
    if any(turn["role"] not in ("user", "assistant") for turn in turns):
        return "messages: Unexpected role"
    return None


class _Blocks:
    """Content blocks, one after the other, each of one type."""

    def __init__(self) -> None:
        self._index = -1
        self._type: object = None

    def say(self, block: Mapping[str, object], delta: Mapping[str, object] | None) -> Iterator[bytes]:
        if block["type"] != self._type:
            yield from self.close()
            self._index, self._type = self._index + 1, block["type"]
            yield _event("content_block_start", index=self._index, content_block=block)
        if delta is not None:
            yield self._delta(delta)

    def close(self) -> Iterator[bytes]:
        if self._type == "thinking":
            yield self._delta(
                {"type": "signature_delta", "signature": "EqQBCgIYAhIM1gbcDa9GJwZA2b3hGgxBdjrkzLoky3dl1pk"}
            )
        if self._type is not None:
            yield _event("content_block_stop", index=self._index)
        self._type = None

    def finish(self, reason: FinishReason) -> Iterator[bytes]:
        if reason is FinishReason.TOOL_CALLS:
            tool = {"type": "tool_use", "id": "toolu_01T1x1fJ34qAmk2tNTrN7Up6", "name": "get_weather", "input": {}}
            yield from self.say(tool, {"type": "input_json_delta", "partial_json": ""})
            yield self._delta({"type": "input_json_delta", "partial_json": '{"location": "Paris"}'})
        yield from self.close()

    def _delta(self, delta: Mapping[str, object]) -> bytes:
        return _event("content_block_delta", index=self._index, delta=delta)


def _event(type: str, **more: object) -> bytes:
    return f"event: {type}\ndata: ".encode() + orjson.dumps({"type": type, **more}) + b"\n\n"


def _message(model: str, figures: Figures) -> dict[str, object]:
    return {
        "model": model,
        "id": "msg_01RZ2ktuZUa7PnBKchNPTmcq",
        "type": "message",
        "role": "assistant",
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "stop_details": None,
        "usage": {**_prompt(figures), "output_tokens": 1, "service_tier": "standard", "inference_geo": "not_available"},
    }


def _prompt(figures: Figures) -> dict[str, object]:
    if figures.cached is None or not isinstance(figures.prompt, int) or not isinstance(figures.cached, int):
        return {"input_tokens": figures.prompt}
    written = 30 if figures.prompt - figures.cached > 30 else 0
    return {
        "input_tokens": figures.prompt - figures.cached - written,
        "cache_creation_input_tokens": written,
        "cache_read_input_tokens": figures.cached,
    }


def _ending(reason: str, figures: Figures) -> bytes:
    usage = {**_prompt(figures), "output_tokens": figures.completion}
    if figures.reasoning is not None:
        usage["output_tokens_details"] = {"thinking_tokens": figures.reasoning}
    details = REFUSED_STOP if reason == "refusal" else None
    delta = {"stop_reason": reason, "stop_sequence": None, "stop_details": details}
    return _event("message_delta", delta=delta, usage=usage)


def _error(kind: str, message: str) -> dict[str, Any]:
    return {"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_011CSHoEeqs5C35K2UUqR7Fy"}


def _refusal_page(status: int, kind: str, message: str) -> Page:
    return Page(status, orjson.dumps(_error(kind, message)), "application/json")


def _take(told: Told, message: "anthropic.types.Message") -> None:
    if message.stop_reason is None:
        told.error = ErrorCode.PROVIDER_ERROR
        return
    finish = next(ours for ours, theirs in FINISH.items() if theirs == message.stop_reason)
    if finish is FinishReason.CONTENT_FILTER and not told.text:
        told.error = ErrorCode.CONTENT_FILTERED
        return
    told.finish = finish
    assert told.reasoning == "".join(block.thinking for block in message.content if isinstance(block, ThinkingBlock))
    usage = message.usage
    prompt = usage.input_tokens + (usage.cache_creation_input_tokens or 0) + (usage.cache_read_input_tokens or 0)
    details = usage.output_tokens_details
    told.usage = Usage(
        prompt,
        usage.output_tokens,
        usage.cache_read_input_tokens,
        details.thinking_tokens if details is not None else None,
    )


def _code(error: Exception) -> ErrorCode:
    if isinstance(error, anthropic.APIStatusError):
        if error.type == "invalid_request_error" and "prompt is too long" in (error.api_message or ""):
            return ErrorCode.CONTEXT_TOO_LONG
        return _CODES.get(error.type or "", ErrorCode.PROVIDER_ERROR)
    return ErrorCode.PROVIDER_ERROR


_CODES = {
    "authentication_error": ErrorCode.PROVIDER_AUTH,
    "rate_limit_error": ErrorCode.PROVIDER_RATE_LIMITED,
    "not_found_error": ErrorCode.MODEL_UNAVAILABLE,
}
