import asyncio
import time
from contextlib import aclosing

import pytest

from errors import ErrorCode, ModelUnknown, ProviderError, ProviderRateLimited
from providers.base import (
    Chunk,
    FinishChunk,
    FinishReason,
    GenerationRequest,
    ReasoningChunk,
    Role,
    TextChunk,
    Turn,
    Usage,
    UsageChunk,
)
from providers.scripted import FAILURES, ScriptedProvider

STOP = FinishChunk(FinishReason.STOP)


def asking(script: str, text: str = "hello", max_tokens: int = 100) -> GenerationRequest:
    model = f"scripted:{script}" if script else "scripted"
    return GenerationRequest(model, (Turn(Role.USER, text),), 0.7, max_tokens)


async def play(script: str, text: str = "hello", max_tokens: int = 100) -> list[Chunk]:
    return [chunk async for chunk in ScriptedProvider().stream(asking(script, text, max_tokens))]


async def test_without_a_script_it_echoes_the_last_message_word_by_word() -> None:
    assert await play("", "one two, three") == [
        TextChunk("one "),
        TextChunk("two "),
        TextChunk("three "),
        STOP,
        UsageChunk(Usage(3, 3)),
    ]


@pytest.mark.parametrize(
    ("script", "chunks"),
    [
        ("text=a_b", [TextChunk("a b"), STOP, UsageChunk(Usage(1, 1))]),
        ("think=why,text=a", [ReasoningChunk("why"), TextChunk("a"), STOP, UsageChunk(Usage(1, 2))]),
        ("words=2,usage=7/9", [TextChunk("w0 "), TextChunk("w1 "), STOP, UsageChunk(Usage(7, 9))]),
        ("text=a,finish=CONTENT_FILTER,text=b", [TextChunk("a"), FinishChunk(FinishReason.CONTENT_FILTER)]),
        ("text=a,cut,text=b", [TextChunk("a")]),
        ("usage=1/0", [STOP, UsageChunk(Usage(1, 0))]),
        ("usage=-1/99999999999999999999", [STOP, UsageChunk(Usage(-1, 99999999999999999999))]),
        ("blanks=2", [TextChunk(" "), TextChunk(" "), STOP, UsageChunk(Usage(1, 2))]),
    ],
)
async def test_a_script_is_played(script: str, chunks: list[Chunk]) -> None:
    assert await play(script) == chunks


async def test_the_longest_answer_is_the_request_s() -> None:
    assert await play("words=5", max_tokens=2) == [TextChunk("w0 "), TextChunk("w1 "), FinishChunk(FinishReason.LENGTH)]


async def test_every_waits_before_each_chunk() -> None:
    begun = time.monotonic()
    await play("every=0.02,words=5")
    assert time.monotonic() - begun >= 0.09


@pytest.mark.parametrize("code", FAILURES)
async def test_every_failure_of_a_provider_can_be_played(code: str) -> None:
    stream = ScriptedProvider().stream(asking(f"text=a,fail={code}"))
    assert await anext(stream) == TextChunk("a")
    with pytest.raises(ProviderError) as caught:
        await anext(stream)
    assert caught.value.code == ErrorCode(code)


async def test_a_failure_may_say_when_to_come_back() -> None:
    with pytest.raises(ProviderRateLimited) as caught:
        await play("fail=PROVIDER_RATE_LIMITED/7.5")
    assert caught.value.retry_after == 7.5


async def test_a_flaky_script_fails_so_many_times_and_then_no_more() -> None:
    provider = ScriptedProvider()
    asked = asking("flaky=2/PROVIDER_ERROR,text=a")
    for _ in range(2):
        with pytest.raises(ProviderError):
            await anext(provider.stream(asked))
    for _ in range(2):
        assert await anext(provider.stream(asked)) == TextChunk("a")
    with pytest.raises(ProviderError):
        await anext(provider.stream(asking("flaky=2/PROVIDER_ERROR,text=b")))


async def test_stall_is_for_ever_and_crash_is_none_of_ours() -> None:
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(play("stall"), 0.05)
    with pytest.raises(RuntimeError):
        await play("crash")


@pytest.mark.parametrize(
    "step",
    [
        "nothing",
        "words=x",
        "words=",
        "words=-1",
        "words=99999999999",
        "wait=nan",
        "wait=1e9",
        "every=-1",
        "usage=1",
        "usage=a/b",
        "fail=X",
        "fail=",
        "flaky=PROVIDER_ERROR",
        "finish=stop",
        "cut=1",
        "=",
        "stall=3",
    ],
)
async def test_what_is_no_script_is_no_model(step: str) -> None:
    """Why: the name is the client's. It gets an error that says what was wrong, and the server no traceback."""
    with pytest.raises(ModelUnknown) as caught:
        await play(f"text=a,{step}")
    assert step[:50] in caught.value.message
    assert len(caught.value.message) < 200


async def test_a_huge_step_is_made_chunk_by_chunk() -> None:
    async with asyncio.timeout(10):
        assert len(await play("words=999999999", max_tokens=3)) == 4


def test_any_script_is_a_model_and_only_the_echo_is_shown() -> None:
    provider = ScriptedProvider()
    assert [model.id for model in provider.models()] == ["scripted"]
    found = provider.find("scripted:text=a")
    assert found is not None
    assert (found.id, found.provider) == ("scripted:text=a", "scripted")
    for other in ("gpt-4", "scripted2", "", "Scripted"):
        assert provider.find(other) is None


@pytest.mark.parametrize("script", ["text=a", "text=a,fail=PROVIDER_ERROR", "text=a,cut", "text=a,wait=30"])
async def test_open_streams_are_counted_until_they_are_closed(script: str) -> None:
    provider = ScriptedProvider()
    async with aclosing(provider.stream(asking(script))) as stream:
        assert provider.active == 0, "a generator that was not begun"
        await anext(stream)
        assert provider.active == 1
    assert provider.active == 0
    await provider.aclose()
