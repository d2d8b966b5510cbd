"""Who is typing: never stored, never replayed, at most one notice per 2 s from one user in one place."""

import time
from collections import OrderedDict
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from datetime import datetime

import orjson

from bus.base import Bus
from chat.conversations import Conversations
from errors import NotFound
from models.columns import from_millis, to_millis, utc_now

THROTTLE_SECONDS = 2.0
REMEMBERED = 10_000
"""Places whose last notice is remembered. Beyond it the oldest are forgotten, which at worst lets a notice through."""
PUBLIC = "typing:public"


@dataclass(frozen=True, slots=True)
class TypingNotice:
    """`conversation_id` None: the legacy socket's broadcast. `username` None: a guest."""

    user_id: str
    username: str | None
    conversation_id: str | None
    at: datetime


class Typing:
    def __init__(self, bus: Bus, conversations: Conversations) -> None:
        self._bus = bus
        self._conversations = conversations
        self._last: OrderedDict[tuple[str, str], float] = OrderedDict()

    async def tell(self, user_id: str, username: str | None, conversation_key: str | None = None) -> bool:
        """Tell those who follow. False: so soon after the last one that nobody was told.

        Raises:
            NotFound: no such conversation.
        """
        conversation_id = None if conversation_key is None else await self._member(user_id, conversation_key)
        channel = _channel(conversation_id)
        if not self._allowed(user_id, channel):
            return False
        notice = {"user_id": user_id, "at": str(to_millis(utc_now()))}
        if username is not None:
            notice["username"] = username
        await self._bus.publish(channel, orjson.dumps(notice))
        return True

    async def follow(
        self, user_id: str | None, conversation_key: str | None = None
    ) -> AsyncGenerator[TypingNotice, None]:
        """Notices of everyone but the follower, from now on.

        Raises:
            NotFound: no such conversation.
        """
        conversation_id = None
        if conversation_key is not None:
            conversation_id = await self._member(user_id or "", conversation_key)
        async with self._bus.subscribe(_channel(conversation_id)) as messages:
            async for encoded in messages:
                message = orjson.loads(encoded)
                if message["user_id"] != user_id:
                    at = from_millis(int(message["at"]))
                    yield TypingNotice(message["user_id"], message.get("username"), conversation_id, at)

    async def _member(self, user_id: str, key: str) -> str:
        conversation = await self._conversations.find(user_id, key)
        if conversation is None:
            raise NotFound("对话不存在", field="conversationId")
        return conversation.id

    def _allowed(self, user_id: str, channel: str) -> bool:
        now = time.monotonic()
        last = self._last.get((user_id, channel))
        if last is not None and now - last < THROTTLE_SECONDS:
            return False
        self._last[user_id, channel] = now
        self._last.move_to_end((user_id, channel))
        if len(self._last) > REMEMBERED:
            self._last.popitem(last=False)
        return True


def _channel(conversation_id: str | None) -> str:
    return PUBLIC if conversation_id is None else f"typing:{conversation_id}"
