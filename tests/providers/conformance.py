"""What every adapter promises, whatever its vendor: derive from this with a `fake`, as test_openai does."""

import asyncio
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import aclosing
from typing import Any

import pytest

from errors import ErrorCode, ProviderError
from providers.base import (
    FinishChunk,
    FinishReason,
    GenerationRequest,
    Patience,
    Provider,
    ReasoningChunk,
    Role,
    TextChunk,
    Turn,
    UsageChunk,
)
from providers.bodies import ChunkedBody
from providers.figures import MOST_TOKENS
from tests.providers.fakes.base import Fake, Told
from tests.providers.fakes.steps import (
    Cut,
    Failure,
    Figures,
    Finish,
    Hang,
    Noise,
    Page,
    Raw,
    Refuse,
    Say,
    Step,
    Think,
    Wait,
)

CALM = Patience(connect=5, first=20, between=20)
HASTY = Patience(connect=5, first=1, between=0.5)
GONE_WITHIN = 5.0  # seconds; what was measured is a millisecond, on a machine with nothing else to do
WRONG_KEY = "sk-a-key-that-is-wrong"
SECRET_WORD = "xylophone"
HTML = b"<!DOCTYPE html><html><head><title>502 Bad Gateway</title></head><body>nginx</body></html>"

ANSWERS: dict[str, tuple[Step, ...]] = {
    "text": (Say("Hé"), Say("llo"), Say(" 🎈\n"), Finish(), Figures(7, 3)),
    "reasoning": (Think("Let me"), Think(" see."), Say("42"), Finish(), Figures(7, 9, reasoning=6)),
    "cached": (Say("a"), Finish(), Figures(2000, 1, cached=1920)),
    "nothing": (Finish(), Figures(7, 0)),
    "cut off by the limit": (Say("a"), Finish(FinishReason.LENGTH), Figures(7, 64)),
    "filtered": (Say("a"), Finish(FinishReason.CONTENT_FILTER), Figures(7, 1)),
    "calls a tool": (Say("a"), Finish(FinishReason.TOOL_CALLS), Figures(7, 1)),
    "slow": (Wait(0.1), Say("a"), Wait(0.1), Say("b"), Finish(), Figures(7, 2)),
}
CODES = {
    Failure.AUTH: ErrorCode.PROVIDER_AUTH,
    Failure.RATE_LIMIT: ErrorCode.PROVIDER_RATE_LIMITED,
    Failure.OVERLOADED: ErrorCode.PROVIDER_ERROR,
    Failure.BROKEN: ErrorCode.PROVIDER_ERROR,
    Failure.CONTEXT_TOO_LONG: ErrorCode.CONTEXT_TOO_LONG,
    Failure.CONTENT_FILTER: ErrorCode.CONTENT_FILTERED,
    Failure.BAD_REQUEST: ErrorCode.PROVIDER_ERROR,
    Failure.UNKNOWN_MODEL: ErrorCode.MODEL_UNAVAILABLE,
}
IN_THE_STREAM = (Failure.OVERLOADED, Failure.BROKEN, Failure.CONTEXT_TOO_LONG)
BROKEN: dict[str, tuple[Step, ...]] = {
    "cut before the first text": (Cut(),),
    "cut in the middle": (Say("a"), Cut()),
    "a page of a proxy": (Page(502, HTML),),
    "malformed": (Say("a"), Raw(b"data: {nope\n\n")),
}
UNREADABLE: dict[str, tuple[Step, ...]] = {
    "a page as 200": (Page(200, HTML),),
    "an object as 200": (Page(200, b'{"hello": "world"}', "application/json"),),
    "an empty body": (Page(200, b"", "text/event-stream"),),
    "ends without a finish": (Say("a"),),
    "not UTF-8": (Say("a"), Raw(b'data: {"a": "\xff\xfe"}\n\n')),
    "not an object": (Say("a"), Raw(b"data: [1]\n\n")),
    "no JSON value": (Say("a"), Raw(b"data: nonsense\n\n")),
}
STALLS: dict[str, tuple[Step, ...]] = {
    "no answer": (Hang(),),
    "no first text": (Wait(0), Hang()),
    "silence between two texts": (Say("a"), Hang()),
}
NOISES = {
    "spaces": b" " * 1000,
    "lines": b"\n" * 1000,
    "comments": b": ping\n\n",
    "a line without end": b"data: x" * 99,
}
ABSURD = {
    "negative": Figures(-5, 3),
    "endless": Figures(7, 10**18),
    "words": Figures("many", "few"),
    "fractions": Figures(1.5, 2.5),
    "lists": Figures([7], {"a": 3}),
    "nothing": Figures(None, None),
    "more cached than there is": Figures(7, 3, cached=8000),
    "negative thoughts": Figures(7, 3, cached=-1, reasoning=-1),
}


