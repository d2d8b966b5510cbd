"""Accounts: register, log in, and who a token belongs to."""

from dataclasses import dataclass

from sqlalchemy.exc import IntegrityError

from auth.device import UNKNOWN, Device
from auth.names import MAX_NAME_CHARS, clean_email, clean_password, clean_username, encodable, printable
from auth.passwords import MAX_CHARS, MIN_CHARS, Passwords
from auth.throttle import Throttle
from auth.tokens import Tokens
from errors import EmailTaken, InvalidCredentials, TokenInvalid, UsernameTaken
from models.database import Database
from models.user import User, name_key, user_by_id, user_by_name, user_exists


@dataclass(frozen=True, slots=True)
class Viewer:
    """Who is asking. `expires_at`: when the token that said so ends, in seconds since the epoch."""

    id: str
    username: str
    expires_at: int


@dataclass(frozen=True, slots=True)
class SignedIn:
    user: User
    access_token: str
    expires_in: int


class Accounts:
    def __init__(self, database: Database, passwords: Passwords, tokens: Tokens, throttle: Throttle) -> None:
        self._database = database
        self._passwords = passwords
        self._tokens = tokens
        self._throttle = throttle

    async def register(self, username: str, email: str, password: str, device: Device = UNKNOWN) -> SignedIn:
        """
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
        except IntegrityError:
            # Someone else took the name or the address while the password was hashed.
            await self._check_free(username, email)
            raise
        return self._sign_in(user)

    async def _check_free(self, username: str, email: str) -> None:
        async with self._database.read() as session:
            if await user_exists(session, username=username):
                raise UsernameTaken(field="username")
            if await user_exists(session, email=email):
                raise EmailTaken(field="email")

    async def login(self, username: str, password: str, device: Device = UNKNOWN) -> SignedIn:
        """
        Raises:
            InvalidCredentials: the same, after the same time, whether the name or the password is wrong.
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
        return self._sign_in(user)

    def _sign_in(self, user: User) -> SignedIn:
        return SignedIn(user, self._tokens.issue(user.id), self._tokens.lifetime)

    async def user_of(self, token: str) -> tuple[User | None, int]:
        """The user that a valid token names (None: gone), and when the token ends.

        Raises:
            TokenInvalid, TokenExpired
        """
        claims = self._tokens.verify(token)
        async with self._database.read() as session:
            user = await user_by_id(session, claims.user_id)
        if user is not None and user.disabled:
            raise TokenInvalid
        return user, claims.expires_at

    async def viewer(self, token: str) -> Viewer:
        """
        Raises:
            TokenInvalid: also when its user is gone or disabled.
            TokenExpired
        """
        user, expires_at = await self.user_of(token)
        if user is None:
            raise TokenInvalid
        return Viewer(user.id, user.username, expires_at)

    async def exists(self, user_id: str) -> bool:
        """Whether this is the id of a registered user."""
        async with self._database.read() as session:
            return await user_by_id(session, user_id) is not None
