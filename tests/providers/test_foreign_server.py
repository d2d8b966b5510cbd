"""OpenAI's adapter against a server that nobody here wrote: llama.cpp's own, with a real model behind it.

It says things as it likes: what the fakes claim of such servers is held against it here.
"""

from collections.abc import AsyncIterator
from pathlib import Path

import openai
import pytest

from errors import ErrorCode
from providers.base import FinishReason, GenerationRequest, Role, Turn
from providers.openai import OpenAIProvider
from providers.rendezvous import Discovery, Rendezvous
from tests.providers.conformance import WRONG_KEY, told_by
from tests.providers.fakes.base import Told

TOO_LONG = "fox " * 5_000
MODEL = "whatever-it-is-called"


@pytest.fixture
def child(living_dir: Path) -> Discovery:
    found = Rendezvous(living_dir / "embedded").discover()
    assert found is not None
    return found


def base_url(child: Discovery) -> str:
    return f"http://127.0.0.1:{child.port}/v1"


@pytest.fixture
async def provider(child: Discovery) -> AsyncIterator[OpenAIProvider]:
    opened = OpenAIProvider(child.secret, base_url(child))
    yield opened
    await opened.aclose()


def asking(text: str, max_tokens: int = 12) -> GenerationRequest:
    return GenerationRequest(MODEL, (Turn(Role.SYSTEM, "Be brief."), Turn(Role.USER, text)), 0.0, max_tokens)


async def by_sdk(child: Discovery, request: GenerationRequest) -> Told:
    """The same by OpenAI's unmodified SDK."""
    told = Told()
    async with openai.AsyncOpenAI(api_key=child.secret, base_url=base_url(child), max_retries=0) as client:
        stream = await client.chat.completions.create(
            model=request.model,
            messages=[
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": request.turns[1].content},
            ],
            max_tokens=request.max_tokens,
            temperature=request.temperature,
            stream=True,
        )
        async for chunk in stream:
            for choice in chunk.choices:
                told.text += choice.delta.content or ""
                if choice.finish_reason is not None:
                    told.finish = FinishReason(choice.finish_reason.upper())
    return told


@pytest.mark.parametrize(("tokens", "finish"), [(4, FinishReason.LENGTH), (40, FinishReason.STOP)])
async def test_an_answer_is_what_the_sdk_makes_of_it(
    provider: OpenAIProvider, child: Discovery, tokens: int, finish: FinishReason
) -> None:
    request = asking("What is the capital of France?", tokens)
    told = await told_by(provider, request)
    assert (told.error, told.finish) == (None, finish)
    assert "capital" in told.text
    assert told.usage is not None
    assert 0 < told.usage.completion_tokens <= tokens
    assert told.usage.prompt_tokens > 10
    theirs = await by_sdk(child, request)
    assert (told.text, told.finish) == (theirs.text, theirs.finish)


async def test_a_wrong_key_is_a_wrong_key(child: Discovery) -> None:
    provider = OpenAIProvider(WRONG_KEY, base_url(child))
    assert await told_by(provider, asking("Hello")) == Told(error=ErrorCode.PROVIDER_AUTH)
    await provider.aclose()


async def test_a_conversation_beyond_its_context_is_too_long(provider: OpenAIProvider) -> None:
    assert await told_by(provider, asking(TOO_LONG)) == Told(error=ErrorCode.CONTEXT_TOO_LONG)
    assert (await told_by(provider, asking("Hello"))).error is None, "and it answers on"


async def test_its_list_says_what_it_has_and_how_much_it_reads(provider: OpenAIProvider) -> None:
    await provider.start(10)
    (model,) = provider.models()
    assert model.unavailable_reason is None
    assert model.id
    found = provider.find(model.id)
    assert found is not None
    assert found.context_window == 4096
