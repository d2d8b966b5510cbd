"""The run log's figures on this machine, beside what is wanted: `python -m benchmarks.log [--full]`.

The engine, the SQLite file and the followers are real and share one process; the provider emits on a schedule and
stamps each token with the time at which it was there. Transport is not in it. Two references of the same run stand
beside: the provider alone with nobody between it and its reader, and the same log on a journal that stores nothing.
"""

import argparse
import asyncio
import cProfile
import gc
import resource
import tempfile
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import uvloop

from benchmarks.table import Table
from bus.memory import MemoryBus
from chat.attempts import RetryLimits
from chat.engine import Engine
from chat.events import RunEvent, RunTextDelta
from chat.generation import GenerationLimits, Prompt
from chat.jobs import EngineLimits, Work
from chat.log import RunLog
from models.database import Database
from models.journal import Piece
from models.journal_writer import JournalWriter
from models.migrate import migrate
from models.opening import open_database
from models.run import Run
from providers.base import Chunk, FinishChunk, FinishReason, GenerationRequest, ModelInfo, Role, TextChunk, Turn
from providers.catalog import Candidate
from serve import settle_memory

WORD = "token "
WINDOW = 0.02
LIMITS = EngineLimits(
    per_minute=None,
    generation=GenerationLimits(
        first_token=60, next_token=60, whole=3_600, chars=10**9, coalesce=WINDOW, retry=RetryLimits(0, 10)
    ),
    per_process=10_000,
    per_user=10_000,
    queue=10_000,
    keep=0.5,
    chat_grace=0,
    chat_key=1,
    lease=2,
    shutdown_grace=1,
    counted=False,
)


@dataclass
class Load:
    """So many runs, each with so many tokens a second, `burst` of them at a time; measured for `seconds`, behind the
    start of the last run. `stored` False: the reference, a journal that stores nothing."""

    runs: int
    rate: float
    seconds: float
    burst: int = 1
    stored: bool = True


@dataclass
class Emitter:
    """A provider that emits on schedule, spread evenly over the runs, until it is told to stop."""

    load: Load
    name: str = "emitter"
    emitted: dict[str, list[float]] = field(default_factory=dict)
    stopped: bool = False

    def models(self) -> Sequence[ModelInfo]:
        return [ModelInfo("emitter", self.name, None)]

    def find(self, model: str) -> ModelInfo | None:  # noqa: ARG002
        return self.models()[0]

    async def stream(self, request: GenerationRequest) -> AsyncGenerator[Chunk, None]:
        times = self.emitted.setdefault(request.turns[0].content, [])
        step = self.load.burst / self.load.rate
        loop = asyncio.get_running_loop()
        due = loop.time() + step * (hash(request.turns[0].content) % 1_000) / 1_000
        while not self.stopped:
            # Behind its schedule it does not wait: what it has is emitted, as a socket's buffer would.
            await asyncio.sleep(max(0.0, due - loop.time()))
            now = time.perf_counter()
            for _ in range(self.load.burst):
                times.append(now)
                yield TextChunk(WORD)
            due += step
        yield FinishChunk(FinishReason.STOP)

    async def aclose(self) -> None:
        return None


@dataclass
class Follower:
    """What one reader saw of one run, and how late it was."""

    emitted: list[float]
    first: float | None = None
    delays: list[float] = field(default_factory=list)
    steady: list[float] = field(default_factory=list)
    tokens: int = 0
    events: int = 0

    def take(self, event: RunEvent) -> None:
        self.events += 1
        if isinstance(event, RunTextDelta):
            now, count = time.perf_counter(), len(event.text) // len(WORD)
            delay = now - self.emitted[self.tokens]
            self.first = delay if self.first is None else self.first
            self.delays.append(delay)
            self.tokens += count


async def _follow(log: RunLog, follower: Follower) -> None:
    async with aclosing(log.follow()) as events:
        async for event in events:
            follower.take(event)


class NoJournal(JournalWriter):
    """Takes everything and stores nothing: what the log costs without a disk."""

    async def append(self, worker: str, body: bytes) -> int:  # noqa: ARG002
        return 0

    async def checkpoint(self, worker: str, segments: Sequence[Piece], up_to: int) -> None:  # noqa: ARG002
        return None

    async def aclose(self) -> None:
        return None


