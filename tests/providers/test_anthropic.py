"""Anthropic's adapter, against a server that speaks its protocol and is checked with its SDK."""

from collections.abc import AsyncIterator, Mapping
from dataclasses import replace

import orjson
import pytest

from errors import ErrorCode
from providers.anthropic import AnthropicProvider
from providers.anthropic_wire import message_request
from providers.base import FinishReason, GenerationRequest, Role, Turn, Usage
from tests.providers.conformance import ProviderConformance, ask_it, asking
from tests.providers.fakes.anthropic import AnthropicFake
from tests.providers.fakes.base import Told
from tests.providers.fakes.steps import Figures, Finish, Page, Say

LATER = ["claude-opus-4-7", "claude-sonnet-5", "claude-haiku-5-5", "claude-fable-5-2", "claude-mythos-preview"]
EARLIER = [
    "claude-2.1",
    "claude-instant-1.2",
    "claude-3-opus-20240229",
    "claude-3-7-sonnet-latest",
    "claude-4-opus-20250514",
    "claude-opus-4-20250514",
    "claude-opus-4-1-20250805",
    "claude-sonnet-4-5",
    "claude-haiku-4-5-20251001",
    "claude-opus-4-6",
]


@pytest.fixture
async def server() -> AsyncIterator[AnthropicFake]:
    fake = AnthropicFake()
    async with fake.serving():
        yield fake


class TestConformance(ProviderConformance):
    @pytest.fixture
    def fake(self, server: AnthropicFake) -> AnthropicFake:
        return server


async def ask(fake: AnthropicFake, *events: Mapping[str, object], request: GenerationRequest | None = None) -> Told:
    """Our adapter's answer to a stream of these events."""
    body = b"".join(f"event: {event['type']}\ndata: ".encode() + orjson.dumps(event) + b"\n\n" for event in events)
    fake.play(Page(200, body, "text/event-stream; charset=utf-8"))
    return await ask_it(fake, request)


def start(**usage: object) -> dict[str, object]:
    return {"type": "message_start", "message": {"role": "assistant", "content": [], "usage": usage}}


