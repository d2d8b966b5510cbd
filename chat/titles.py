"""Titles for conversations that have none: a model is shown an exchange that has just ended, behind its back.

Nobody waits for it. Where the model says nothing that can be a title, the question's first words are one. A crash
leaves the conversation as it is, and the next answer in it is another chance.
"""

import asyncio
import logging
import re
import unicodedata
from contextlib import suppress

from chat.changes import tell_changed
from chat.chats import Chats
from chat.drafts import DEFAULT_TITLE
from errors import ChatError
from models.conversation import kept_conversation, name_conversation
from models.database import Database
from models.message import Message
from models.run import Run, RunPurpose, RunStatus
from providers.base import Role, Turn

logger = logging.getLogger(__name__)

UNTITLED = (DEFAULT_TITLE, "")
LONGEST = 60
"""Columns, of which a Chinese letter takes two: what fits into one line of a list of conversations."""
ANSWER_TOKENS = 32
"""A title of 60 columns has at most 30, in any language; what is cut off there was none."""
EXCERPT = 600
"""Letters of the question, and of the answer, that are shown: together 400 tokens at most, in the embedded model a
second and a half."""
AT_ONCE = 4
SECONDS = 60.0
WAITING = 200
"""Beyond them conversations stay as they are for now: titles must not pile up behind a model that is slow."""

INSTRUCTION = (
    "You name conversations. Answer with a short title and nothing else: two to six words, in the language of the "
    "conversation."
)
ASKED = "Give this conversation a title.\n\nUser: {question}\nAssistant: {answer}"
Shots = tuple[tuple[str, str, str], ...]
ENGLISH: Shots = (
    ("How long do I have to boil eggs?", "Six minutes for soft ones, ten for hard ones.", "Boiling Eggs"),
    ("hello", "Hello! How can I help you today?", "Greeting"),
    (
        "Write a letter to my landlord about the broken heating",
        "Dear Mr Smith, I am writing to let you know that",
        "Letter About Broken Heating",
    ),
)
CHINESE: Shots = (
    ("鸡蛋要煮多久？", "溏心蛋六分钟，全熟十分钟。", "煮鸡蛋的时间"),
    ("你好", "你好！有什么可以帮你？", "问候"),
)
"""Shown first. Without them the embedded model answers the question; with those of the other language it answers in
that."""

_HAN = re.compile(r"[\u3400-\u9fff\uf900-\ufaff]")
_LATIN = re.compile(r"[A-Za-z]+")
_THOUGHT = re.compile(r"<think>.*?(</think>|\Z)", re.S | re.I)
_LABEL = re.compile(r"^(the )?(title|标题|題目|题目|主题)( of this conversation)?( is)?\s*[:：]\s*", re.I)
_WRAPPING = "\"'`*_#~“”‘’«»„「」『』《》【】-–— "
_END = ".。…,，;；:： "


