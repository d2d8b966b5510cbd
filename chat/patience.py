"""How long a provider may be silent: one timer for a whole answer, not one for each chunk."""

import asyncio
from types import TracebackType

from errors import ProviderSilent


class Patience:
    """Ends its block when nobody has called `renew` in time. Renewing writes a number down; the timer looks at it when
    it fires: a context of asyncio.timeout for each chunk was among the dearest things that a token met.

    Raises:
        ProviderSilent: at the end of the block, in the place of the cancellation.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._what = "begin"
        self._loop = asyncio.get_running_loop()
        self._until = self._loop.time() + seconds
        self._timeout = asyncio.timeout(None)
        self._wait()

    def renew(self, seconds: float) -> None:
        """From now on it may be silent for so long."""
        self._seconds, self._what = seconds, "go on"
        self._until = until = self._loop.time() + seconds
        if until < self._due:
            self._timer.cancel()
            self._wait()

    def _look(self) -> None:
        now = self._loop.time()
        if now >= self._until:
            self._timeout.reschedule(now)
        else:
            self._wait()

    def _wait(self) -> None:
        self._due = self._until
        self._timer = self._loop.call_at(self._due, self._look)

    async def __aenter__(self) -> "Patience":
        await self._timeout.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._timer.cancel()
        try:
            await self._timeout.__aexit__(kind, error, traceback)
        except TimeoutError as ours:
            error = ours
        if isinstance(error, TimeoutError):
            message = f"The model did not {self._what} within {self._seconds:g} seconds; try again"
            raise ProviderSilent(message) from None
