"""What the operator does to accounts: from the command line, while servers serve, by the same rules for names."""

from collections.abc import Sequence

from sqlalchemy.exc import IntegrityError

from auth.names import clean_email, clean_password, clean_username
from auth.passwords import Passwords
from errors import EmailTaken, NotFound, UsernameTaken
from models.database import Database
from models.run import request_cancels
from models.totp import delete_totp
from models.user import User, UserRole, name_key, user_by_name, user_exists, users_after
from models.user_session import end_sessions

PAGE = 500


class Administration:
    """Servers notice within seconds: what is open for a session that has ended, or a user who is disabled, closes."""

    def __init__(self, database: Database, passwords: Passwords) -> None:
        self._database = database
        self._passwords = passwords

    async def create(self, username: str, email: str, password: str, role: UserRole) -> User:
        """
        Raises:
            BadUserInput, UsernameTaken, EmailTaken
        """
        username, email = clean_username(username), clean_email(email)
        hashed = await self._passwords.hash(clean_password(password))
        key, email_key = name_key(username), name_key(email)
        user = User(
            username=username,
            username_key=key,
            email=email,
            email_key=email_key,
            password_hash=hashed,
            role=role,
        )
        try:
            async with self._database.write() as session:
                if await user_exists(session, username=username):
                    raise UsernameTaken
                session.add(user)
        except IntegrityError:
            raise EmailTaken from None
        return user

    async def set_role(self, username: str, role: UserRole) -> None:
        """
        Raises:
            NotFound
        """
        async with self._database.write() as session:
            user = _found(await user_by_name(session, username), username)
            user.role = role
            session.add(user)

    async def set_disabled(self, username: str, *, disabled: bool) -> int:
        """Whether the user may come in, by whatever way; answers of one who may not are stopped. How many sessions
        ended.

        Raises:
            NotFound
        """
        async with self._database.write() as session:
            user = _found(await user_by_name(session, username), username)
            user.disabled = disabled
            session.add(user)
            if not disabled:
                return 0
            await request_cancels(session, user.id)
            return await end_sessions(session, user.id)

    async def reset_password(self, username: str, password: str) -> int:
        """A new password, which an account that had none may get too. How many sessions ended.

        Raises:
            BadUserInput, NotFound
        """
        hashed = await self._passwords.hash(clean_password(password))
        async with self._database.write() as session:
            user = _found(await user_by_name(session, username), username)
            user.password_hash = hashed
            session.add(user)
            return await end_sessions(session, user.id)

    async def disable_totp(self, username: str) -> bool:
        """For who has lost the app and the recovery codes. Whether there was a second factor.

        Raises:
            NotFound
        """
        async with self._database.write() as session:
            user = _found(await user_by_name(session, username), username)
            return await delete_totp(session, user.id)

    async def exists(self, username: str) -> bool:
        async with self._database.read() as session:
            return await user_exists(session, username=username)

    async def page(self, after: str | None) -> Sequence[User]:
        """The users behind this id, the oldest first, at most PAGE."""
        async with self._database.read() as session:
            return await users_after(session, after, PAGE)


def _found(user: User | None, username: str) -> User:
    if user is None:
        raise NotFound(f"there is no user {username!r}")
    return user
