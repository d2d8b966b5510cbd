"""What takes the password again from who is signed in: whoever finds a tab open must not get the account."""

from datetime import timedelta

from auth.device import Device
from auth.names import clean_password, encodable
from auth.passwords import MAX_CHARS, MIN_CHARS, Passwords
from auth.sessions import Sessions, SignedIn, Viewer
from auth.throttle import Throttle
from errors import Forbidden, InvalidCredentials, TokenInvalid
from models.columns import utc_now
from models.database import Database
from models.erasure import close_user
from models.user import User, user_by_id
from models.user_session import end_sessions, session_of, user_to_sign_in

JUST_NOW = timedelta(minutes=10)
"""A session that is no older stands for the password of an account that has none."""


class Credentials:
    def __init__(self, database: Database, passwords: Passwords, sessions: Sessions, throttle: Throttle) -> None:
        self._database = database
        self._passwords = passwords
        self._sessions = sessions
        self._throttle = throttle

    async def prove(self, viewer: Viewer, password: str, device: Device, field: str) -> User:
        """The viewer's account, if this is its password. It counts as an attempt to log in. An account without one is
        proven by having signed in, elsewhere, just now.

        Raises:
            InvalidCredentials: names the field.
            Forbidden: there is no password, and the session is not new.
            RateLimited: too many attempts.
            TokenInvalid: the user is gone.
        """
        async with self._database.read() as session:
            user = await user_by_id(session, viewer.id)
        if user is None or user.disabled:
            raise TokenInvalid
        await self._throttle.login(user.username, device)
        if user.password_hash is None:
            await self._signed_in_just_now(viewer)
            return user
        stored: str | None = user.password_hash
        if len(password) > MAX_CHARS or not encodable(password):
            stored, password = None, "x" * MIN_CHARS
        if not await self._passwords.verify(password, stored):
            raise InvalidCredentials(field=field)
        return user

    async def _signed_in_just_now(self, viewer: Viewer) -> None:
        async with self._database.read() as session:
            row = None if viewer.session_id is None else await session_of(session, viewer.id, viewer.session_id)
        if row is None or utc_now() - row.created_at > JUST_NOW:
            raise Forbidden("This account has no password: sign in once more, and do it then")

    async def change_password(self, viewer: Viewer, current: str, new: str, device: Device) -> SignedIn:
        """All sessions of the user end, this one too: tokens that somebody copied are worth nothing from now on. The
        one that this answers with is new.

        Raises:
            InvalidCredentials, BadUserInput: name the field.
            RateLimited: too many attempts.
        """
        clean_password(new, "newPassword")
        proven = await self.prove(viewer, current, device, "currentPassword")
        hashed = await self._passwords.hash(new)
        async with self._database.write() as session:
            user = await user_to_sign_in(session, proven.id)
            if user is None or user.password_hash != proven.password_hash:
                raise InvalidCredentials(field="currentPassword")
            user.password_hash = hashed
            session.add(user)
            await session.flush()
            await end_sessions(session, user.id)
            signed_in = await self._sessions.open(session, user, device, refreshable=True)
        await self._sessions.ended(user.id)
        return signed_in

    async def close_account(self, viewer: Viewer, password: str, device: Device) -> None:
        """Nobody is signed in to it any more or can be, and its name is free. What it has is erased by others.

        Raises:
            InvalidCredentials: names the field.
            RateLimited: too many attempts.
        """
        proven = await self.prove(viewer, password, device, "password")
        async with self._database.write() as session:
            user = await user_to_sign_in(session, proven.id)
            if user is None or user.password_hash != proven.password_hash:
                raise InvalidCredentials(field="password")
            await close_user(session, user)
            await end_sessions(session, user.id)
        await self._sessions.ended(proven.id)
