"""The run log's figures, on this machine, as the issue asks for them: `python -m benchmarks.log [--full]`.

The engine, the SQLite file and the followers are real and share one process; the provider emits on a schedule and
stamps each token with the time at which it was due to be there. Transport is not in it.
"""

import argparse
import asyncio
import cProfile
import gc
import json
import resource
import tempfile
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import uvloop

from chat.attempts import RetryLimits
from chat.engine import Engine
from chat.events import RunEvent, RunTextDelta
from chat.generation import GenerationLimits, Prompt
from chat.jobs import EngineLimits, Work
from chat.log import RunLog
from models.database import Database
from models.migrate import migrate
from models.opening import open_database
from models.run import Run
from providers.base import Chunk, FinishChunk, FinishReason, GenerationRequest, ModelInfo, Role, TextChunk, Turn
from providers.catalog import Candidate

WORD = "token "
WINDOW = 0.02
START_SECONDS = 0.008
"""What the start of one run takes at most: its row, its task."""
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
    """So many runs, each with so many tokens a second, `burst` of them at a time, for `seconds`."""

    runs: int
    rate: float
    seconds: float
    burst: int = 1


@dataclass
class Emitter:
    """A provider that emits on schedule, spread evenly over the runs."""

    load: Load
    name: str = "emitter"
    emitted: dict[str, list[float]] = field(default_factory=dict)

    def models(self) -> Sequence[ModelInfo]:
        return [ModelInfo("emitter", self.name, None)]

    def find(self, model: str) -> ModelInfo | None:  # noqa: ARG002
        return self.models()[0]

    async def stream(self, request: GenerationRequest) -> AsyncGenerator[Chunk, None]:
        times = self.emitted.setdefault(request.turns[0].content, [])
        step = self.load.burst / self.load.rate
        loop = asyncio.get_running_loop()
        due = loop.time() + step * (hash(request.turns[0].content) % 1_000) / 1_000
        end = due + self.load.seconds
        while due < end:
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


@asynccontextmanager
async def engine() -> AsyncIterator[tuple[Engine, Database]]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "chat.db"
        await asyncio.to_thread(migrate, path)
        database = open_database(path)
        made = Engine(database, LIMITS)
        await made.start()
        # As the server does behind its start.
        gc.collect()
        gc.freeze()
        try:
            yield made, database
        finally:
            await made.aclose()
            await database.aclose()


async def _prompt(name: str) -> Prompt:
    return Prompt((Turn(Role.USER, name),), 0.7, 10**9)


async def play(load: Load, pause: float = 0.002) -> tuple[list[Follower], dict[str, float]]:
    """Run the load with one follower a run, started `pause` seconds apart. Also: CPU of the process, and how wide the
    windows were."""
    # The last one begins when the first has streamed for a while: the steady part must be over before that one ends.
    emitter = Emitter(replace(load, seconds=load.seconds + load.runs * (pause + START_SECONDS)))
    candidate = Candidate(emitter, emitter.models()[0])
    widths: list[float] = []
    async with engine() as (made, database):
        followers, tasks = [], []
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
        await asyncio.gather(*tasks)
    tokens = sum(follower.tokens for follower in followers)
    return followers, {
        "tokens": tokens,
        "missing": sum(len(times) for times in emitter.emitted.values()) - tokens,
        "events": sum(follower.events for follower in followers),
        **steady,
        "window_p50_ms": percentile(widths, 0.5) * 1e3,
        "window_max_ms": max(widths) * 1e3,
    }


async def _steady(load: Load, followers: Sequence[Follower], made: Engine, widths: list[float]) -> dict[str, float]:
    """CPU and commits between the last start and the first end."""
    while not all(follower.tokens for follower in followers):  # noqa: ASYNC110
        await asyncio.sleep(0.02)
    gc.collect()
    cpu, begun, commits = time.process_time(), time.perf_counter(), made.writer.commits
    before = sum(follower.tokens for follower in followers)
    for follower in followers:
        follower.delays.clear()
    while time.perf_counter() - begun < load.seconds * 0.6:
        widths.append(made.writer.window)
        await asyncio.sleep(0.1)
    tokens = sum(follower.tokens for follower in followers) - before
    took = time.perf_counter() - begun
    spent = time.process_time() - cpu
    for follower in followers:
        follower.steady = list(follower.delays)
    return {
        "tokens_per_second": tokens / took,
        "wanted_per_second": load.runs * load.rate,
        "commits_per_second": (made.writer.commits - commits) / took,
        "cpu_us_per_token": spent / max(tokens, 1) * 1e6,
        "core": spent / took,
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
    taken = await asyncio.gather(*(read(f"run_{number}") for number in range(load.runs)))
    return (time.process_time() - cpu) / sum(taken) * 1e6


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
        followers, _ = await play(Load(runs, 20, 1.5), pause)
        found += [(follower.first or 0) * 1e3 for follower in followers[runs // 2 :]]
    return percentile(found, 0.5)


async def memory(events: int) -> dict[str, float]:
    """Resident memory after a fifth and after all of so many events, each stored and followed."""
    taken, early = 0, 0.0
    while taken < events:
        _, figures = await play(Load(500, 40, 5))
        taken += int(figures["events"])
        if not early and taken >= events / 5:
            early = _resident()
    return {"events": taken, "after_a_fifth_mb": early, "after_all_mb": _resident()}


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


async def measure(full: bool) -> dict[str, Any]:
    load = Load(500, 30, 20 if full else 6)
    followers, figures = await play(load)
    report: dict[str, Any] = {"500 runs x 30 tokens/s": {**figures, **delays(followers)}}
    report["cpu_us_per_token"] = {
        "floor: the provider alone": await floor(Load(500, 30, 4)),
        "no bursts": figures["cpu_us_per_token"],
        "bursts of 3": (await play(Load(500, 30, 4, 3)))[1]["cpu_us_per_token"],
        "bursts of 10": (await play(Load(500, 30, 4, 10)))[1]["cpu_us_per_token"],
    }
    report["first text, added ms at the median"] = {
        "1 run": await first_text(1, 15 if full else 5, 0),
        "200 runs x 20 tokens/s, 50 begin in a second": await first_text(200, 3 if full else 1, 0.02),
        "200 runs x 20 tokens/s, all begin in half a second": await first_text(200, 3 if full else 1, 0.002),
    }
    report["idle follower, KB"] = await idle_follower()
    report["memory"] = await memory(1_000_000 if full else 200_000)
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="longer, and memory over 1,000,000 events")
    parser.add_argument("--profile", action="store_true", help="where the CPU goes, instead of the figures")
    arguments = parser.parse_args()
    if arguments.profile:
        cProfile.runctx("asyncio.run(play(Load(500, 30, 5)))", globals(), {}, sort="tottime")
        return
    # The loop that uvicorn runs on.
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        report = runner.run(measure(arguments.full))
    print(json.dumps(report, indent=2, default=float))


if __name__ == "__main__":
    main()
