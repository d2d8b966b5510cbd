"""Google's adapter, against a server that speaks its protocol and is checked with its SDK."""

from collections.abc import AsyncIterator, Mapping
from dataclasses import replace

import orjson
import pytest

from errors import ErrorCode
from providers.base import FinishReason, GenerationRequest, Role, Turn, Usage
from providers.google import GoogleProvider
from providers.google_wire import content_request
from tests.providers.conformance import ProviderConformance, ask_it, asking
from tests.providers.fakes.base import Told
from tests.providers.fakes.google import GoogleFake
from tests.providers.fakes.steps import Finish, Page, Say


@pytest.fixture
async def server() -> AsyncIterator[GoogleFake]:
    fake = GoogleFake()
    async with fake.serving():
        yield fake


class TestConformance(ProviderConformance):
    @pytest.fixture
    def fake(self, server: GoogleFake) -> GoogleFake:
        return server


async def ask(fake: GoogleFake, *responses: Mapping[str, object], behind: bytes = b"") -> Told:
    """Our adapter's answer to a stream of these responses, and what comes behind them."""
    body = b"".join(b"data: " + orjson.dumps(response) + b"\r\n\r\n" for response in responses)
    fake.play(Page(200, body + behind, "text/event-stream"))
    return await ask_it(fake)


def says(text: str, finish: str | None = None, **usage: object) -> dict[str, object]:
    candidate: dict[str, object] = {"content": {"parts": [{"text": text}], "role": "model"}, "index": 0}
    return {"candidates": [candidate | ({"finishReason": finish} if finish else {})], "usageMetadata": usage}


def asked_of(model: str) -> dict[str, object]:
    config = content_request(GenerationRequest(model, (Turn(Role.USER, "a"),), 1.8, 64))["generationConfig"]
    assert isinstance(config, dict)
    return config


async def test_what_is_sent(server: GoogleFake) -> None:
    server.play(Say("a"), Finish())
    assert (await ask_it(server)).error is None
    seen = server.seen[0]
    assert (seen.method, seen.path) == ("POST", "/v1/models/gemini-3.8-flash:streamGenerateContent?alt=sse")
    assert seen.json == {
        "systemInstruction": {"parts": [{"text": "Be brief."}]},
        "contents": [
            {"role": "user", "parts": [{"text": "Say xylophone"}]},
            {"role": "model", "parts": [{"text": "No."}]},
            {"role": "user", "parts": [{"text": "Please 🎈"}]},
        ],
        "generationConfig": {"maxOutputTokens": 64 + 2048, "thinkingConfig": {"includeThoughts": True}},
    }


async def test_the_sdk_sends_the_same(server: GoogleFake) -> None:
    server.play(Say("a"), Finish())
    await ask_it(server)
    await server.sdk(asking(server), server.key)
    ours, theirs = server.seen
    assert (ours.method, ours.path) == (theirs.method, theirs.path)
    assert ours.headers["x-goog-api-key"] == theirs.headers["x-goog-api-key"]
    assert ours.headers["content-type"] == theirs.headers["content-type"]
    assert ours.json["contents"] == theirs.json["contents"]
    assert ours.json["systemInstruction"]["parts"] == theirs.json["systemInstruction"]["parts"]


@pytest.mark.parametrize(
    ("model", "temperature", "thinks"),
    [
        ("gemini-1.5-flash", True, False),
        ("gemini-2.0-flash-lite", True, False),
        ("gemini-2.5-pro", True, True),
        ("gemini-2.5-flash-image", True, False),
        ("gemini-3-flash-preview", False, True),
        ("models/gemini-3.8-flash", False, True),
        ("gemini-4-argon", False, True),
        ("gemini-flash-latest", False, True),
        ("gemini-live-2.5-flash", True, False),
        ("gemma-4-31b-it", True, False),
    ],
)
def test_each_generation_is_asked_for_what_it_takes(model: str, temperature: bool, thinks: bool) -> None:
    config = asked_of(model)
    assert config.get("temperature") == (1.8 if temperature else None)
    assert config["maxOutputTokens"] == (64 + 2048 if thinks else 64)
    assert ("thinkingConfig" in config) is thinks
    found = GoogleProvider("key").find(model)
    assert found is not None
    assert config["maxOutputTokens"] == 64 + found.thoughts(64), "what is asked for can be reserved"


