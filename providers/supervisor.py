"""The embedded model as its server processes see it: one of them owns the child, all of them know where it listens.

Every process joins the data directory (providers/rendezvous.py) and tries, twice a second, to become the owner. The
owner fetches the model, starts the child or adopts a living one, and watches it; the others read what the child and
the owner wrote down. When the owner dies, another takes the lock within a poll, and the child lives on.
"""

import asyncio
import logging
import os
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from filelock import BaseFileLock

from providers.keeper import LOADING, Keeper, Plan
from providers.rendezvous import Discovery, Notice, Rendezvous, leave
from providers.weights import HUB, EmbeddedWeights

SLOWEST_DISK = 20e6  # bytes a second
POLL = 0.5  # seconds between two tries to own: a takeover takes at most this and a health check

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where the model answers now. `secret` goes into `Authorization: Bearer`."""

    base_url: str
    secret: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Status:
    """Either an endpoint, or one line for the user that says why there is none. `passing`: worth some seconds' wait."""

    endpoint: Endpoint | None = None
    reason: str | None = LOADING.reason
    passing: bool = True


class EmbeddedModel:
    """One embedded model of one data directory.

    `slots` answers at a time (default: what the model is light enough for), each with `context` tokens of its own, or
    as many as the model knows; `threads` decode (default: all cores but one, since using every core collapses to a
    tenth when a neighbour is busy). `fetch`: whether a missing file may be fetched; `hub`: from where.
    `start_timeout`: seconds for the child to load. Memory of the child for the default model: 520 MB.
    """

    def __init__(
        self,
        weights: EmbeddedWeights,
        *,
        data_dir: Path,
        models_dir: Path,
        slots: int | None = None,
        context: int = 4096,
        threads: int | None = None,
        fetch: bool = True,
        hub: str = HUB,
        start_timeout: float | None = None,
    ) -> None:
        self.weights = weights
        self.context = context = weights.context(context)
        self._place = Rendezvous((data_dir / "embedded").resolve())
        plan = Plan(
            weights=weights,
            models_dir=models_dir.resolve(),
            slots=slots or weights.slots(context),
            context=context,
            threads=threads or max(1, cores() - 1),
            fetch=fetch,
            hub=hub,
            start_timeout=start_timeout or 60 + weights.bytes / SLOWEST_DISK,
        )
        self._identity = plan.identity
        self._keeper = Keeper(plan, self._place, self._heard)
        self._status = Status()
        self._changed = asyncio.Event()
        self._owner = False
        self._task: asyncio.Task[None] | None = None
        self._life: BaseFileLock | None = None

    @property
    def status(self) -> Status:
        return self._status

    @property
    def owner(self) -> bool:
        """Whether this process looks after the child."""
        return self._owner

    async def start(self) -> None:
        """Begins in the background; returns at once."""
        self._task = asyncio.create_task(self._run(), name="embedded model")

    async def aclose(self) -> None:
        """Leaves the data directory. The child ends with its last process, at once or within a second."""
        if self._task is None:
            return
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task
        self._task = None
        if self._life is not None:
            await asyncio.to_thread(leave, self._life)
            self._life = None
        await asyncio.to_thread(self._keeper.let_go)
        self._set(Status(reason="The server is shutting down", passing=False))

    async def wait_ready(self, patience: float) -> Endpoint | None:
        """The endpoint, waiting up to `patience` seconds for one while the model is only loading; else None."""
        with suppress(TimeoutError):
            async with asyncio.timeout(patience):
                while self._status.endpoint is None and self._status.passing:
                    await self._changed.wait()
        return self._status.endpoint

    async def _run(self) -> None:
        while True:
            try:
                if self._life is None:
                    await asyncio.shield(asyncio.to_thread(self._join))
                await self._own_or_follow()
            except Exception as exc:
                reason = "The embedded model's directory cannot be used"
                if self._status.reason != reason:
                    logger.warning("%s (%s): %r", reason, self._place.root, exc)
                self._set(Status(reason=reason, passing=False))
            await asyncio.sleep(POLL)

    def _join(self) -> None:
        self._life = self._place.join()

    async def _own_or_follow(self) -> None:
        """A lock or a small file costs some 50 µs: less than the way to a thread."""
        lock = self._place.try_own()
        if lock is None:
            found = self._place.discover()
            self._heard(found if found is not None and found.port else self._place.read_notice() or LOADING)
            return
        self._owner = True
        try:
            await self._keeper.run()
        finally:
            self._owner = False
            lock.release()

    def _heard(self, news: Discovery | Notice) -> None:
        if isinstance(news, Notice):
            self._set(Status(reason=news.reason, passing=news.passing))
        elif news.identity == self._identity:
            self._set(Status(Endpoint(news.base_url, news.secret), reason=None))
        else:
            self._set(Status(reason="Another embedded model runs in this data directory"))

    def _set(self, status: Status) -> None:
        if status != self._status:
            self._status = status
            self._changed.set()
            self._changed = asyncio.Event()


def cores() -> int:
    """The processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