@asynccontextmanager
async def engine(*, stored: bool = True) -> AsyncIterator[tuple[Engine, Database]]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "chat.db"
        await asyncio.to_thread(migrate, path)
        database = open_database(path)
        made = Engine(database, MemoryBus(), LIMITS)
        if not stored:
            await made.writer._journal.aclose()
            made.writer._journal = NoJournal()
        await made.start()
        settle_memory()
        try:
            yield made, database
        finally:
            await made.aclose()
            await database.aclose()
            gc.unfreeze()


async def _prompt(name: str) -> Prompt:
    return Prompt((Turn(Role.USER, name),), 0.7, 10**9)


async def play(load: Load, pause: float = 0.002) -> tuple[list[Follower], dict[str, float]]:
    """Run the load with one follower a run, started `pause` seconds apart."""
    async with engine(stored=load.stored) as (made, database):
        return await _play(made, database, load, pause)


async def _play(
    made: Engine, database: Database, load: Load, pause: float = 0.002
) -> tuple[list[Follower], dict[str, float]]:
    emitter = Emitter(load)
    candidate = Candidate(emitter, emitter.models()[0])
    widths: list[float] = []
    followers: list[Follower] = []
    tasks: list[asyncio.Task[None]] = []
    for _ in range(load.runs):
        run = made.claim(Run(requested_model="emitter", model="emitter", provider="emitter"))
        async with database.write() as session:
            session.add(run)
        with made.place(None) as place:
            log = made.launch(place, run, Work(partial(_prompt, run.id), [candidate]))
        follower = Follower(emitter.emitted.setdefault(run.id, []))
        followers.append(follower)
        tasks.append(asyncio.create_task(_follow(log, follower)))
        await asyncio.sleep(pause)
    steady = await _steady(load, followers, made, widths)
    emitter.stopped = True
    await asyncio.gather(*tasks)
    tokens = sum(follower.tokens for follower in followers)
    return followers, {
        "missing": sum(len(times) for times in emitter.emitted.values()) - tokens,
        "events": sum(follower.events for follower in followers),
        **steady,
        "window_p50_ms": percentile(widths, 0.5) * 1e3,
        "window_max_ms": max(widths) * 1e3,
    }


async def _steady(load: Load, followers: Sequence[Follower], made: Engine, widths: list[float]) -> dict[str, float]:
    """CPU, commits and delays while all the runs stream and none begins or ends."""
    while not all(follower.tokens for follower in followers):  # noqa: ASYNC110
        await asyncio.sleep(0.02)
    gc.collect()
    cpu, begun, commits = time.process_time(), time.perf_counter(), made.writer.commits
    before = sum(follower.tokens for follower in followers)
    for follower in followers:
        follower.delays.clear()
    while time.perf_counter() - begun < load.seconds:
        widths.append(made.writer.window)
        await asyncio.sleep(0.1)
    tokens = sum(follower.tokens for follower in followers) - before
    took = time.perf_counter() - begun
    spent = time.process_time() - cpu
    for follower in followers:
        follower.steady = list(follower.delays)
    return {
        "tokens_per_second": tokens / took,
        "commits_per_second": (made.writer.commits - commits) / took,
        "cpu_us_per_token": spent / max(tokens, 1) * 1e6,
    }


async def floor(load: Load) -> float:
    """CPU per token of the provider alone and a follower that takes its chunks directly: no log, no storage."""
    emitter = Emitter(load)
    event = RunTextDelta("run_floor", 0, WORD)

    async def read(name: str) -> int:
        follower = Follower(emitter.emitted.setdefault(name, []))
        request = GenerationRequest("emitter", (await _prompt(name)).turns, 0.7, 1)
        async for chunk in emitter.stream(request):
            if isinstance(chunk, TextChunk):
                follower.take(event)
        return follower.tokens

    cpu = time.process_time()
    readers = asyncio.gather(*(read(f"run_{number}") for number in range(load.runs)))
    await asyncio.sleep(load.seconds)
    emitter.stopped = True
    return (time.process_time() - cpu) / sum(await readers) * 1e6


def percentile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)] if ordered else 0.0


def delays(followers: Sequence[Follower]) -> dict[str, float]:
    everything = [delay * 1e3 for follower in followers for delay in follower.steady]
    return {"p50_ms": percentile(everything, 0.5), "p99_ms": percentile(everything, 0.99), "max_ms": max(everything)}


