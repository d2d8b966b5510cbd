"""Gemini's generateContent: https://ai.google.dev/api/generate-content#method:-models.streamgeneratecontent."""

import re
from collections.abc import Iterator, Sequence
from typing import Any

import httpx
import httpx2
import orjson
from google import genai
from google.genai import errors as sdk_errors
from google.genai import types

from errors import ErrorCode
from providers.base import FinishReason, GenerationRequest, Patience, Provider, Role, Usage
from providers.google import GoogleProvider
from tests.providers.fakes.base import Fake, Seen, Told
from tests.providers.fakes.steps import Failure, Figures, Finish, Page, Raw, Refuse, Say, Sent, Step, Think

FINISH = {
    FinishReason.STOP: "STOP",
    FinishReason.LENGTH: "MAX_TOKENS",
    FinishReason.CONTENT_FILTER: "SAFETY",
    FinishReason.TOOL_CALLS: "STOP",  # and a call of a function before it
}
BAD_KEY: dict[str, object] = {
    "@type": "type.googleapis.com/google.rpc.ErrorInfo",
    "reason": "API_KEY_INVALID",
    "domain": "googleapis.com",
    "metadata": {"service": "generativelanguage.googleapis.com"},
}
REFUSALS: dict[Failure, tuple[int, str, str, list[dict[str, object]]]] = {
    Failure.AUTH: (400, "INVALID_ARGUMENT", "API key not valid. Please pass a valid API key.", [BAD_KEY]),
    Failure.RATE_LIMIT: (429, "RESOURCE_EXHAUSTED", "Resource has been exhausted (e.g. check quota).", []),
    Failure.OVERLOADED: (503, "UNAVAILABLE", "The model is overloaded. Please try again later.", []),
    Failure.BROKEN: (500, "INTERNAL", "An internal error has occurred. Please retry or report in 127.0.0.1.", []),
    Failure.CONTEXT_TOO_LONG: (
        400,
        "INVALID_ARGUMENT",
        "The input token count (1200005) exceeds the maximum number of tokens allowed (1048576).",
        [],
    ),
    Failure.BAD_REQUEST: (400, "INVALID_ARGUMENT", "Please use a valid role: user, model.", []),
    Failure.UNKNOWN_MODEL: (
        404,
        "NOT_FOUND",
        "models/gemini-none is not found for API version v1, or is not supported for generateContent.",
        [],
    ),
}
FIELDS = {"contents", "generationConfig", "systemInstruction"}
CONFIG = {"temperature", "maxOutputTokens", "thinkingConfig"}


