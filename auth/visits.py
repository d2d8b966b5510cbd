"""Whatever is open for a user: each socket and stream lives as long as its token, its session and its user's account.

A session that ends is deleted from the database, by whichever process. Each process asks for all its visits together,
every POLL_SECONDS; a hint on the bus makes it ask for one user's at once.
"""

import asyncio
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta

from auth.sessions import SEEN_AGAIN, Sessions, Viewer, standing
from bus.base import Bus
from errors import TokenExpired, TokenInvalid, Unauthenticated, Unavailable
from models.columns import utc_now
from models.database import Database
from models.user_session import end_expired_sessions, touch_sessions

logger = logging.getLogger(__name__)

CHANNEL = "sessions"
POLL_SECONDS = 2.0
"""What has lost its right ends within 5 s on every process."""
SWEEP_SECONDS = 60.0
SWEPT_AT_ONCE = 500
MONTH = 30 * 86_400.0
"""asyncio's timers do not take more than some years on every platform."""


class Visit:
    """One socket or stream. `over` is done when it has to end, with the reason: TokenExpired, or TokenInvalid where the
    session was ended, the API key revoked or the user is gone. A visit without a viewer never ends."""

    def __init__(self) -> None:
        self.viewer: Viewer | None = None
        self.over: asyncio.Future[Unauthenticated] = asyncio.get_running_loop().create_future()
        self._timer: asyncio.TimerHandle | None = None

    def admit(self, viewer: Viewer) -> None:
        """From now on it is this viewer's: its first token, or a newer one."""
        self.viewer = viewer
        self.leave()
        self._wait()

    def _wait(self) -> None:
        left = max(0.0, self.viewer.expires_at - time.time()) if self.viewer is not None else MONTH
        again = self._wait if left > MONTH else lambda: self.end(TokenExpired())
        self._timer = asyncio.get_running_loop().call_later(min(left, MONTH), again)

    def end(self, reason: Unauthenticated) -> None:
        if not self.over.done():
            self.over.set_result(reason)

    def leave(self) -> None:
        if self._timer is not None:
            self._timer.cancel()


class Visits:
    """Those of this process. It also writes down when sessions were last used, and deletes the expired ones."""

    def __init__(self, database: Database, bus: Bus, sessions: Sessions) -> None:
        self._database = database
        self._bus = bus
        self._sessions = sessions
        self._open: set[Visit] = set()
        self._hinted: set[str] = set()
        self._woken = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._polled_at = self._swept_at = time.monotonic()
        sessions.on_ended = self.tell

    def start(self) -> None:
        self._tasks = [
            asyncio.create_task(self._listen(), name="ended sessions"),
            asyncio.create_task(self._keep(), name="visits"),
        ]

    @contextmanager
    def visit(self, viewer: Viewer | None) -> Iterator[Visit]:
        """Watched for as long as the block lasts."""
        visit = Visit()
        if viewer is not None:
            visit.admit(viewer)
        self._open.add(visit)
        try:
            yield visit
        finally:
            self._open.discard(visit)
            visit.leave()

    async def tell(self, user_id: str) -> None:
        """Sessions of this user have ended: let all processes look now."""
        await self._bus.publish(CHANNEL, user_id.encode())

    async def _listen(self) -> None:
        async with self._bus.subscribe(CHANNEL) as messages:
            async for message in messages:
                self._hinted.add(message.decode(errors="replace"))
                self._woken.set()

    async def _keep(self) -> None:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(POLL_SECONDS):
                    await self._woken.wait()
            self._woken.clear()
            try:
                await self._keep_once()
            except Unavailable:
                continue  # it has said so where leases are kept; what is open stays until somebody can tell
            except Exception:
                logger.exception("the open sockets could not be checked")

    async def _keep_once(self) -> None:
        now = time.monotonic()
        users, self._hinted = self._hinted, set()
        due = now - self._polled_at >= POLL_SECONDS * 0.9
        await self._look([visit for visit in self._open if due or _user_of(visit) in users])
        if due:
            self._polled_at = now
            await self._note_use()
        if now - self._swept_at >= SWEEP_SECONDS:
            self._swept_at = now
            await self._sweep()

    async def _look(self, visits: list[Visit]) -> None:
        asked = {visit: visit.viewer.credential for visit in visits if visit.viewer is not None}
        ids = {key for key in asked.values() if key is not None}
        if not ids:
            return
        async with self._database.read(urgent=True) as session:
            gone = ids - await standing(session, ids)
        for visit, key in asked.items():
            # One that was renewed meanwhile may have another session by now.
            if key in gone and visit.viewer is not None and visit.viewer.credential == key:
                visit.end(TokenInvalid())

    async def _note_use(self) -> None:
        seen = self._sessions.take_seen()
        if seen:
            now = utc_now()
            async with self._database.write() as session:
                await touch_sessions(session, seen, now, now - SEEN_AGAIN + timedelta(seconds=POLL_SECONDS))

    async def _sweep(self) -> None:
        swept = SWEPT_AT_ONCE
        while swept == SWEPT_AT_ONCE:
            async with self._database.write() as session:
                swept = await end_expired_sessions(session, utc_now(), SWEPT_AT_ONCE)

    async def aclose(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def _user_of(visit: Visit) -> str | None:
    return None if visit.viewer is None else visit.viewer.id
