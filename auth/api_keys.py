"""API keys: `acs_` and 256 random bits, shown once. They ask for their user, but do not manage the account."""

import secrets
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from hashlib import sha256

from auth.names import printable
from errors import BadUserInput, Conflict, NotFound, TokenExpired, TokenInvalid, Unavailable
from models.api_key import (
    USE_NOTED_EVERY,
    ApiKey,
    add_api_key,
    api_key_by_digest,
    api_key_of,
    api_keys_of,
    delete_api_key,
    note_use,
)
from models.columns import MAX_MILLIS, to_millis, utc_now
from models.database import Database
from models.user import User

BEGINNING = "acs_"
RANDOM_BYTES = 32
PREFIX_CHARS = 10
"""`acs_` and six more: 36 of the 256 bits are no secret, and two keys of a user look different."""
MOST_KEYS = 50
MAX_NAME_CHARS = 100


def is_api_key(token: str) -> bool:
    """Whether it looks like one: access tokens have dots, and no such beginning."""
    return token.startswith(BEGINNING)


class ApiKeys:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def create(self, user_id: str, name: str, expires_at: datetime | None) -> tuple[str, ApiKey]:
        """The key itself, which is not kept, and its row.

        Raises:
            BadUserInput: names the field.
            Conflict: the user has MOST_KEYS.
        """
        text = BEGINNING + secrets.token_urlsafe(RANDOM_BYTES)
        key = ApiKey(
            user_id=user_id,
            name=clean_name(name),
            prefix=text[:PREFIX_CHARS],
            digest=digest(text),
            expires_at=None if expires_at is None else clean_expiry(expires_at),
        )
        async with self._database.write() as session:
            if not await add_api_key(session, key, MOST_KEYS):
                raise Conflict(f"At most {MOST_KEYS} API keys; revoke one first")
        return text, key

    async def revoke(self, user_id: str, key_id: str) -> None:
        """
        Raises:
            NotFound: the user has no such key.
        """
        async with self._database.write() as session:
            if not await delete_api_key(session, user_id, key_id):
                raise NotFound

    async def of(self, user_id: str) -> Sequence[ApiKey]:
        """The newest first."""
        async with self._database.read() as session:
            return await api_keys_of(session, user_id)

    async def get(self, user_id: str, key_id: str) -> ApiKey | None:
        """One of the user's."""
        async with self._database.read() as session:
            return await api_key_of(session, user_id, key_id)

    async def owner(self, text: str) -> tuple[ApiKey, User]:
        """The key's row and its user; that it was used is noted, at most once a minute.

        Raises:
            TokenInvalid: no such key, or a disabled user's.
            TokenExpired
        """
        async with self._database.read() as session:
            found = await api_key_by_digest(session, digest(text))
        if found is None or found[1].disabled:
            raise TokenInvalid
        key, user = found
        now = utc_now()
        if key.expires_at is not None and key.expires_at <= now:
            raise TokenExpired
        if key.last_used_at is None or key.last_used_at <= now - USE_NOTED_EVERY:
            # What the key asks for may still be possible where nothing can be written.
            with suppress(Unavailable):
                async with self._database.write() as session:
                    await note_use(session, key.id, now)
        return key, user


def digest(text: str) -> str:
    return sha256(text.encode(errors="surrogatepass")).hexdigest()


def clean_name(value: str) -> str:
    """
    Raises:
        BadUserInput
    """
    name = value.strip()
    if not name or len(name) > MAX_NAME_CHARS or not printable(name):
        raise BadUserInput(f"name must be 1 to {MAX_NAME_CHARS} printable characters", field="name")
    return name


def clean_expiry(value: datetime) -> datetime:
    """In UTC; without a zone it is taken for UTC.

    Raises:
        BadUserInput: it is past, or beyond the year 9999.
    """
    moment = value if value.tzinfo is not None else value.replace(tzinfo=UTC)
    try:
        moment = moment.astimezone(UTC)
    except OverflowError:
        raise BadUserInput("expiresAt is out of range", field="expiresAt") from None
    if moment <= utc_now() or to_millis(moment) > MAX_MILLIS:
        raise BadUserInput("expiresAt must be in the future", field="expiresAt")
    return moment