class GoogleFake(Fake):
    key = "AIzaSyA-a-key-that-is-right"
    model = "gemini-3.8-flash"

    def provider(self, key: str, patience: Patience) -> Provider:
        return GoogleProvider(key, self.address, patience=patience)

    def authorised(self, request: Seen) -> bool:
        return request.headers.get("x-goog-api-key") == self.key

    def page(self, request: Seen) -> Page | None:
        """What the real server is strict about."""
        if not re.fullmatch(r"/v1(beta)?/models/[\w.-]+:streamGenerateContent\?alt=sse", request.path):
            return Page(404, b"<!DOCTYPE html><title>Error 404 (Not Found)!!1</title>")
        wrong = _wrong(request.json)
        error = _error(400, "INVALID_ARGUMENT", wrong or "", [])
        return None if wrong is None else Page(400, orjson.dumps(error), "application/json; charset=UTF-8")

    def refusal(self, failure: Failure) -> tuple[int, object] | None:
        if failure is Failure.CONTENT_FILTER:
            return None
        return REFUSALS[failure][0], _error(*REFUSALS[failure])

    def wire(self, steps: Sequence[Step], request: Seen) -> Iterator[Sent]:
        figures = next((step for step in steps if isinstance(step, Figures)), None)
        model = request.path.split("/")[-1].partition(":")[0]
        for step in steps:
            if isinstance(step, Say):
                yield _event(model, figures, [{"text": step.text}])
            elif isinstance(step, Think):
                yield _event(model, figures, [{"text": step.text, "thought": True}])
            elif isinstance(step, Finish):
                if step.reason is FinishReason.TOOL_CALLS:
                    yield _event(model, figures, [{"functionCall": {"name": "weather", "args": {"at": "Paris"}}}])
                parts = [{"text": "", "thoughtSignature": "EpwCCpkCAXLI2nxIwaVY"}]
                yield _event(model, figures, parts, finishReason=FINISH[step.reason])
            elif step == Refuse(Failure.CONTENT_FILTER):
                yield _payload({"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}, "modelVersion": model})
            elif isinstance(step, Refuse):
                yield orjson.dumps(_error(*REFUSALS[step.failure]), option=orjson.OPT_INDENT_2) + b"\n"
                return
            elif isinstance(step, Raw):
                yield step.data
            elif not isinstance(step, Page | Figures):
                yield step

    async def sdk(self, request: GenerationRequest, key: str) -> Told:
        told = Told()
        contents: Any = [
            types.Content(role="user" if turn.role is Role.USER else "model", parts=[types.Part(text=turn.content)])
            for turn in request.turns
            if turn.role is not Role.SYSTEM
        ]
        config = types.GenerateContentConfig(
            system_instruction=[turn.content for turn in request.turns if turn.role is Role.SYSTEM],
            max_output_tokens=request.max_tokens,
            thinking_config=types.ThinkingConfig(include_thoughts=True),
        )
        client = genai.Client(api_key=key, http_options=types.HttpOptions(base_url=self.address)).aio
        try:
            async for chunk in await client.models.generate_content_stream(
                model=request.model, contents=contents, config=config
            ):
                _take(told, chunk)
        except (sdk_errors.APIError, sdk_errors.UnknownApiResponseError, httpx.HTTPError, httpx2.HTTPError) as error:
            return Told(told.text, told.reasoning, error=_code(error))
        finally:
            await client.aclose()
        return told


def _wrong(asked: dict[str, Any]) -> str | None:
    config = asked.get("generationConfig") or {}
    if unknown := (asked.keys() - FIELDS) | (config.keys() - CONFIG):
        return f'Invalid JSON payload received. Unknown name "{unknown.pop()}": Cannot find field.'
    turns = asked.get("contents") or []
    if not turns:
        return "* GenerateContentRequest.contents: contents is not specified"
    if any(not part.get("text") for turn in turns for part in turn["parts"]):
        return "Unable to submit request because it must have a text parameter."
    if any(turn["role"] not in ("user", "model") for turn in turns):
        return "Please use a valid role: user, model."
    roles = [turn["role"] for turn in turns]
    if roles != ["user", "model"] * (len(roles) // 2) + ["user"]:
        return "Please ensure that multiturn requests alternate between user and model."
    return None


def _payload(message: dict[str, object]) -> bytes:
    return b"data: " + orjson.dumps(message) + b"\r\n\r\n"


def _event(model: str, figures: Figures | None, parts: list[dict[str, Any]], **more: object) -> bytes:
    candidate = {"content": {"parts": parts, "role": "model"}, **more, "index": 0}
    told = {} if figures is None else {"usageMetadata": _usage(figures)}
    return _payload({"candidates": [candidate], **told, "modelVersion": model, "responseId": "mAitaLmkHPPlz7IPvtfUqQ4"})


def _usage(figures: Figures) -> dict[str, object]:
    """Nothing is left out but what is 0 or unknown."""
    said = figures.completion
    if isinstance(said, int) and isinstance(figures.reasoning, int) and figures.reasoning > 0:
        said -= figures.reasoning
    told = {
        "promptTokenCount": figures.prompt,
        "candidatesTokenCount": said,
        "cachedContentTokenCount": figures.cached,
        "thoughtsTokenCount": figures.reasoning,
        "promptTokensDetails": [{"modality": "TEXT", "tokenCount": figures.prompt}],
    }
    return {name: value for name, value in told.items() if value is not None and value != 0}


def _error(code: int, status: str, message: str, details: list[dict[str, object]]) -> dict[str, object]:
    error = {"code": code, "message": message, "status": status}
    return {"error": error | ({"details": details} if details else {})}


def _take(told: Told, chunk: types.GenerateContentResponse) -> None:
    if chunk.prompt_feedback is not None and chunk.prompt_feedback.block_reason is not None:
        told.error = ErrorCode.CONTENT_FILTERED
        return
    for candidate in chunk.candidates or ():
        for part in (candidate.content and candidate.content.parts) or ():
            if part.function_call is not None:
                told.finish = FinishReason.TOOL_CALLS
            elif part.thought:
                told.reasoning += part.text or ""
            else:
                told.text += part.text or ""
        if (reason := candidate.finish_reason) is not None:
            told.finish = told.finish or next(ours for ours, theirs in FINISH.items() if theirs == reason.value)
    usage = chunk.usage_metadata
    if told.finish is not None and usage is not None:
        told.usage = Usage(
            usage.prompt_token_count or 0,
            (usage.candidates_token_count or 0) + (usage.thoughts_token_count or 0),
            usage.cached_content_token_count,
            usage.thoughts_token_count,
        )


def _code(error: Exception) -> ErrorCode:
    if not isinstance(error, sdk_errors.APIError):
        return ErrorCode.PROVIDER_ERROR
    message = error.message or ""
    if error.status == "INVALID_ARGUMENT":
        if "API key" in message:
            return ErrorCode.PROVIDER_AUTH
        if "input token count" in message:
            return ErrorCode.CONTEXT_TOO_LONG
    return _CODES.get(error.status or "", ErrorCode.PROVIDER_ERROR)


_CODES = {
    "RESOURCE_EXHAUSTED": ErrorCode.PROVIDER_RATE_LIMITED,
    "NOT_FOUND": ErrorCode.MODEL_UNAVAILABLE,
}
