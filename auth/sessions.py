"""Where users are signed in: access tokens that name their session, and refresh tokens that rotate.

A refresh token is `acsr_` and 48 bytes: 16 that are the same for the session's whole life (its family), 32 that are
good once. The database has their hashes. What follows a token is computed from it, from a salt in the session's row and
from the server's secret, so that whoever asks twice within the grace is told the same: of two tabs that refresh at once
both are right, whichever of them writes down its answer last. Behind the grace a token that has had its turn can only
be a copy, and ends the session: nobody can tell whose it is.
"""

import hmac
import math
import secrets
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import timedelta
from hashlib import sha256

from sqlmodel.ext.asyncio.session import AsyncSession

from auth.api_keys import ApiKeys, is_api_key
from auth.device import Device
from auth.tokens import Claims, Tokens
from errors import InvalidCredentials, NotFound, TokenInvalid
from models.api_key import standing_keys
from models.columns import utc_now
from models.database import Database
from models.user import User, user_by_id
from models.user_session import (
    UserSession,
    end_sessions,
    keep_newest_sessions,
    session_of_family,
    sessions_of,
    standing_sessions,
    user_in_session,
    user_to_sign_in,
)

PREFIX = "acsr_"
FAMILY_BYTES, TOKEN_BYTES = 16, 48
SEEN_AGAIN = timedelta(minutes=1)
"""A session's last use is written down at most this often: a write for each request would double what reads cost."""
MAX_ADDRESS_CHARS = 64
NEVER = 253_402_300_799
"""When a key without an end expires: the last second of the year 9999."""


@dataclass(frozen=True, slots=True)
class Viewer:
    """Who is asking. `expires_at`: when the right to ask ends, in seconds since the epoch. `session_id`: where the user
    is signed in; None where an API key says who it is: then `key_id` is its id."""

    id: str
    username: str
    expires_at: int
    session_id: str | None = None
    key_id: str | None = None

    @property
    def credential(self) -> str | None:
        """The id of what says who it is: it may be taken away at any moment."""
        return self.session_id or self.key_id


@dataclass(frozen=True, slots=True)
class SignedIn:
    """`expires_in` is the access token's, in seconds. `refresh_token` None: the session cannot be refreshed."""

    user: User
    access_token: str
    expires_in: int
    refresh_token: str | None


@dataclass(frozen=True, slots=True)
class SessionLimits:
    """`idle`: seconds without a refresh; `absolute`: since the log-in. Neither is shorter than an access token's life.
    `per_user` None: no limit. `grace`: seconds in which a refresh token may be shown again."""

    idle: float = 30 * 86_400
    absolute: float = 90 * 86_400
    per_user: int | None = 100
    grace: float = 10


