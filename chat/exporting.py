"""A user's conversations, written line by line: never more than some rows in memory, whatever there is."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson
from pydantic.alias_generators import to_camel

from chat.transfer import FORMAT, VERSION
from models.columns import to_millis, utc_now
from models.conversation import Conversation
from models.database import Database
from models.transfer import count_messages, next_conversations, whole_tree
from models.user import User

AT_ONCE = 100
"""Conversations listed by one statement."""
CONVERSATION = (
    *("id", "external_id", "title", "model", "system_prompt"),
    *("created_at", "updated_at", "archived", "pinned", "head_id"),
)
Write = Callable[[bytes], object]


@dataclass
class Exported:
    conversations: int = 0
    messages: int = 0


async def export_conversations(database: Database, user: User, write: Write) -> Exported:
    """Write what the user owns; each conversation as it is at one moment. Members are not in it.

    Raises:
        Unavailable: the database cannot be read now.
    """
    done, after = Exported(), ""
    who = {"id": user.id, "username": user.username}
    write(_line({"format": FORMAT, "version": VERSION, "exportedAt": to_millis(utc_now()), "user": who}))
    while True:
        async with database.read() as session:
            found = await next_conversations(session, user.id, after, AT_ONCE)
        for conversation in found:
            count = await _export(database, conversation.id, user.id, write)
            done.messages += count or 0
            done.conversations += count is not None
        if len(found) < AT_ONCE:
            break
        after = found[-1].id
    write(_line({"end": {"conversations": done.conversations, "messages": done.messages}}))
    return done


async def _export(database: Database, conversation_id: str, user_id: str, write: Write) -> int | None:
    """How many messages it has; None when it is gone."""
    count = 0
    async with database.read() as session:
        conversation = await session.get(Conversation, conversation_id)
        if conversation is None or conversation.owner_id != user_id:
            return None
        values = {name: getattr(conversation, name) for name in CONVERSATION}
        values["messages"] = await count_messages(session, conversation_id)
        write(_line({"conversation": _shown(values)}))
        async for message, run in whole_tree(session, conversation_id):
            message["by_owner"] = message.pop("author_id") in {user_id, None}
            message["run"] = None if run is None else _shown(run)
            write(_line({"message": _shown(message)}))
            count += 1
    return count


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    """In camelCase, times in milliseconds, without what is null."""
    values = {to_camel(name): value for name, value in row.items() if value is not None}
    return {name: to_millis(value) if isinstance(value, datetime) else value for name, value in values.items()}


def _line(value: dict[str, Any]) -> bytes:
    return orjson.dumps(value, option=orjson.OPT_APPEND_NEWLINE)
