"""Idempotency keys: the same key of the same user starts one run."""

from sqlmodel.ext.asyncio.session import AsyncSession

from models.locks import hold
from models.run import take_key


class KeyTaken(Exception):
    """Another request with the same idempotencyKey was a moment faster."""


async def check_key(session: AsyncSession, user_id: str, key: str | None) -> None:
    """
    Raises:
        KeyTaken: inside the transaction that would have stored the second run.
    """
    if key is None:
        return
    # First of all that the transaction takes: the other request's run is stored, or is not begun.
    await hold(session, f"key {user_id} {key}")
    if not await take_key(session, user_id, key):
        raise KeyTaken
