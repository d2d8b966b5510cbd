"""Whose identity this is; for one that nobody knows, a new account.

Never an account that is there already: whoever controls an address at a provider would get in by it, and whoever
registered somebody else's address here would find them in their account.
"""

import secrets

from sqlalchemy.exc import IntegrityError

from auth.device import Device
from auth.names import MAX_NAME_CHARS, clean_email, clean_username
from auth.oauth_client import Person
from auth.throttle import Throttle
from errors import BadUserInput, EmailTaken, Forbidden, Unavailable
from models.database import Database
from models.identity import Identity, identity_by_subject
from models.user import User, name_key, user_by_id, user_exists

TRIES = 5
NAMELESS = "user"


class Newcomers:
    def __init__(self, database: Database, throttle: Throttle) -> None:
        self._database = database
        self._throttle = throttle

    async def user_of(self, person: Person, provider: str, device: Device) -> User:
        """
        Raises:
            Forbidden: a new account needs an e-mail address that the provider has verified.
            EmailTaken: it belongs to an account that this identity does not open.
            RateLimited: too many registrations from this address.
        """
        if (user := await self._known(person)) is not None:
            return user
        email = _address_of(person, provider)
        await self._throttle.registration(device)
        for _ in range(TRIES):
            try:
                user = await self._draft(person, email, provider)
                async with self._database.write() as session:
                    session.add(user)
                    await session.flush()
                    session.add(
                        Identity(user_id=user.id, provider=person.provider, subject=person.subject, label=person.shown)
                    )
            except (IntegrityError, EmailTaken) as error:
                # The same browser twice, or somebody else took the name.
                if (known := await self._known(person)) is not None:
                    return known
                if isinstance(error, EmailTaken):
                    raise
            else:
                return user
        raise Unavailable("No free username was found; try again")

    async def _known(self, person: Person) -> User | None:
        async with self._database.read() as session:
            identity = await identity_by_subject(session, person.provider, person.subject)
            return None if identity is None else await user_by_id(session, identity.user_id)

    async def _draft(self, person: Person, email: str, provider: str) -> User:
        async with self._database.read() as session:
            if await user_exists(session, email=email):
                raise EmailTaken(f"An account with this e-mail address exists: sign in there, and link {provider}")
            name = username = proposed_name(person.name)
            while await user_exists(session, username=username):
                username = with_suffix(name)
        return User(
            username=username,
            username_key=name_key(username),
            email=email,
            email_key=name_key(email),
            password_hash=None,
        )


def _address_of(person: Person, provider: str) -> str:
    try:
        if person.email is not None:
            return clean_email(person.email)
    except BadUserInput:
        pass
    raise Forbidden(f"{provider} has not verified the e-mail address of your account there; verify it and come back")


def proposed_name(text: str) -> str:
    """A name that may stand here, made of what the provider calls the user."""
    seen = "".join(letter for letter in text if letter.isprintable())[:MAX_NAME_CHARS]
    try:
        return clean_username(seen)
    except BadUserInput:
        return NAMELESS


def with_suffix(name: str) -> str:
    suffix = f"-{secrets.token_hex(3)}"
    return name[: MAX_NAME_CHARS - len(suffix)] + suffix