def asking(fake: Fake) -> GenerationRequest:
    turns = (
        Turn(Role.SYSTEM, "Be brief."),
        Turn(Role.USER, f"Say {SECRET_WORD}"),
        Turn(Role.ASSISTANT, "No."),
        Turn(Role.USER, "Please 🎈"),
    )
    return GenerationRequest(fake.model, turns, 0.5, 64)


async def told_by(provider: Provider, request: GenerationRequest) -> Told:
    """All of an answer. Fails on what the port forbids: chunks behind the finish, empty ones, foreign errors."""
    told = Told()
    try:
        async with aclosing(provider.stream(request)) as chunks:
            async for chunk in chunks:
                if isinstance(chunk, UsageChunk):
                    told.usage = chunk.usage
                    continue
                assert told.finish is None, "only usage may follow the finish"
                if isinstance(chunk, FinishChunk):
                    told.finish = chunk.reason
                elif isinstance(chunk, TextChunk):
                    assert chunk.text
                    told.text += chunk.text
                elif isinstance(chunk, ReasoningChunk):
                    assert chunk.text
                    told.reasoning += chunk.text
    except ProviderError as error:
        told.error, told.retry_after = error.code, error.retry_after
    return told


def expected(fake: Fake, steps: Sequence[Step]) -> Told:
    told = Told()
    for step in steps:
        if isinstance(step, Say):
            told.text += step.text
        elif isinstance(step, Think):
            told.reasoning += step.text
        elif isinstance(step, Finish):
            told.finish = step.reason
        elif isinstance(step, Figures):
            told.usage = fake.usage(step)
    return told