async def first_text(runs: int, rounds: int, pause: float) -> float:
    """Median added latency, ms, of the first text of runs that begin one by one while the others stream."""
    found: list[float] = []
    for _ in range(rounds):
        followers, _ = await play(Load(runs, 20, 0.2), pause)
        found += [(follower.first or 0) * 1e3 for follower in followers[runs // 2 :]]
    return percentile(found, 0.5)


async def memory(events: int) -> list[tuple[int, float]]:
    """Resident MB of one engine behind so many events, each stored and followed: (events, MB), about every tenth."""
    taken = 0
    seen: list[tuple[int, float]] = []
    async with engine() as (made, database):
        while taken < events:
            _, figures = await _play(made, database, Load(500, 40, events / 10 / 500 / 40), 0.0005)
            taken += int(figures["events"])
            await asyncio.sleep(LIMITS.keep * 2)
            seen.append((taken, _resident()))
    return seen


def _resident() -> float:
    gc.collect()
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


async def idle_follower(count: int = 10_000) -> float:
    """KB that one follower costs which waits."""
    log = RunLog("run_idle")
    log.append(RunTextDelta("run_idle", 0, WORD))
    before = _resident()
    waiting = [asyncio.create_task(_follow(log, Follower([0.0]))) for _ in range(count)]
    await asyncio.sleep(0.5)
    each = (_resident() - before) * 1024 / count
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    return each


async def steady(table: Table, rounds: int, seconds: float) -> None:
    """500 runs of 30 tokens a second, with and without a disk by turns: throughput, latency, CPU."""
    load = Load(500, 30, seconds)
    floors: list[float] = []
    stored: list[dict[str, float]] = []
    bare: list[dict[str, float]] = []
    for _ in range(rounds):
        floors.append(await floor(Load(500, 30, 3)))
        for found, one in ((stored, load), (bare, replace(load, stored=False))):
            followers, figures = await play(one)
            found.append({**figures, **delays(followers)})

    def middle(found: list[dict[str, float]], name: str) -> float:
        return percentile([figures[name] for figures in found], 0.5)

    table.head("500 runs x 30 tokens/s, each stored and followed once", "no disk")
    for title, name, wanted in (
        ("tokens a second", "tokens_per_second", "15,000"),
        ("missing at the end", "missing", "0"),
        ("added latency, p50 ms", "p50_ms", ""),
        ("added latency, p99 ms", "p99_ms", "≤ 100"),
        ("widest window, ms", "window_max_ms", ""),
        ("commits a second", "commits_per_second", ""),
    ):
        table.row(title, middle(stored, name), wanted, middle(bare, name))
    ground = percentile(floors, 0.5)
    table.head("CPU, µs a token, over the provider alone", "no disk")
    table.row("the provider alone", ground)
    over = [middle(found, "cpu_us_per_token") - ground for found in (stored, bare)]
    table.row("no bursts", over[0], "≤ 15", over[1])
    for burst in (3, 10):
        own = await floor(Load(500, 30, 3, burst))
        over = [(await play(Load(500, 30, 3, burst, kept)))[1]["cpu_us_per_token"] - own for kept in (True, False)]
        table.row(f"bursts of {burst}", over[0], "less", over[1])


async def measure(full: bool) -> Table:
    table = Table()
    await steady(table, 3 if full else 1, 12 if full else 6)
    table.head("First text, added ms at the median")
    table.row("1 run", await first_text(1, 15 if full else 5, 0), "≤ 5")
    table.row("among 200 x 20 tokens/s, 50 begin in a second", await first_text(200, 3 if full else 1, 0.02), "≤ 25")
    table.row("200 x 20 tokens/s begin in half a second", await first_text(200, 3 if full else 1, 0.002), "≤ 25")
    table.head("Memory")
    table.row("an idle follower, KB", await idle_follower(), "≤ 8")
    looks = await memory(1_000_000 if full else 200_000)
    for events, resident in (looks[1], looks[len(looks) // 2], looks[-1]):
        table.row(f"MB behind {events:,} events", resident)
    growth = (looks[-1][1] - looks[1][1]) * 2**20 / (looks[-1][0] - looks[1][0])
    table.row("growth, bytes an event", growth, "about 0")
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="three rounds, longer, and memory over 1,000,000 events")
    parser.add_argument("--profile", action="store_true", help="where the CPU goes, instead of the figures")
    arguments = parser.parse_args()
    if arguments.profile:
        cProfile.runctx("asyncio.run(play(Load(500, 30, 5)))", globals(), {}, sort="tottime")
        return
    # The loop that uvicorn runs on.
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        print(runner.run(measure(arguments.full)))


if __name__ == "__main__":
    main()
