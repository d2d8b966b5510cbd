"""What a chunk of a vendor's stream costs to read, ours beside the vendor's SDK: `python -m benchmarks.providers`.

The vendors are the fakes of the conformance suite, on real sockets, in a process of their own: only the reader's
processor time is counted. Every chunk of 20 connections comes as a read of its own, or 20 of them come at once.
"""

import argparse
import asyncio
import gc
import multiprocessing
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from statistics import median

import uvloop

from benchmarks.table import Table
from providers.base import GenerationRequest, Patience, Provider, Role, TextChunk, Turn
from tests.providers.fakes.anthropic import AnthropicFake
from tests.providers.fakes.base import Fake
from tests.providers.fakes.google import GoogleFake
from tests.providers.fakes.openai import OpenAIFake
from tests.providers.fakes.steps import Figures, Finish, Say, Step, Wait

FAKES: dict[str, type[Fake]] = {"openai": OpenAIFake, "anthropic": AnthropicFake, "google": GoogleFake}
WORD = " token"
CONNECTIONS = 20
PAUSE = 0.02
BURST = 20
WANTED = 40.0
"""Microseconds of processor time a chunk on the OpenAI-compatible path: for 500 answers of 30 chunks a second each,
60% of a core."""
PATIENCE = Patience(connect=10, first=60, between=60)


@dataclass(frozen=True)
class Load:
    """`chunks` on each connection, `burst` of them with one read."""

    name: str
    chunks: int
    burst: int

    @property
    def steps(self) -> tuple[Step, ...]:
        said: list[Step] = []
        for start in range(0, self.chunks, self.burst):
            said += [Say(WORD)] * min(self.burst, self.chunks - start) + [Wait(PAUSE)]
        return (*said, Finish(), Figures(7, self.chunks))


def serve(vendor: str, load: Load, pipe: Connection) -> None:
    """A vendor's server, until the pipe is closed."""

    async def serving() -> None:
        fake = FAKES[vendor]()
        fake.play(*load.steps)
        async with fake.serving():
            pipe.send(fake.address)
            await asyncio.to_thread(_until_closed, pipe)

    uvloop.run(serving())


def _until_closed(pipe: Connection) -> None:
    try:
        pipe.recv()
    except EOFError:
        return


@contextmanager
def served(vendor: str, load: Load) -> Iterator[Fake]:
    """A fake whose server is another process."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=serve, args=(vendor, load, theirs), daemon=True)
    process.start()
    theirs.close()
    fake = FAKES[vendor]()
    fake._address = ours.recv()
    try:
        yield fake
    finally:
        ours.close()
        process.join()


def request_of(fake: Fake) -> GenerationRequest:
    turns = Turn(Role.SYSTEM, "Be brief."), Turn(Role.USER, "Count.")
    return GenerationRequest(fake.model, turns, 0.5, 4096)


async def by_us(fake: Fake, provider: Provider) -> int:
    """How many letters the adapter read."""
    letters = 0
    async with aclosing(provider.stream(request_of(fake))) as chunks:
        async for chunk in chunks:
            if isinstance(chunk, TextChunk):
                letters += len(chunk.text)
    return letters


async def by_sdk(fake: Fake) -> int:
    """How many letters the vendor's SDK read, used as its manual says."""
    told = await fake.sdk(request_of(fake), fake.key)
    assert told.error is None, told.error
    return len(told.text)


async def cost(load: Load, one: Callable[[], Awaitable[int]]) -> float:
    """Microseconds of processor time for an answer, the mean of all connections'."""
    await one()
    gc.collect()
    begun = time.process_time()
    letters = await asyncio.gather(*(one() for _ in range(CONNECTIONS)))
    spent = time.process_time() - begun
    assert letters == [len(WORD) * load.chunks] * CONNECTIONS, "something was lost"
    return spent / CONNECTIONS * 1e6


async def measure(vendor: str, load: Load, rounds: int) -> tuple[float, float]:
    """Ours and theirs by turns, so that a busy neighbour disturbs both; the medians of the rounds, in microseconds."""
    ours: list[float] = []
    theirs: list[float] = []
    with served(vendor, load) as fake:
        provider = fake.provider(fake.key, PATIENCE)
        for _ in range(rounds):
            ours.append(await cost(load, lambda: by_us(fake, provider)))
            theirs.append(await cost(load, lambda: by_sdk(fake)))
        await provider.aclose()
    return median(ours), median(theirs)


async def compare(loads: Sequence[Load], rounds: int) -> tuple[Table, float]:
    """All the figures, and the dearest of the OpenAI-compatible path."""
    table, dearest = Table(), 0.0
    for vendor in FAKES:
        table.head(f"{vendor}: processor time a chunk, µs", "its SDK")
        alone = await measure(vendor, Load("the request, with one chunk", 1, 1), rounds)
        table.row("the request, with one chunk", alone[0], "", alone[1])
        for load in loads:
            ours, theirs = await measure(vendor, load, rounds)
            more = load.chunks - 1
            chunk, reference = (ours - alone[0]) / more, (theirs - alone[1]) / more
            table.row(load.name, chunk, f"<= {WANTED:g}" if vendor == "openai" else "", reference)
            dearest = max(dearest, chunk) if vendor == "openai" else dearest
    return table, dearest


def main() -> int:
    """1 if the OpenAI-compatible path is dearer than wanted."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--chunks", type=int, default=400, help="on each of the connections")
    chosen = arguments.parse_args()
    loads = [Load("each its own read", chosen.chunks, 1), Load(f"{BURST} at once", chosen.chunks * 4, BURST)]
    table, dearest = uvloop.run(compare(loads, chosen.rounds))
    print(table)
    return int(dearest > WANTED)


if __name__ == "__main__":
    raise SystemExit(main())
