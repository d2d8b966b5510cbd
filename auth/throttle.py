"""How often somebody may try to log in or to register, over all transports and processes together."""

import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from hashlib import sha256

from auth.device import Device
from bus.base import Away, Counters
from errors import RateLimited
from models.attempt import count_attempt, forget_attempts, forget_key
from models.columns import utc_now
from models.database import Database
from models.user import name_key

logger = logging.getLogger(__name__)

WINDOW = timedelta(minutes=1)
CODES_WINDOW = timedelta(days=1)
FORGOTTEN_AT_ONCE = 20
"""More than one attempt can add, so that the table never holds much more than the keys of the last minute."""
NAME_CHARS = 256


@dataclass(frozen=True, slots=True)
class ThrottleLimits:
    """In any minute, not in calendar ones; `wrong_codes` in any day. None: no limit."""

    account_logins: int | None
    address_logins: int | None
    address_registrations: int | None
    wrong_codes: int | None = None


NO_LIMITS = ThrottleLimits(None, None, None)


class Throttle:
    """Counts with `counters` where there are any; while they do not answer, and without them, in the database."""

    def __init__(self, database: Database, limits: ThrottleLimits, counters: Counters | None = None) -> None:
        self._database = database
        self._limits = limits
        self._counters = counters
        self._away_until = 0.0

    async def login(self, username: str, device: Device) -> None:
        """Before the password is looked at, whether there is such a user or not.

        Raises:
            RateLimited: with the seconds to wait.
        """
        limits = self._limits
        # Hashed: people type their password into the field of the name.
        name = sha256(name_key(username.strip()[:NAME_CHARS]).encode(errors="surrogatepass")).hexdigest()
        wait = await self._wait(
            (f"login address {device.site}", limits.address_logins), (f"login account {name}", limits.account_logins)
        )
        if wait:
            raise RateLimited("Too many attempts to log in; try again later", retry_after=wait)

    async def registration(self, device: Device) -> None:
        """
        Raises:
            RateLimited: with the seconds to wait.
        """
        wait = await self._wait((f"register address {device.site}", self._limits.address_registrations))
        if wait:
            raise RateLimited("Too many registrations from this address; try again later", retry_after=wait)

    async def one_time_code(self, user_id: str) -> None:
        """Before a code of six digits is looked at. It counts as wrong until `code_was_right`: of a million codes three
        are right at a time, and whoever has the password may try for days.

        Raises:
            RateLimited: with the seconds to wait.
        """
        wait = await self._wait((f"codes {user_id}", self._limits.wrong_codes), window=CODES_WINDOW)
        if wait:
            message = "Too many wrong one-time codes; use a recovery code, or try again later"
            raise RateLimited(message, retry_after=wait)

    async def code_was_right(self, user_id: str) -> None:
        """Forget the codes that were tried before."""
        if self._limits.wrong_codes is not None:
            async with self._database.write() as session:
                await forget_key(session, f"codes {user_id}")

    async def _wait(self, *counted: tuple[str, int | None], window: timedelta = WINDOW) -> int:
        """Count under each key, up to the first that refuses: the whole seconds to wait."""
        limited = [(key, most) for key, most in counted if most is not None]
        if not limited:
            return 0
        # Redis counts minutes; what is counted for a day must outlive it.
        if self._counters is not None and window == WINDOW and time.monotonic() >= self._away_until:
            try:
                return await _counted(self._counters, limited)
            except Away as error:
                # For a whole window: who makes it come and go must not have both places to be counted in by turns.
                self._away_until = time.monotonic() + WINDOW.total_seconds()
                logger.warning("attempts are counted in the database for a minute (%s)", error)
        async with self._database.write() as session:
            now = utc_now()  # here: those in front may have waited, and come with a later moment
            await forget_attempts(session, now, FORGOTTEN_AT_ONCE)
            for key, most in limited:
                if wait := await count_attempt(session, key, most, window, now):
                    return math.ceil(wait)
        return 0


async def _counted(counters: Counters, limited: Sequence[tuple[str, int]]) -> int:
    """
    Raises:
        Away
    """
    for key, most in limited:
        if wait := await counters.count(key, most, int(WINDOW.total_seconds())):
            return math.ceil(wait)
    return 0