class Titles:
    """Names conversations as their answers end. `model`: who is asked; None: whoever gave the answer. `longest`:
    letters of a title, as for users."""

    def __init__(self, database: Database, chats: Chats, model: str | None, longest: int) -> None:
        self._database = database
        self._chats = chats
        self._model = model
        self._longest = longest
        self._tasks: set[asyncio.Task[None]] = set()
        self._free = asyncio.Semaphore(AT_ONCE)

    def ended(self, run: Run, text: str) -> None:
        """A run has ended with this text. Returns at once."""
        if run.status != RunStatus.COMPLETED or run.conversation_id is None or not text.strip():
            return
        if len(self._tasks) < WAITING:
            task = asyncio.create_task(self._name(run, text[:EXCERPT]), name=f"title behind {run.id}")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _name(self, run: Run, answer: str) -> None:
        try:
            async with self._free:
                question = await self._question(run)
                if question is not None:
                    await self._store(run, await self._title(run, question, answer))
        except ChatError as error:
            logger.info("no title behind run %s: %s", run.id, error.message)
        except Exception:
            logger.exception("no title behind run %s", run.id)

    async def _question(self, run: Run) -> str | None:
        """What the run answered; None if its conversation needs no title."""
        async with self._database.read() as session:
            conversation = await kept_conversation(session, run.conversation_id or "")
            if conversation is None or conversation.title not in UNTITLED:
                return None
            message = await session.get(Message, run.message_id)
            question = await session.get(Message, message.parent_id) if message and message.parent_id else None
        return None if question is None else question.content[:EXCERPT]

    async def _title(self, run: Run, question: str, answer: str) -> str | None:
        said = ""
        # A model that cannot, or for which nothing is left of the day: the question names itself.
        with suppress(ChatError, TimeoutError):
            turns = title_turns(question, answer)
            model = self._model or run.model
            async with asyncio.timeout(SECONDS):
                said = await self._chats.aside(run.user_id, turns, model, ANSWER_TOKENS, RunPurpose.TITLE)
        return tidy(said, f"{question}\n{answer}", self._longest) or own_words(question, self._longest)

    async def _store(self, run: Run, title: str | None) -> None:
        """Unless somebody has named it, or deleted it, meanwhile."""
        if title is None or run.conversation_id is None:
            return
        async with self._database.write() as session:
            named = await name_conversation(session, run.conversation_id, title, UNTITLED)
            if named is not None:
                await tell_changed(session, named)

    async def idle(self) -> None:
        """Returns when no title is on its way."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def aclose(self) -> None:
        for task in self._tasks:
            task.cancel()
        await self.idle()


def title_turns(question: str, answer: str) -> tuple[Turn, ...]:
    """The exchange, and what to make of it."""
    turns = [Turn(Role.SYSTEM, INSTRUCTION)]
    for asked, said, title in CHINESE if _is_chinese(question) else ENGLISH:
        turns.append(Turn(Role.USER, ASKED.format(question=asked, answer=said)))
        turns.append(Turn(Role.ASSISTANT, title))
    return (*turns, Turn(Role.USER, ASKED.format(question=question, answer=answer)))


def tidy(said: str, exchange: str, longest: int = LONGEST) -> str | None:
    """The title in what a model said; None if there is none that can stand in a list.

    A small model may answer the question instead, echo what it was told, or slip into Chinese.
    """
    # «Here is a title:» announces one.
    said_lines = [line for line in _THOUGHT.sub("", said).splitlines() if not line.rstrip("* ").endswith((":", "："))]
    lines = (_unwrapped(line) for line in said_lines)
    title = next((line for line in lines if line), "")
    if not any(letter.isalnum() for letter in title) or _width(title) > LONGEST or len(title) > longest:
        return None
    if title.lower() in (ASKED + INSTRUCTION).lower():
        return None
    foreign = _is_chinese(title) and not _is_chinese(exchange)
    return None if foreign or "\ufffd" in title else title


def _is_chinese(text: str) -> bool:
    """Whether Chinese letters outnumber Latin words: React in a Chinese question leaves it one, 北京 in an English one
    makes none."""
    han = len(_HAN.findall(text))
    return han > 0 and han >= len(_LATIN.findall(text))


def own_words(question: str, longest: int = LONGEST) -> str | None:
    """The question's beginning, cut between two words where there are any; None if it has no letters."""
    words = _plain(question)
    if not any(letter.isalnum() for letter in words):
        return None
    fits = _cut(words, min(LONGEST, longest))
    if fits == words:
        return words
    short = _cut(words, min(LONGEST, longest) - 1)
    between = short.rfind(" ")
    return (short[:between] if between > len(short) // 2 else short).rstrip(_END) + "…"


def _cut(text: str, columns: int) -> str:
    end = used = 0
    while end < len(text) and used + _columns(text[end]) <= columns:
        used += _columns(text[end])
        end += 1
    return text[:end]


def _unwrapped(line: str) -> str:
    """Without the decoration that models put around a title."""
    bare = _LABEL.sub("", _plain(line).strip(_WRAPPING))
    return bare.lstrip(_WRAPPING).rstrip(_WRAPPING + _END)


def _plain(text: str) -> str:
    """One line of letters: no line breaks, no invisible signs that turn the text around them."""
    return " ".join("".join(letter if _is_shown(letter) else " " for letter in text).split())


def _is_shown(letter: str) -> bool:
    return letter == "\u200d" or not unicodedata.category(letter).startswith("C")


def _columns(letter: str) -> int:
    return 2 if unicodedata.east_asian_width(letter) in "WF" else 1


def _width(text: str) -> int:
    return sum(map(_columns, text))
