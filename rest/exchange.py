"""What one legacy socket keeps while it is open: its own exchange, and the chats that wait for their turn."""

import asyncio
from collections import deque
from dataclasses import dataclass

from chat.prompt import PER_TURN, estimate_tokens
from providers.base import Role, Turn

WAITING = 4
MEMORY_MESSAGES = 100
MEMORY_TOKENS = 16_384
"""Estimated from above. More than the embedded model can hold, and at most 48 KB of English for each socket."""


class Memory:
    """The newest questions with their answers, as long as they fit. Whether the model can hold them is for the run.

    What no prompt may hold is forgotten too, or every later chat would be refused for it: `messages` and `chars` are
    the bounds of a prompt and of each of its messages.
    """

    def __init__(self, messages: int, chars: int) -> None:
        self._most = min(MEMORY_MESSAGES, messages - 1)
        self._chars = chars
        self._exchanges: deque[tuple[Turn, Turn, int]] = deque()
        self._tokens = 0

    def turns(self) -> list[Turn]:
        return [turn for question, answer, _ in self._exchanges for turn in (question, answer)]

    def remember(self, question: str, answer: str) -> None:
        """An answer that never came to a word is not remembered, and nor is its question."""
        if not answer.strip():
            return
        if len(answer) > self._chars:
            self.forget()
            return
        tokens = estimate_tokens(question) + estimate_tokens(answer) + 2 * PER_TURN
        self._exchanges.append((Turn(Role.USER, question), Turn(Role.ASSISTANT, answer), tokens))
        self._tokens += tokens
        while self._tokens > MEMORY_TOKENS or len(self._exchanges) * 2 > self._most:
            self._tokens -= self._exchanges.popleft()[2]

    def forget(self) -> None:
        self._exchanges.clear()
        self._tokens = 0


@dataclass(frozen=True, slots=True)
class Asked:
    """A chat frame's content. `model` is for callers with a token."""

    content: str
    model: str | None = None


class Line:
    """Chats one at a time, four waiting. One that is refused leaves a gap, so that every chat frame gets its
    `chat_complete`, in the order of the frames."""

    def __init__(self) -> None:
        self._entries: deque[Asked | int] = deque()
        self._filled = asyncio.Event()
        self._taken = 0

    def add(self, asked: Asked) -> bool:
        """False: the line is full."""
        if self._taken > WAITING:
            return False
        self._taken += 1
        self._put(asked)
        return True

    def gap(self) -> None:
        """Leave a gap for a chat that was refused; gaps side by side take the place of one."""
        last = self._entries[-1] if self._entries else None
        if isinstance(last, int):
            self._entries[-1] = last + 1
        else:
            self._put(1)

    def _put(self, entry: Asked | int) -> None:
        self._entries.append(entry)
        self._filled.set()

    async def next(self) -> Asked | int:
        """The chat whose turn it is, or a number of gaps."""
        while not self._entries:
            self._filled.clear()
            await self._filled.wait()
        return self._entries.popleft()

    def done(self) -> None:
        """The chat that `next` gave has ended."""
        self._taken -= 1
