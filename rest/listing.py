"""Conversations as JSON; their list is made one at a time."""

from collections.abc import AsyncGenerator
from contextlib import aclosing

import orjson

from chat.listing import whole_list
from models.database import Database
from models.whole import Whole

PIECE_BYTES = 64 * 1024
"""What is handed to the socket at once: its buffer's high-water mark."""


async def listed(
    database: Database, user_id: str, limit: int | None, before: str | None
) -> AsyncGenerator[bytes, None]:
    """The JSON array in pieces. All of it is read and made before the first piece, so that a client that reads
    slowly holds no reader of the database.

    Raises:
        NotFound: no conversation has the id `before`.
    """
    pieces: list[bytes] = []
    gathered = bytearray()
    separator = b"["
    async with aclosing(whole_list(database, user_id, limit, before)) as conversations:
        async for whole in conversations:
            gathered += separator + as_json(whole, user_id)
            separator = b","
            if len(gathered) >= PIECE_BYTES:
                pieces.append(bytes(gathered))
                gathered.clear()
    pieces.append(bytes(gathered) + (b"]" if separator == b"," else b"[]"))
    return _given(pieces)


async def _given(pieces: list[bytes]) -> AsyncGenerator[bytes, None]:
    for piece in pieces:
        yield piece


def as_json(whole: Whole, user_id: str) -> bytes:
    """The documented conversation object."""
    conversation, messages = whole
    return orjson.dumps(
        {
            "id": conversation.key,
            "title": conversation.title,
            "messages": [
                {
                    "id": message.id,
                    "content": message.content,
                    "role": message.role.lower(),
                    "timestamp": message.created_at,
                }
                for message in messages
            ],
            "createdAt": conversation.created_at,
            "updatedAt": conversation.updated_at,
            "model": conversation.model,
            "systemPrompt": conversation.system_prompt,
            "userId": user_id,
        }
    )
