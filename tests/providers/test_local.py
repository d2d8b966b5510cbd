"""The embedded model for real: it streams, it listens, it stops."""

import asyncio
import time
from contextlib import aclosing
from pathlib import Path

import psutil
import pytest

from errors import ContextTooLong, ModelUnavailable
from providers.base import FinishChunk, FinishReason, GenerationRequest, Role, TextChunk, Turn, UsageChunk
from providers.local import LocalProvider
from providers.rendezvous import Rendezvous
from providers.supervisor import EmbeddedModel
from providers.weights import EmbeddedWeights
from tests.providers.slots import busy_slots

MEMORY = 600 << 20  # bytes; measured 520 MB with 4 slots of 4,096 tokens
IDLE = 3.0  # seconds in which a slot must be free after its client has left


def ask(text: str, max_tokens: int = 12) -> GenerationRequest:
    return GenerationRequest("smollm2-135m-instruct", (Turn(Role.USER, text),), 0.0, max_tokens)


async def answer(provider: LocalProvider, text: str) -> str:
    return "".join([chunk.text async for chunk in provider.stream(ask(text)) if isinstance(chunk, TextChunk)])


async def seconds_until_idle(living_dir: Path) -> float:
    start = time.monotonic()
    while await busy_slots(living_dir) and time.monotonic() - start < 30:
        await asyncio.sleep(0.02)
    return time.monotonic() - start


async def test_tokens_come_as_they_are_made(provider: LocalProvider) -> None:
    times, chunks = [], []
    async for chunk in provider.stream(ask("Tell me about Paris.", 20)):
        times.append(time.monotonic())
        chunks.append(chunk)
    assert sum(isinstance(chunk, TextChunk) for chunk in chunks) >= 10
    assert chunks[-2] == FinishChunk(FinishReason.LENGTH)
    assert isinstance(chunks[-1], UsageChunk)
    assert chunks[-1].usage.completion_tokens == 20
    assert times[5] - times[0] > 0.02
    assert times[10] - times[5] > 0.02


async def test_two_questions_have_two_answers(provider: LocalProvider) -> None:
    one, other = await asyncio.gather(
        answer(provider, "Write a sentence about cats."), answer(provider, "Write a sentence about the sea.")
    )
    assert one
    assert other
    assert one != other


async def test_it_speaks_of_itself_in_english(provider: LocalProvider) -> None:
    """Half of all greetings were "Hello! I's" and went on as nonsense: so the small file is quantised."""
    assert "I's" not in await answer(provider, "Hello!") + await answer(provider, "你好")
    assert "It's" in await answer(provider, "Begin with the words: It's raining")


async def test_more_requests_than_slots_are_all_answered(provider: LocalProvider) -> None:
    answers = await asyncio.gather(*(answer(provider, f"Say the number {n}.") for n in range(6)))
    assert all(answers)


async def test_closing_a_stream_frees_its_slot(provider: LocalProvider, living_dir: Path) -> None:
    async with aclosing(provider.stream(ask("Write a long story.", 2000))) as chunks:
        for _ in range(3):
            await anext(chunks)
        assert await busy_slots(living_dir) == 1
    assert await seconds_until_idle(living_dir) < IDLE


async def test_leaving_while_a_long_prompt_is_read_frees_its_slot(provider: LocalProvider, living_dir: Path) -> None:
    """Why: a prompt of 3,500 tokens is read for 40 s, and the server only notices a closed connection when it
    writes to it. Without progress messages to write, it read on to the end."""
    stream = provider.stream(ask("The quick brown fox jumps over the lazy dog. " * 320))
    reading = asyncio.ensure_future(anext(stream))
    await asyncio.sleep(4)
    assert await busy_slots(living_dir) == 1
    assert not reading.done()
    reading.cancel()
    await asyncio.wait([reading])
    assert await seconds_until_idle(living_dir) < IDLE


async def test_a_conversation_beyond_the_context_is_refused(provider: LocalProvider) -> None:
    with pytest.raises(ContextTooLong):
        await anext(provider.stream(ask("fox " * 5000)))


async def test_the_child_stays_within_its_memory(provider: LocalProvider, living_dir: Path) -> None:
    await answer(provider, "Hello")
    child = Rendezvous(living_dir / "embedded").discover()
    assert child is not None
    assert psutil.Process(child.pid).memory_info().rss < MEMORY


async def test_the_secret_is_private(provider: LocalProvider, living_dir: Path) -> None:
    child = Rendezvous(living_dir / "embedded").discover()
    assert child is not None
    assert (living_dir / "embedded" / "server.json").stat().st_mode & 0o077 == 0
    assert child.secret not in " ".join(psutil.Process(child.pid).cmdline())
    assert child.secret not in repr(child)


async def test_a_model_that_is_loading_is_waited_for_a_while(
    tmp_path: Path, model_dir: Path, weights: EmbeddedWeights
) -> None:
    model = EmbeddedModel(weights, data_dir=tmp_path, models_dir=model_dir, fetch=False)
    eager, patient = LocalProvider(model, load_patience=0), LocalProvider(model, load_patience=30)
    await model.start()
    assert eager.models()[0].unavailable_reason == "The embedded model is loading"
    with pytest.raises(ModelUnavailable, match="is loading"):
        await anext(eager.stream(ask("Hello")))
    assert await answer(patient, "Hello")
    assert patient.models()[0].unavailable_reason is None
    for closing in (eager, patient, model):
        await closing.aclose()