class Sessions:
    def __init__(self, database: Database, tokens: Tokens, limits: SessionLimits) -> None:
        self._database = database
        self._tokens = tokens
        self._limits = limits
        self._key = tokens.derived_key("refresh tokens")
        self._keys = ApiKeys(database)
        self._seen: set[str] = set()
        self.on_ended: Callable[[str], Awaitable[None]] | None = None
        """Called behind the commit that ended sessions of a user, to tell whoever has something open for them."""

    async def open(self, session: AsyncSession, user: User, device: Device, *, refreshable: bool) -> SignedIn:
        """Sign a user in, in a transaction that writes. Whoever signs in, by whatever proof, comes through here.

        Raises:
            InvalidCredentials: since the proof was looked at the user was deleted or disabled, or has another password.
        """
        now = utc_now()
        current = await user_to_sign_in(session, user.id)
        if current is None or current.disabled or current.password_hash != user.password_hash:
            raise InvalidCredentials
        lasts = self._limits.idle if refreshable else self._tokens.lifetime + 1
        row = UserSession(user_id=user.id, created_at=now, last_seen_at=now, expires_at=now + timedelta(seconds=lasts))
        _came_from(row, device)
        refresh_token = None
        if refreshable:
            family = secrets.token_bytes(FAMILY_BYTES)
            refresh_token = _written(family + secrets.token_bytes(TOKEN_BYTES - FAMILY_BYTES))
            row.family_hash, row.token_hash = _hash(family), _hash(refresh_token.encode())
        session.add(row)
        await session.flush()
        if self._limits.per_user is not None:
            await keep_newest_sessions(session, user.id, self._limits.per_user, row.id)
        return self._signed_in(current, row, refresh_token)

    def _signed_in(self, user: User, row: UserSession, refresh_token: str | None) -> SignedIn:
        lifetime = self._tokens.lifetime
        if refresh_token is not None:
            left = row.created_at + timedelta(seconds=self._limits.absolute) - utc_now()
            lifetime = min(lifetime, math.floor(left.total_seconds()))
        return SignedIn(user, self._tokens.issue(user.id, row.id, lifetime), lifetime, refresh_token)

    async def refresh(self, refresh_token: str, device: Device) -> SignedIn:
        """A new access token, and the refresh token to show next time.

        Raises:
            TokenInvalid: no session has it, or it was used before: then its session has ended.
        """
        family = _family_of(refresh_token)
        async with self._database.read() as session:
            # Whoever guesses makes nobody wait for the database.
            if await session_of_family(session, _hash(family)) is None:
                raise TokenInvalid
        async with self._database.write() as session:
            row = await session_of_family(session, _hash(family))
            user = None if row is None else await user_by_id(session, row.user_id)
            if row is None or user is None or user.disabled or row.expires_at <= utc_now():
                raise TokenInvalid
            following = self._following(row, refresh_token)
            if following is None:
                await end_sessions(session, user.id, only=row.id)
            else:
                now = utc_now()
                absolute = row.created_at + timedelta(seconds=self._limits.absolute)
                row.expires_at = min(now + timedelta(seconds=self._limits.idle), absolute)
                row.last_seen_at = now
                _came_from(row, device)
                session.add(row)
        if following is None:
            await self.ended(user.id)
            raise TokenInvalid
        return self._signed_in(user, row, following)

    def _following(self, row: UserSession, shown: str) -> str | None:
        """The token to show next time; None: this one has had its turn."""
        now, name = utc_now(), _hash(shown.encode())
        fresh = row.rotated_at is not None and abs(now - row.rotated_at) < timedelta(seconds=self._limits.grace)
        if name == row.token_hash:
            if fresh:
                # Not again so soon: the one before it must not be two behind while its other copy is on its way.
                return shown
            row.previous_hash, row.salt, row.rotated_at = name, secrets.token_hex(16), now
            following = self._successor(shown, row.salt)
            row.token_hash = _hash(following.encode())
            return following
        if fresh and name == row.previous_hash and row.salt is not None:
            return self._successor(shown, row.salt)
        return None

    def _successor(self, shown: str, salt: str) -> str:
        made = hmac.digest(self._key, f"{salt} {shown}".encode(), "sha256")
        return _written(_family_of(shown) + made)

    async def user_of(self, token: str) -> tuple[User | None, Claims]:
        """The user that a valid token names (None: gone), and what it says.

        Raises:
            TokenInvalid: also when its session has ended, or its user is disabled.
            TokenExpired
        """
        if is_api_key(token):
            key, owner = await self._keys.owner(token)
            ends = NEVER if key.expires_at is None else math.ceil(key.expires_at.timestamp())
            return owner, Claims(owner.id, "", key.id, ends)
        claims = self._tokens.verify(token)
        async with self._database.read() as session:
            user, row = await user_in_session(session, claims.user_id, claims.session_id)
        if user is not None:
            now = utc_now()
            if row is None or user.disabled or row.expires_at <= now:
                raise TokenInvalid
            if now - row.last_seen_at >= SEEN_AGAIN:
                self._seen.add(row.id)
        return user, claims

    async def viewer(self, token: str) -> Viewer:
        """
        Raises:
            TokenInvalid: also when its user is gone or disabled, or its session has ended.
            TokenExpired
        """
        user, claims = await self.user_of(token)
        if user is None:
            raise TokenInvalid
        if is_api_key(token):
            return Viewer(user.id, user.username, claims.expires_at, key_id=claims.token_id)
        return Viewer(user.id, user.username, claims.expires_at, claims.session_id)

    async def listed(self, user_id: str) -> Sequence[UserSession]:
        """Where the user is signed in, the last used first."""
        async with self._database.read() as session:
            return await sessions_of(session, user_id, utc_now())

    async def log_out(self, viewer: Viewer, *, everywhere: bool) -> int:
        """End this session, or all of the user. How many that were."""
        if viewer.session_id is None and not everywhere:
            return 0
        async with self._database.write() as session:
            count = await end_sessions(session, viewer.id, only=None if everywhere else viewer.session_id)
        await self.ended(viewer.id)
        return count

    async def revoke(self, user_id: str, session_id: str) -> None:
        """End one of the user's sessions.

        Raises:
            NotFound: the user has none of this id.
        """
        async with self._database.write() as session:
            if not await end_sessions(session, user_id, only=session_id):
                raise NotFound("No such session", field="id")
        await self.ended(user_id)

    async def ended(self, user_id: str) -> None:
        """To be called behind the commit that ended sessions of this user."""
        if self.on_ended is not None:
            await self.on_ended(user_id)

    async def check(self, viewer: Viewer) -> None:
        """For those who have something open and ask for more.

        Raises:
            TokenInvalid: the session or the key is gone, or its user is disabled or gone.
        """
        if viewer.credential is None:
            return
        async with self._database.read() as session:
            if not await standing(session, [viewer.credential]):
                raise TokenInvalid

    def take_seen(self) -> set[str]:
        """Sessions whose last use has yet to be written down, once."""
        seen, self._seen = self._seen, set()
        return seen


async def standing(session: AsyncSession, credentials: Collection[str]) -> set[str]:
    """Those sessions and API keys that still say who somebody is."""
    keys = {each for each in credentials if each.startswith("key_")}
    sessions = set(credentials) - keys
    return await standing_sessions(session, sessions) | await standing_keys(session, keys)


def _came_from(row: UserSession, device: Device) -> None:
    row.user_agent = device.user_agent
    row.address = None if device.address is None else device.address[:MAX_ADDRESS_CHARS]


def _written(token: bytes) -> str:
    return PREFIX + urlsafe_b64encode(token).decode()


def _family_of(refresh_token: str) -> bytes:
    """
    Raises:
        TokenInvalid: it is no refresh token.
    """
    try:
        if not refresh_token.startswith(PREFIX) or not refresh_token.isascii():
            raise TokenInvalid
        token = urlsafe_b64decode(refresh_token.removeprefix(PREFIX))
    except ValueError:
        raise TokenInvalid from None
    if len(token) != TOKEN_BYTES or _written(token) != refresh_token:
        raise TokenInvalid
    return token[:FAMILY_BYTES]


def _hash(token: bytes) -> str:
    return sha256(token).hexdigest()
