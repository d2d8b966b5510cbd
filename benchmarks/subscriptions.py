"""What one event of a subscription costs, from the run's log to the frame: `python -m benchmarks.subscriptions`.

The compiled selection against graphql-core's executor, by turns in one run; the source is a list of deltas that is
ready. Sockets are not in it. Times are the process's own.
"""

import argparse
import asyncio
import statistics
import time
from collections.abc import AsyncGenerator, Callable
from types import SimpleNamespace
from typing import Any, cast

import orjson
import uvloop

from auth.sessions import Viewer
from chat.events import RunEvent, RunTextDelta
from graph.compiled import Selection, Unusual
from graph.context import Context
from graph.execution import Runner
from graph.schema import core_schema
from graph.shape import QueryLimits
from services import Services

WANTED_RATIO = 10.0
"""The executor's 45 to 54 µs against 2: of those, a third is JSON."""
DOCUMENTS = {
    "3 fields": "subscription { runEvents(runId: 1) { __typename seq ... on RunTextDelta { text } } }",
    "all that clients ask for": """subscription { runEvents(runId: 1) { __typename runId seq
        ... on RunStarted { model provider } ... on RunTextDelta { text } ... on RunReasoningDelta { text }
        ... on RunSnapshot { text reasoning } ... on RunFinished { status message { content } } } }""",
}


class Happenings:
    def __init__(self, events: int) -> None:
        self._events = [RunTextDelta("run_01J0000000000000000000000", seq, "token ") for seq in range(events)]

    async def of_run(self, _user_id: str, _run_id: str, _after: int | None) -> AsyncGenerator[RunEvent, None]:
        for event in self._events:
            yield event


def _refuse(_selection: Selection, _event: object) -> dict[str, Any]:
    raise Unusual


async def _cost(document: str, events: int) -> float:
    """Microseconds of CPU for one event, its JSON included."""
    services = cast(Services, SimpleNamespace(database=None, happenings=Happenings(events)))
    runner = Runner(core_schema(), QueryLimits())
    operation = runner.prepare({"query": document})
    context = Context(services, Viewer("user_1", "someone", 2**31))
    begun = time.process_time()
    async for result in runner.subscribe(operation, context):
        orjson.dumps({"id": "1", "type": "next", "payload": result}).decode()
    return (time.process_time() - begun) / events * 1e6


async def measure(events: int, rounds: int) -> dict[str, tuple[float, float]]:
    """By document: the executor's cost and the compiled one's, medians of rounds that alternate."""
    found = {}
    compiled: Callable[[Selection, Any], dict[str, Any]] = Selection.__call__
    for name, document in DOCUMENTS.items():
        costs: tuple[list[float], list[float]] = ([], [])
        for _ in range(rounds):
            for kept, call in zip(costs, (_refuse, compiled), strict=True):
                Selection.__call__ = call  # type: ignore[assignment, method-assign]  # the reference
                kept.append(await _cost(document, events))
        found[name] = statistics.median(costs[0]), statistics.median(costs[1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        found = runner.run(measure(arguments.events, arguments.rounds))
    print(f"{'selection':28}{'executor':>12}{'compiled':>12}{'events/s':>12}{'ratio':>8}   wanted")
    for name, (stock, compiled) in found.items():
        line = f"{name:28}{stock:>9.1f} µs{compiled:>9.1f} µs{1e6 / compiled:>12,.0f}{stock / compiled:>8.1f}"
        print(f"{line}   ≥ {WANTED_RATIO:g}")


if __name__ == "__main__":
    main()