@pytest.mark.parametrize("model", ["../../secrets", "gemini-1?key=x", "gemini 2", "gemini-1:other", "gemini/x"])
async def test_a_name_cannot_lead_elsewhere(server: GoogleFake, model: str) -> None:
    """Names come from users."""
    server.play(Say("a"), Finish())
    await ask_it(server, replace(asking(server), model=model))
    path = server.seen[0].path.removeprefix("/v1/models/").removesuffix(":streamGenerateContent?alt=sse")
    assert not set(path) & set("/?: ")


async def test_a_conversation_that_breaks_the_vendors_rules_is_mended(server: GoogleFake) -> None:
    turns = (Turn(Role.ASSISTANT, "Hi"), Turn(Role.USER, ""), Turn(Role.USER, "a"), Turn(Role.ASSISTANT, "b"))
    server.play(Say("a"), Finish())
    assert (await ask_it(server, replace(asking(server), turns=turns))).error is None
    said = [(turn["role"], turn["parts"][0]["text"]) for turn in server.seen[0].json["contents"]]
    assert said == [("user", "Hello."), ("model", "Hi"), ("user", "a"), ("model", "b"), ("user", "Please continue.")]


@pytest.mark.parametrize(
    ("reason", "finish"),
    [
        ("STOP", FinishReason.STOP),
        ("MAX_TOKENS", FinishReason.LENGTH),
        ("CONTINUATION", FinishReason.LENGTH),
        ("SAFETY", FinishReason.CONTENT_FILTER),
        ("RECITATION", FinishReason.CONTENT_FILTER),
        ("BLOCKLIST", FinishReason.CONTENT_FILTER),
        ("PROHIBITED_CONTENT", FinishReason.CONTENT_FILTER),
        ("SPII", FinishReason.CONTENT_FILTER),
        ("LANGUAGE", FinishReason.CONTENT_FILTER),
        ("UNEXPECTED_TOOL_CALL", FinishReason.TOOL_CALLS),
        ("A_NEW_ONE", FinishReason.STOP),
    ],
)
async def test_finish_reasons(server: GoogleFake, reason: str, finish: FinishReason) -> None:
    assert await ask(server, says("a"), says("", reason)) == Told("a", finish=finish)


@pytest.mark.parametrize("reason", ["OTHER", "MALFORMED_RESPONSE"])
async def test_an_answer_that_broke_does_not_look_whole(server: GoogleFake, reason: str) -> None:
    assert await ask(server, says("a"), says("", reason)) == Told("a", error=ErrorCode.PROVIDER_ERROR)


@pytest.mark.parametrize(
    ("response", "code"),
    [
        ({"promptFeedback": {"blockReason": "SAFETY"}}, ErrorCode.CONTENT_FILTERED),
        (says("", "PROHIBITED_CONTENT"), ErrorCode.CONTENT_FILTERED),
        (says("", "PUP_LIMITED_DISABLED"), ErrorCode.PROVIDER_AUTH),
        ({"candidates": []}, ErrorCode.PROVIDER_ERROR),
        ({"candidates": [{"finishReason": 5}]}, ErrorCode.PROVIDER_ERROR),
        ({"candidates": [{"content": {"parts": [{"text": 5}]}}]}, ErrorCode.PROVIDER_ERROR),
        ({"candidates": {"a": 1}}, ErrorCode.PROVIDER_ERROR),
    ],
)
async def test_what_ends_before_its_first_word(
    server: GoogleFake, response: dict[str, object], code: ErrorCode
) -> None:
    assert await ask(server, response) == Told(error=code)


async def test_feedback_beside_an_answer_is_no_refusal(server: GoogleFake) -> None:
    rated = says("a", "STOP") | {"promptFeedback": {"safetyRatings": [{"category": "x", "probability": "LOW"}]}}
    assert await ask(server, rated) == Told("a", finish=FinishReason.STOP)


async def test_models_that_finish_at_every_word(server: GoogleFake) -> None:
    told = await ask(server, says("a", "STOP"), says("b", "STOP"), says("c", "MAX_TOKENS"))
    assert told == Told("abc", finish=FinishReason.LENGTH)


async def test_thoughts_count_as_completion_and_the_last_figures_hold(server: GoogleFake) -> None:
    told = await ask(
        server,
        says("a", promptTokenCount=9, thoughtsTokenCount=3),
        says("", "STOP", promptTokenCount=9, candidatesTokenCount=2, thoughtsTokenCount=5, cachedContentTokenCount=4),
    )
    assert told.usage == Usage(9, 7, cached_tokens=4, reasoning_tokens=5)


