"""OpenAI's chat completions, and those of all who copied them: https://platform.openai.com/docs/api-reference/chat."""

from collections.abc import Iterator, Sequence
from json import JSONDecodeError
from typing import Any

import openai
import orjson

from errors import ErrorCode
from providers.base import FinishReason, GenerationRequest, Patience, Provider, Usage
from providers.openai import OpenAIProvider
from tests.providers.fakes.base import Fake, Seen, Told
from tests.providers.fakes.steps import Failure, Figures, Finish, Page, Raw, Refuse, Say, Sent, Step, Think

FINISH = {
    FinishReason.STOP: "stop",
    FinishReason.LENGTH: "length",
    FinishReason.CONTENT_FILTER: "content_filter",
    FinishReason.TOOL_CALLS: "tool_calls",
}
REFUSALS: dict[Failure, tuple[int, str, str | None, str]] = {
    Failure.AUTH: (401, "invalid_request_error", "invalid_api_key", "Incorrect API key provided: sk-a-key****ng."),
    Failure.RATE_LIMIT: (429, "requests", "rate_limit_exceeded", "Rate limit reached for a-model in organization o."),
    Failure.OVERLOADED: (503, "server_error", None, "The engine is currently overloaded, please try again later"),
    Failure.BROKEN: (500, "server_error", None, "The server had an error while processing your request. Sorry!"),
    Failure.CONTEXT_TOO_LONG: (
        400,
        "invalid_request_error",
        "context_length_exceeded",
        "This model's maximum context length is 8192 tokens. However, your messages resulted in 9001 tokens.",
    ),
    Failure.CONTENT_FILTER: (
        400,
        "invalid_request_error",
        "content_filter",
        "The response was filtered due to the prompt triggering Azure OpenAI's content management policy.",
    ),
    Failure.BAD_REQUEST: (400, "invalid_request_error", None, "Invalid 'messages[0].role': 'x'."),
    Failure.UNKNOWN_MODEL: (404, "invalid_request_error", "model_not_found", "The model `a-model` does not exist."),
}


class OpenAIFake(Fake):
    models: tuple[str, ...] = ("a-model",)
    """What GET /models lists."""

    @property
    def base_url(self) -> str:
        return f"{self.address}/v1"

    def provider(self, key: str, patience: Patience) -> Provider:
        return OpenAIProvider(key, self.base_url, patience=patience)

    def authorised(self, request: Seen) -> bool:
        return request.headers.get("authorization") == f"Bearer {self.key}"

    def page(self, request: Seen) -> Page | None:
        if request.path.startswith("/v1/chat/completions"):
            return None
        listed = [{"id": name, "object": "model", "created": 1686935002, "owned_by": "o"} for name in self.models]
        return Page(200, orjson.dumps({"object": "list", "data": listed}), "application/json")

    def refusal(self, failure: Failure) -> tuple[int, object]:
        status, kind, code, message = REFUSALS[failure]
        return status, {"error": {"message": message, "type": kind, "param": None, "code": code}}

    def wire(self, steps: Sequence[Step], request: Seen) -> Iterator[Sent]:
        asked = request.json
        counted = bool((asked.get("stream_options") or {}).get("include_usage"))
        told = {"usage": None} if counted else {}
        if isinstance(steps[0], Say | Think | Finish):
            yield _event(asked["model"], [_choice({"role": "assistant", "content": "", "refusal": None})], **told)
        for step in steps:
            if isinstance(step, Say):
                yield _event(asked["model"], [_choice({"content": step.text})], **told)
            elif isinstance(step, Think):
                yield _event(asked["model"], [_choice({"reasoning_content": step.text})], **told)
            elif isinstance(step, Finish):
                yield _event(asked["model"], [_choice({}, FINISH[step.reason])], **told)
            elif isinstance(step, Figures):
                if counted:
                    yield _event(asked["model"], [], usage=_usage(step))
            elif isinstance(step, Refuse):
                yield b"data: " + orjson.dumps(self.refusal(step.failure)[1]) + b"\n\n"
                return
            elif isinstance(step, Raw):
                yield step.data
            elif not isinstance(step, Page):
                yield step
        yield b"data: [DONE]\n\n"

    async def sdk(self, request: GenerationRequest, key: str) -> Told:
        told = Told()
        messages: Any = [{"role": turn.role.value.lower(), "content": turn.content} for turn in request.turns]
        async with openai.AsyncOpenAI(api_key=key, base_url=self.base_url, max_retries=0) as client:
            try:
                stream = await client.chat.completions.create(
                    model=request.model,
                    messages=messages,
                    max_completion_tokens=request.max_tokens,
                    temperature=request.temperature,
                    stream=True,
                    stream_options={"include_usage": True},
                )
                async with stream:
                    async for chunk in stream:
                        _take(told, chunk)
            except (openai.OpenAIError, JSONDecodeError) as error:
                told.error = _code(error)
        return told


def _take(told: Told, chunk: "openai.types.chat.ChatCompletionChunk") -> None:
    for choice in chunk.choices:
        told.text += choice.delta.content or ""
        told.reasoning += getattr(choice.delta, "reasoning_content", None) or ""
        if choice.finish_reason is not None:
            told.finish = next(ours for ours, theirs in FINISH.items() if theirs == choice.finish_reason)
    if (usage := chunk.usage) is not None:
        prompt, completion = usage.prompt_tokens_details, usage.completion_tokens_details
        told.usage = Usage(
            usage.prompt_tokens,
            usage.completion_tokens,
            prompt.cached_tokens if prompt else None,
            completion.reasoning_tokens if completion else None,
        )


def _code(error: Exception) -> ErrorCode:
    if isinstance(error, openai.AuthenticationError):
        return ErrorCode.PROVIDER_AUTH
    if isinstance(error, openai.RateLimitError):
        return ErrorCode.PROVIDER_RATE_LIMITED
    if isinstance(error, openai.NotFoundError):
        return ErrorCode.MODEL_UNAVAILABLE
    if isinstance(error, openai.APIError) and error.code in _CODES:
        return _CODES[error.code]
    return ErrorCode.PROVIDER_ERROR


_CODES = {
    "context_length_exceeded": ErrorCode.CONTEXT_TOO_LONG,
    "content_filter": ErrorCode.CONTENT_FILTERED,
}


def _choice(delta: dict[str, object], finish: str | None = None) -> dict[str, object]:
    return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}


def _event(model: str, choices: list[dict[str, object]], **more: object) -> bytes:
    event = {
        "id": "chatcmpl-AyPNinnUqUDYo9SAdA52NobMflmj2",
        "object": "chat.completion.chunk",
        "created": 1738960610,
        "model": model,
        "service_tier": "default",
        "system_fingerprint": "fp_50cad350e4",
        "choices": choices,
        **more,
    }
    return b"data: " + orjson.dumps(event) + b"\n\n"


def _usage(figures: Figures) -> dict[str, object]:
    total = 0
    if isinstance(figures.prompt, int) and isinstance(figures.completion, int):
        total = figures.prompt + figures.completion
    usage: dict[str, object] = {
        "prompt_tokens": figures.prompt,
        "completion_tokens": figures.completion,
        "total_tokens": total,
    }
    if figures.cached is not None:
        usage["prompt_tokens_details"] = {"cached_tokens": figures.cached, "audio_tokens": 0}
    if figures.reasoning is not None:
        usage["completion_tokens_details"] = {"reasoning_tokens": figures.reasoning, "audio_tokens": 0}
    return usage