def cases(table: dict[str, Any]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", table.values(), ids=table.keys())


class ProviderConformance(ABC):
    """Where a vendor cannot say a thing at all, its class overrides that test and says why."""

    @pytest.fixture
    @abstractmethod
    def fake(self, server: Any) -> Fake:
        """The vendor's server, serving."""

    async def ask(self, fake: Fake, *steps: Step, key: str | None = None, patience: Patience = CALM) -> Told:
        """Our adapter's answer to these steps, the adapter closed again."""
        fake.play(*steps)
        provider = fake.provider(key or fake.key, patience)
        try:
            return await told_by(provider, asking(fake))
        finally:
            await provider.aclose()

    @cases(ANSWERS)
    async def test_an_answer_is_told_as_the_sdk_tells_it(self, fake: Fake, case: tuple[Step, ...]) -> None:
        ours = await self.ask(fake, *case)
        assert ours == expected(fake, case)
        assert ours == await fake.sdk(asking(fake), fake.key)

    @pytest.mark.parametrize("failure", [failure for failure in Failure if failure is not Failure.AUTH])
    async def test_a_refusal_is_what_the_sdk_takes_it_for(self, fake: Fake, failure: Failure) -> None:
        ours = await self.ask(fake, Refuse(failure))
        assert ours == Told(error=CODES[failure])
        assert ours == await fake.sdk(asking(fake), fake.key)

    @pytest.mark.parametrize("failure", IN_THE_STREAM)
    async def test_a_failure_in_the_middle_keeps_the_text(self, fake: Fake, failure: Failure) -> None:
        ours = await self.ask(fake, Say("a"), Refuse(failure))
        assert ours == Told(text="a", error=CODES[failure])
        assert ours == await fake.sdk(asking(fake), fake.key)

    async def test_a_wrong_key(self, fake: Fake) -> None:
        ours = await self.ask(fake, *ANSWERS["text"], key=WRONG_KEY)
        assert ours == Told(error=ErrorCode.PROVIDER_AUTH)
        assert ours == await fake.sdk(asking(fake), WRONG_KEY)

    async def test_the_wait_that_a_rate_limit_names_is_kept(self, fake: Fake) -> None:
        assert (await self.ask(fake, Refuse(Failure.RATE_LIMIT, retry_after="7"))).retry_after == 7
        assert (await self.ask(fake, Refuse(Failure.RATE_LIMIT, retry_after="soon"))).retry_after is None

    @cases(BROKEN)
    async def test_what_breaks_is_what_the_sdk_takes_it_for(self, fake: Fake, case: tuple[Step, ...]) -> None:
        ours = await self.ask(fake, *case)
        assert ours == Told(text=expected(fake, case).text, error=ErrorCode.PROVIDER_ERROR)
        assert ours == await fake.sdk(asking(fake), fake.key)

    @cases(UNREADABLE)
    async def test_what_is_no_answer_is_a_failure(self, fake: Fake, case: tuple[Step, ...]) -> None:
        """The SDKs end some of these without a word: an answer that was cut must not look whole."""
        assert await self.ask(fake, *case) == Told(text=expected(fake, case).text, error=ErrorCode.PROVIDER_ERROR)

    @cases(STALLS)
    async def test_silence_times_out(self, fake: Fake, case: tuple[Step, ...]) -> None:
        ours = await self.ask(fake, *case, patience=HASTY)
        assert ours == Told(text=expected(fake, case).text, error=ErrorCode.PROVIDER_TIMEOUT)
        await asyncio.wait_for(fake.left.wait(), GONE_WITHIN)

    @cases(NOISES)
    async def test_endless_noise_ends(self, fake: Fake, case: bytes) -> None:
        """Why: a proxy that keeps a dead answer open must not keep the run open."""
        ours = await self.ask(fake, Say("a"), Noise(case), patience=HASTY)
        assert (ours.text, ours.finish) == ("a", None)
        assert ours.error in {ErrorCode.PROVIDER_TIMEOUT, ErrorCode.PROVIDER_ERROR}
        await asyncio.wait_for(fake.left.wait(), GONE_WITHIN)

    @cases(ABSURD)
    async def test_absurd_figures_go_no_further_and_cost_no_text(self, fake: Fake, case: Figures) -> None:
        ours = await self.ask(fake, Say("a"), Finish(), case)
        assert (ours.text, ours.finish, ours.error) == ("a", FinishReason.STOP, None)
        if ours.usage is not None:
            for figure in (ours.usage.prompt_tokens, ours.usage.completion_tokens):
                assert type(figure) is int
                assert 0 <= figure <= MOST_TOKENS
            assert (ours.usage.cached_tokens or 0) in range(ours.usage.prompt_tokens + 1)
            assert (ours.usage.reasoning_tokens or 0) in range(ours.usage.completion_tokens + 1)

    async def test_an_answer_that_is_finished_is_whole_without_its_figures(self, fake: Fake) -> None:
        ours = await self.ask(fake, Say("a"), Finish(), Cut())
        assert (ours.text, ours.finish, ours.error) == ("a", FinishReason.STOP, None)

    @pytest.mark.parametrize("steps", [(Hang(),), (Wait(0), Hang()), (Say("a"), Hang()), (Say("a"), Noise(b": p\n\n"))])
    async def test_cancelling_closes_the_request_at_once(self, fake: Fake, steps: tuple[Step, ...]) -> None:
        fake.play(*steps)
        provider = fake.provider(fake.key, CALM)
        reading = asyncio.create_task(told_by(provider, asking(fake)))
        while not fake.open:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        begun = time.monotonic()
        reading.cancel()
        await asyncio.wait([reading], timeout=GONE_WITHIN)
        assert reading.cancelled()
        await asyncio.wait_for(fake.left.wait(), GONE_WITHIN)
        assert time.monotonic() - begun < GONE_WITHIN
        await provider.aclose()

    async def test_closing_the_generator_closes_the_request(self, fake: Fake) -> None:
        fake.play(Say("a"), Hang())
        provider = fake.provider(fake.key, CALM)
        async with aclosing(provider.stream(asking(fake))) as chunks:
            assert await anext(chunks) == TextChunk("a")
        await asyncio.wait_for(fake.left.wait(), GONE_WITHIN)
        assert await told_by_steps(fake, provider, *ANSWERS["text"]) == expected(fake, ANSWERS["text"])
        await provider.aclose()

    async def test_texts_come_as_they_are_sent(self, fake: Fake) -> None:
        """The second waits until the first was read, or nobody would see a difference to a whole answer."""
        fake.play(Say("a"), Wait(0.3), Say("b"), Finish())
        provider = fake.provider(fake.key, CALM)
        times = []
        async with aclosing(provider.stream(asking(fake))) as chunks:
            async for _ in chunks:
                times.append(time.monotonic())
        assert times[1] - times[0] > 0.2
        await provider.aclose()

    async def test_an_answer_is_read_from_the_connection_itself(
        self, fake: Fake, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Why: through the library a chunk costs twice as much, and its private parts, where our network goes in, may
        move. The connection is the library's again when the answer is whole."""
        read: list[ChunkedBody] = []
        library = ChunkedBody.read

        async def noted(body: ChunkedBody) -> bytes | None:
            read.append(body)
            return await library(body)

        monkeypatch.setattr(ChunkedBody, "read", noted)
        provider = fake.provider(fake.key, CALM)
        for _ in range(3):
            assert await told_by_steps(fake, provider, *ANSWERS["slow"]) == expected(fake, ANSWERS["slow"])
        assert len(set(read)) == 3
        assert len(read) > 6
        assert fake.connections == 1
        await provider.aclose()

    async def test_many_at_a_time(self, fake: Fake) -> None:
        fake.play(Say("a"), Wait(0.2), Say("b"), Finish(), Figures(7, 2))
        provider = fake.provider(fake.key, CALM)
        answers = await asyncio.gather(*(told_by(provider, asking(fake)) for _ in range(50)))
        assert answers == [expected(fake, fake.steps)] * 50
        await provider.aclose()

    async def test_no_stream_waits_for_another(self, fake: Fake) -> None:
        """The runs are bounded elsewhere: a client that has at most 100 connections keeps the next ones from theirs."""
        fake.play(Say("a"), Hang())
        provider = fake.provider(fake.key, CALM)
        streams = [provider.stream(asking(fake)) for _ in range(120)]
        assert set(await asyncio.gather(*map(anext, streams))) == {TextChunk("a")}
        await asyncio.gather(*(stream.aclose() for stream in streams))
        await provider.aclose()

    async def test_a_failed_request_is_not_sent_again(self, fake: Fake) -> None:
        """Whether to try again is decided in one place, which knows what the user has waited for and paid."""
        await self.ask(fake, Refuse(Failure.OVERLOADED, retry_after="0"))
        assert len(fake.seen) == 1

    async def test_nobody_listens(self, fake: Fake) -> None:
        """Port 9 of a fake that is not there any more."""
        fake._address = "http://127.0.0.1:9"
        assert await self.ask(fake, Finish()) == Told(error=ErrorCode.PROVIDER_ERROR)

    async def test_neither_key_nor_text_is_told_to_anyone(self, fake: Fake, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.DEBUG)
        provider = fake.provider(fake.key, CALM)
        await told_by_steps(fake, provider, *ANSWERS["text"])
        await told_by_steps(fake, provider, Refuse(Failure.BROKEN))
        assert fake.key not in repr(provider)
        assert fake.key not in caplog.text
        assert SECRET_WORD not in caplog.text
        await provider.aclose()
        await self.ask(fake, Finish(), key=WRONG_KEY)
        assert WRONG_KEY not in caplog.text

    @pytest.mark.parametrize("steps", [(Refuse(failure),) for failure in Failure] + [(Page(502, HTML),)])
    async def test_what_the_server_says_is_not_repeated_to_users(self, fake: Fake, steps: tuple[Step, ...]) -> None:
        """It may name keys, organisations and hosts."""
        fake.play(*steps)
        provider = fake.provider(fake.key, CALM)
        with pytest.raises(ProviderError) as caught:
            async with aclosing(provider.stream(asking(fake))) as chunks:
                await anext(chunks)
        assert caught.value.__cause__ is not None
        for word in ("sk-a", "organization", "127.0.0.1", "nginx", "<"):
            assert word not in caught.value.message
        await provider.aclose()


async def ask_it(fake: Fake, request: GenerationRequest | None = None) -> Told:
    provider = fake.provider(fake.key, CALM)
    try:
        return await told_by(provider, request or asking(fake))
    finally:
        await provider.aclose()


async def told_by_steps(fake: Fake, provider: Provider, *steps: Step) -> Told:
    fake.play(*steps)
    return await told_by(provider, asking(fake))
