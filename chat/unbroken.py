"""Steps that are taken together or not at all, whatever happens to whoever asked for them."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


async def unbroken(work: Coroutine[Any, Any, T], undo: Callable[[T], object] | None = None) -> T:
    """The result of `work`, which goes on to its end when the caller is cancelled; `undo` is then given the result.

    A client that leaves between the commit and the launch of its run would leave a run that nobody works on.
    """
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        task.add_done_callback(lambda done: _drop(done, undo))
        raise


def _drop(task: asyncio.Future[T], undo: Callable[[T], object] | None) -> None:
    if not task.cancelled() and task.exception() is None and undo is not None:
        undo(task.result())