def text(words: str) -> dict[str, object]:
    return {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": words}}


def end(reason: str | None, **usage: object) -> dict[str, object]:
    return {"type": "message_delta", "delta": {"stop_reason": reason, "stop_sequence": None}, "usage": usage}


STOP = {"type": "message_stop"}


async def test_what_is_sent(server: AnthropicFake) -> None:
    server.play(Say("a"), Finish())
    assert (await ask_it(server)).error is None
    seen = server.seen[0]
    assert (seen.method, seen.path) == ("POST", "/v1/messages")
    assert seen.json == {
        "model": "claude-sonnet-5-5",
        "system": "Be brief.",
        "messages": [
            {"role": "user", "content": "Say xylophone"},
            {"role": "assistant", "content": "No."},
            {"role": "user", "content": "Please 🎈"},
        ],
        "stream": True,
        "max_tokens": 64 + 2048,
        "thinking": {"type": "adaptive", "display": "summarized"},
    }
    assert seen.headers["anthropic-version"] == "2026-10-21"


@pytest.mark.parametrize("model", EARLIER)
async def test_earlier_models_are_told_a_temperature(server: AnthropicFake, model: str) -> None:
    """And those whose end is near are asked without a warning, which pytest would take for an error."""
    server.play(Say("a"), Finish())
    request = replace(asking(server), model=model, temperature=1.8)
    assert (await ask_it(server, request)).finish is FinishReason.STOP
    asked = server.seen[0].json
    assert (asked["temperature"], asked["max_tokens"]) == (1.0, 64)
    assert "thinking" not in asked
    assert thoughts_of(model) == 0
    assert server.seen[0].headers["anthropic-version"] == "2023-06-01"


@pytest.mark.parametrize("model", LATER)
def test_later_models_are_asked_for_their_thoughts(model: str) -> None:
    body, headers = message_request(GenerationRequest(model, (Turn(Role.USER, "a"),), 0.5, 64))
    assert "thinking" in body
    assert not body.keys() & {"temperature", "system"}
    assert not headers
    assert body["max_tokens"] == 64 + thoughts_of(model), "what is asked for can be reserved"


def thoughts_of(model: str) -> int:
    found = AnthropicProvider("key").find(model)
    assert found is not None
    return found.thoughts(64)


async def test_a_conversation_that_breaks_the_vendors_rules_is_mended(server: AnthropicFake) -> None:
    turns = (Turn(Role.ASSISTANT, "Hi"), Turn(Role.USER, " "), Turn(Role.USER, "a"), Turn(Role.USER, "b"))
    server.play(Say("a"), Finish())
    assert (await ask_it(server, replace(asking(server), turns=turns))).error is None
    said = [(turn["role"], turn["content"]) for turn in server.seen[0].json["messages"]]
    assert said == [("user", "Hello."), ("assistant", "Hi"), ("user", "a\n\nb")]


@pytest.mark.parametrize(
    ("reason", "finish"),
    [
        ("end_turn", FinishReason.STOP),
        ("stop_sequence", FinishReason.STOP),
        ("max_tokens", FinishReason.LENGTH),
        ("model_context_window_exceeded", FinishReason.LENGTH),
        ("pause_turn", FinishReason.LENGTH),
        ("tool_use", FinishReason.TOOL_CALLS),
        ("refusal", FinishReason.CONTENT_FILTER),
        ("a_new_one", FinishReason.STOP),
    ],
)
async def test_stop_reasons(server: AnthropicFake, reason: str, finish: FinishReason) -> None:
    assert await ask(server, start(), text("a"), end(reason), STOP) == Told("a", finish=finish)


@pytest.mark.parametrize(
    ("reason", "code"),
    [
        ("refusal", ErrorCode.CONTENT_FILTERED),
        ("model_context_window_exceeded", ErrorCode.CONTEXT_TOO_LONG),
        (None, ErrorCode.PROVIDER_ERROR),
    ],
)
async def test_what_ends_before_its_first_word(server: AnthropicFake, reason: str | None, code: ErrorCode) -> None:
    assert await ask(server, start(), end(reason), STOP) == Told(error=code)


async def test_a_stream_that_stops_without_an_end_is_a_failure(server: AnthropicFake) -> None:
    assert await ask(server, start(), text("a"), STOP) == Told("a", error=ErrorCode.PROVIDER_ERROR)


async def test_the_later_figures_leave_out_what_has_not_changed(server: AnthropicFake) -> None:
    begun = start(input_tokens=10, cache_read_input_tokens=100, cache_creation_input_tokens=1000, output_tokens=1)
    thought = {"thinking_tokens": 4}
    ended = end("end_turn", output_tokens=9, input_tokens=None, output_tokens_details=thought)
    told = await ask(server, begun, text("a"), ended, STOP)
    assert told.usage == Usage(1110, 9, cached_tokens=100, reasoning_tokens=4)


async def test_what_is_no_text_is_passed_over(server: AnthropicFake) -> None:
    told = await ask(
        server,
        start(input_tokens=1),
        {"type": "content_block_start", "content_block": {"type": "redacted_thinking", "data": "x"}},
        {"type": "content_block_start", "content_block": {"type": "text", "text": "a"}},
        {"type": "content_block_delta", "delta": {"type": "signature_delta", "signature": "x"}},
        {"type": "content_block_delta", "delta": {"type": "thinking_delta", "thinking": ""}},
        {"type": "content_block_delta", "delta": {"type": "citations_delta", "citation": {"cited_text": "x"}}},
        {"type": "ping"},
        {"type": "an_event_of_tomorrow", "text": "x"},
        text("b"),
        end("end_turn", output_tokens=2),
        STOP,
    )
    assert told == Told("ab", finish=FinishReason.STOP, usage=Usage(1, 2))


REFUSALS = [
    (400, "invalid_request_error", "Your credit balance is too low to access the API.", ErrorCode.PROVIDER_AUTH),
    (400, "invalid_request_error", "input length and `max_tokens` exceed context limit: 199 + 21 > 200", "too long"),
    (400, "invalid_request_error", "prompt is too long: 208310 tokens > 200000 maximum", "too long"),
    (402, "billing_error", "There's an issue with your billing", ErrorCode.PROVIDER_AUTH),
    (403, "permission_error", "Your API key does not have permission", ErrorCode.PROVIDER_AUTH),
    (413, "request_too_large", "Request exceeds the maximum size", "too long"),
    (429, "rate_limit_error", "slow down", ErrorCode.PROVIDER_RATE_LIMITED),
    (500, "api_error", "Internal server error", ErrorCode.PROVIDER_ERROR),
    (504, "timeout_error", "Request timed out", ErrorCode.PROVIDER_TIMEOUT),
    (529, "overloaded_error", "Overloaded", ErrorCode.PROVIDER_ERROR),
]


@pytest.mark.parametrize(("status", "kind", "message", "expected"), REFUSALS)
async def test_errors_mean_the_same_before_an_answer_and_in_it(
    server: AnthropicFake, status: int, kind: str, message: str, expected: ErrorCode | str
) -> None:
    error = {"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_1"}
    code = ErrorCode.CONTEXT_TOO_LONG if expected == "too long" else expected
    server.play(Page(status, orjson.dumps(error), "application/json"))
    assert (await ask_it(server)).error is code
    assert await ask(server, start(), text("a"), error) == Told("a", error=ErrorCode(code))


async def test_the_key_goes_where_the_sdk_puts_it_and_a_wrong_one_is_named(server: AnthropicFake) -> None:
    server.play(Say("a"), Finish(), Figures(1, 1))
    await ask_it(server)
    assert server.seen[0].headers["authorization"] == f"Bearer {server.key}"
    assert "x-api-key" not in server.seen[0].headers


@pytest.mark.parametrize("body", [b"[]", b'{"error": "no"}', b'{"error": {"type": 5}}', b"nope", b""])
async def test_strange_errors_are_errors(server: AnthropicFake, body: bytes) -> None:
    server.play(Page(500, body, "application/json"))
    assert (await ask_it(server)).error is ErrorCode.PROVIDER_ERROR