async def test_nothing_but_thoughts(server: GoogleFake) -> None:
    """What is 0 is left out."""
    told = await ask(server, says("", "MAX_TOKENS", promptTokenCount=9, thoughtsTokenCount=5))
    assert told == Told(finish=FinishReason.LENGTH, usage=Usage(9, 5, reasoning_tokens=5))


BROKEN_OFF: dict[str, object] = {"error": {"code": 503, "message": "The model is overloaded.", "status": "UNAVAILABLE"}}
LIMITED: dict[str, object] = {"error": {"code": 429, "message": "slow down", "status": "RESOURCE_EXHAUSTED"}}


@pytest.mark.parametrize("indented", [True, False])
@pytest.mark.parametrize("packets", [True, False])
async def test_errors_that_are_no_event(server: GoogleFake, indented: bool, packets: bool) -> None:
    """Google writes the JSON of an error, over several lines, where the next event would be."""
    error = orjson.dumps(LIMITED, option=orjson.OPT_INDENT_2 if indented else None)
    told = await ask(server, says("a" * (100_000 if packets else 1)), behind=error)
    assert told.error is ErrorCode.PROVIDER_RATE_LIMITED


async def test_errors_that_are_events(server: GoogleFake) -> None:
    assert await ask(server, says("a"), LIMITED) == Told("a", error=ErrorCode.PROVIDER_RATE_LIMITED)
    assert (await ask(server, BROKEN_OFF)).error is ErrorCode.PROVIDER_ERROR


QUOTA = "You exceeded your current quota, please check your plan and billing details."
RETRY = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "38.25s"}
HELP = {"@type": "type.googleapis.com/google.rpc.Help", "links": []}


@pytest.mark.parametrize(
    ("status", "error", "code", "wait"),
    [
        (429, {"message": QUOTA, "details": [HELP, RETRY]}, ErrorCode.PROVIDER_RATE_LIMITED, 38.25),
        (429, {"message": QUOTA, "details": [RETRY | {"retryDelay": 5}]}, ErrorCode.PROVIDER_AUTH, None),
        (429, {"message": QUOTA}, ErrorCode.PROVIDER_AUTH, None),
        (429, {"message": "Resource has been exhausted (e.g. check quota)."}, ErrorCode.PROVIDER_RATE_LIMITED, None),
        (400, {"message": "API key expired. Please renew the API key."}, ErrorCode.PROVIDER_AUTH, None),
        (400, {"message": "x", "details": [{"reason": "API_KEY_INVALID"}]}, ErrorCode.PROVIDER_AUTH, None),
        (403, {"message": "Permission denied", "status": "PERMISSION_DENIED"}, ErrorCode.PROVIDER_AUTH, None),
        (400, {"message": "User location is not supported for the API use."}, ErrorCode.PROVIDER_ERROR, None),
        (404, {"message": "models/x is not found", "status": "NOT_FOUND"}, ErrorCode.MODEL_UNAVAILABLE, None),
        (500, {"message": "An internal error has occurred."}, ErrorCode.PROVIDER_ERROR, None),
        (504, {"message": "Deadline expired", "status": "DEADLINE_EXCEEDED"}, ErrorCode.PROVIDER_TIMEOUT, None),
        (400, {"message": "x", "details": "y"}, ErrorCode.PROVIDER_ERROR, None),
    ],
)
async def test_refusals(
    server: GoogleFake, status: int, error: dict[str, object], code: ErrorCode, wait: float | None
) -> None:
    for body in ({"error": {"code": status, **error}}, [{"error": {"code": status, **error}}]):
        server.play(Page(status, orjson.dumps(body), "application/json; charset=UTF-8"))
        told = await ask_it(server)
        assert (told.error, told.retry_after) == (code, wait)


@pytest.mark.parametrize("body", [b"[]", b'{"error": "no"}', b'[{"error": {"code": "x"}}]', b"nope", b""])
async def test_strange_errors_are_errors(server: GoogleFake, body: bytes) -> None:
    server.play(Page(500, body, "application/json"))
    assert (await ask_it(server)).error is ErrorCode.PROVIDER_ERROR


async def test_a_redirect_is_not_followed_with_the_key(server: GoogleFake) -> None:
    server.play(Page(307, b"", "text/html\r\nLocation: http://127.0.0.1:9/"))
    assert (await ask_it(server)).error is ErrorCode.PROVIDER_ERROR
    assert len(server.seen) == 1
