"""One deadline that is moved all the time, or many of short waits, one behind the other."""

import asyncio
from types import TracebackType
from typing import Self


class Watchdog:
    """`asyncio.timeout_at` for waits of one task: `with watchdog.until(deadline): await ...` raises TimeoutError.
    `until` inside the block moves its deadline.

    One timer serves them all. It is left to run when a wait is over and looks, when it fires, whether the present one
    is late: a timer of its own for each wait costs a tenth of what a chunk does. To be closed.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._fires = self._deadline = 0.0
        self._task: asyncio.Task[object] | None = None
        self._cancelling = 0
        self._late = False

    def until(self, deadline: float) -> Self:
        """`deadline`: of the loop's clock."""
        self._deadline = deadline
        if self._timer is None or self._fires > deadline:
            self._arm()
        return self

    def __enter__(self) -> None:
        self._task = asyncio.current_task()
        assert self._task is not None
        self._cancelling = self._task.cancelling()

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        task, self._task = self._task, None
        if self._late and task is not None:
            self._late = False
            if task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
                raise TimeoutError from exc

    def _arm(self) -> None:
        self.close()
        self._fires = self._deadline
        self._timer = self._loop.call_at(self._deadline, self._fire)

    def _fire(self) -> None:
        self._timer = None
        if self._task is None or self._late:
            return
        if self._loop.time() < self._deadline:
            self._arm()
            return
        self._late = True
        self._task.cancel()

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
