from __future__ import annotations

import gc
import tracemalloc
from collections.abc import AsyncGenerator
from types import SimpleNamespace
from typing import Any, cast

import pytest

from auth.sessions import Viewer
from chat.events import RunEvent, RunTextDelta
from graph.compiled import Selection, Unusual
from graph.context import Context
from graph.execution import Runner
from graph.schema import core_schema
from graph.shape import QueryLimits
from services import Services
from tests.graph.documents import FOLLOW

EVENTS = 20_000
SETTLED = 5_000
ALLOWED_BYTES = 200_000


def refuse(_selection: Selection, _event: object) -> None:
    raise Unusual


class EndlessHappenings:
    """As many deltas as anyone can want."""

    async def of_run(self, _user_id: str, run_id: str, _after: int | None) -> AsyncGenerator[RunEvent, None]:
        for seq in range(EVENTS):
            yield RunTextDelta(run_id, seq, f"word {seq} ")


@pytest.mark.parametrize("compiled", [True, False], ids=["compiled", "by the executor"])
async def test_an_event_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch, compiled: bool) -> None:
    """graphql-core 3.3.2 shares one memo of collected sub-fields between the events of a subscription, under keys that
    each event makes anew: 1.3 KB an event, 20 MB over these, until the subscription ends. A long answer on many sockets
    would take the server's memory.
    """
    if not compiled:
        monkeypatch.setattr(Selection, "__call__", refuse)
    services = cast(Services, SimpleNamespace(database=None, happenings=EndlessHappenings()))
    context = Context(services, Viewer("user_1", "someone", 2**31))
    runner = Runner(core_schema(), QueryLimits())
    operation = runner.prepare({"query": FOLLOW, "variables": {"id": "run_1"}})
    sizes: dict[int, int] = {}
    tracemalloc.start()
    try:
        count = 0
        async for result in runner.subscribe(operation, context):
            count += 1
            if count in {SETTLED, EVENTS}:
                assert _seq(result) == count - 1
                gc.collect()
                sizes[count] = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert count == EVENTS
    assert sizes[EVENTS] - sizes[SETTLED] < ALLOWED_BYTES


def _seq(result: dict[str, Any]) -> int:
    seq: int = result["data"]["runEvents"]["seq"]
    return seq
