"""Accounts: register and log in."""

from sqlalchemy.exc import IntegrityError

from auth.device import UNKNOWN, Device
from auth.factors import Factors
from auth.names import MAX_NAME_CHARS, clean_email, clean_password, clean_username, encodable, printable
from auth.passwords import MAX_CHARS, MIN_CHARS, Passwords
from auth.sessions import Sessions, SignedIn
from auth.throttle import Throttle
from errors import EmailTaken, InvalidCredentials, UsernameTaken
from models.database import Database
from models.user import User, name_key, user_by_id, user_by_name, user_exists


class Accounts:
    def __init__(
        self, database: Database, passwords: Passwords, sessions: Sessions, throttle: Throttle, factors: Factors
    ) -> None:
        self._database = database
        self._passwords = passwords
        self._sessions = sessions
        self._throttle = throttle
        self._factors = factors

    async def register(
        self, username: str, email: str, password: str, device: Device = UNKNOWN, *, refreshable: bool = True
    ) -> SignedIn:
        """Make a user, signed in. `refreshable`: the session gets a refresh token, and lives on with it.

        Raises:
            BadUserInput: names the field.
            UsernameTaken, EmailTaken
            RateLimited: too many from this address.
        """
        username = clean_username(username)
        email = clean_email(email)
        clean_password(password)
        await self._throttle.registration(device)
        await self._check_free(username, email)
        user = User(
            username=username,
            username_key=name_key(username),
            email=email,
            email_key=name_key(email),
            password_hash=await self._passwords.hash(password),
        )
        try:
            async with self._database.write() as session:
                session.add(user)
                await session.flush()
                return await self._sessions.open(session, user, device, refreshable=refreshable)
        except IntegrityError:
            # Someone else took the name or the address while the password was hashed.
            await self._check_free(username, email)
            raise

    async def _check_free(self, username: str, email: str) -> None:
        async with self._database.read() as session:
            if await user_exists(session, username=username):
                raise UsernameTaken(field="username")
            if await user_exists(session, email=email):
                raise EmailTaken(field="email")

    async def login(
        self,
        username: str,
        password: str,
        device: Device = UNKNOWN,
        *,
        otp: str | None = None,
        refreshable: bool = True,
    ) -> SignedIn:
        """`otp`: a code of the user's app, or a recovery code, where the account has a second factor.

        Raises:
            InvalidCredentials: the same, after the same time, whether the name or the password is wrong.
            OtpRequired, InvalidOtp: the password is right, the second factor is not there or not right.
            RateLimited: too many attempts on this name, or from this address.
        """
        await self._throttle.login(username, device)
        if len(username) > MAX_NAME_CHARS * 4 or len(password) > MAX_CHARS or not printable(username):
            user, password = None, "x" * MIN_CHARS
        else:
            async with self._database.read() as session:
                user = await user_by_name(session, username.strip())
        if not encodable(password):
            user, password = None, "x" * MIN_CHARS
        right = await self._passwords.verify(password, None if user is None else user.password_hash)
        if user is None or not right or user.disabled:
            raise InvalidCredentials
        await self._factors.check(user.id, otp)
        async with self._database.write() as session:
            return await self._sessions.open(session, user, device, refreshable=refreshable)

    async def exists(self, user_id: str) -> bool:
        """Whether this is the id of a registered user."""
        async with self._database.read() as session:
            return await user_by_id(session, user_id) is not None
