"""Conversations that were exported, here or elsewhere, taken in: each whole or not at all, and each only once."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import IO, NamedTuple

import orjson
from sqlalchemy.exc import IntegrityError
from sqlmodel.ext.asyncio.session import AsyncSession

from chat.changes import tell_viewers
from chat.inputs import InputLimits
from chat.transfer import ConversationRecord, End, Item, MessageRecord, TransferError, parse_header, parse_item
from models.change import ChangeKind
from models.columns import from_millis
from models.conversation import Conversation, conversation_of
from models.database import Database
from models.erasure import close_stage, keep_stage, open_stage
from models.ids import new_id
from models.locks import hold
from models.message import Message, MessageStatus, activate
from models.run import ACTIVE, Run, RunStatus
from models.transfer import Row, add_tree, hand_over, taken_ids
from models.user import add_to_counters, user_by_id

MAX_LINE_BYTES = 32 * 1024 * 1024
"""A message of the longest answer that a server may be set to keep, twice."""
MAX_MESSAGES = 100_000
MAX_BYTES = 256 * 1024 * 1024
"""Of one conversation, which is in memory."""
AT_ONCE, BYTES_AT_ONCE = 100, 100 * 1024
"""Messages of one transaction, 40 ms: on SQLite nobody else writes meanwhile, and whoever waited for 5 s is refused."""
OURS = re.compile(r"[a-z]+_[0-9a-z]{26}")
MOMENTS = ("created_at", "started_at", "finished_at")


@dataclass
class Imported:
    added: int = 0
    known: int = 0
    messages: int = 0


@dataclass
class Draft:
    """A conversation as it is read; `line` is where it begins. `depths` has the messages that are there so far."""

    line: int
    record: ConversationRecord
    messages: list[MessageRecord] = field(default_factory=list)
    depths: dict[str, int] = field(default_factory=dict)
    chosen: set[str] = field(default_factory=set)
    bytes: int = 0

    def add(self, message: MessageRecord, size: int) -> None:
        """
        Raises:
            ValueError: it does not fit into the tree.
        """
        self.bytes += size
        if len(self.messages) >= MAX_MESSAGES or self.bytes > MAX_BYTES:
            raise ValueError(f"a conversation has at most {MAX_MESSAGES} messages and {MAX_BYTES >> 20} MiB")
        if message.id in self.depths or message.external_id in self.chosen:
            raise ValueError("message.id: there is another message of this id")
        if message.parent_id is not None and message.parent_id not in self.depths:
            raise ValueError("message.parentId: there is no such message above it")
        self.depths[message.id] = 0 if message.parent_id is None else self.depths[message.parent_id] + 1
        self.chosen |= {message.external_id} - {None}  # type: ignore[arg-type]
        self.messages.append(message)

    def active(self) -> set[str]:
        """The branch that ends in the head."""
        above = {message.id: message.parent_id for message in self.messages}
        branch, place = set(), self.record.head_id
        while place is not None:
            branch.add(place)
            place = above[place]
        return branch


async def import_conversations(
    database: Database, user_id: str, limits: InputLimits, file: IO[bytes], done: Imported | None = None
) -> Imported:
    """Give the user what the file holds. A conversation that the user has, by its id or by the id that the client
    chose, stays as it is. What was read before a damaged place stays too: the same file, mended, brings the rest.
    `done` is counted up, for whoever wants to know it also where this does not come to its end.

    Raises:
        TransferError: names the line.
        Unavailable: the database cannot be written now.
    """
    done, draft, seen, line = done or Imported(), None, End(conversations=0, messages=0), 0
    items = _items(file)
    for line, size, item in items:
        if isinstance(item, MessageRecord):
            if draft is None:
                raise TransferError(f"line {line}: a message without its conversation")
            with _at(line):
                draft.add(item, size)
            seen.messages += 1
            continue
        if draft is not None:
            await _store(database, user_id, limits, draft, done)
        if isinstance(item, End):
            if item != seen:
                had = f"{item.conversations} conversations with {item.messages} messages"
                has = f"{seen.conversations} with {seen.messages}"
                raise TransferError(f"line {line}: the file had {had}, and has {has}")
            if next(items, None) is not None:
                raise TransferError(f"line {line + 1}: there is something behind the end")
            return done
        draft = Draft(line, item)
        with _at(line):
            _check(item, limits)
        seen.conversations += 1
    raise TransferError(f"line {line + 1}: the file was cut off here; conversations before the last are complete")


@contextmanager
def _at(line: int) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise TransferError(f"line {line}: {error}") from None


def _check(record: ConversationRecord, limits: InputLimits) -> None:
    for name, value, most in (
        ("title", record.title, limits.title),
        ("systemPrompt", record.system_prompt or "", limits.system_prompt),
    ):
        if len(value) > most:
            raise ValueError(f"conversation.{name} is longer than {most} characters")


def _items(file: IO[bytes]) -> Iterator[tuple[int, int, Item]]:
    """Line, size in bytes, and what stands there."""
    for line, text in enumerate(iter(lambda: file.readline(MAX_LINE_BYTES + 1), b""), 1):
        if len(text) > MAX_LINE_BYTES:
            raise TransferError(f"line {line}: is longer than {MAX_LINE_BYTES >> 20} MiB")
        try:
            value = orjson.loads(text)
        except orjson.JSONDecodeError as error:
            raise TransferError(f"line {line}, column {error.colno}: is not JSON ({error.msg})") from None
        with _at(line):
            if line == 1:
                parse_header(value)
                continue
            item = parse_item(value)
        yield line, len(text), item


async def _store(database: Database, user_id: str, limits: InputLimits, draft: Draft, done: Imported) -> None:
    record = draft.record
    if record.head_id is not None and record.head_id not in draft.depths:
        raise TransferError(f"line {draft.line}: conversation.headId: there is no such message in it")
    if record.messages not in {None, len(draft.messages)}:
        told = f"it had {record.messages} messages, and has {len(draft.messages)}"
        raise TransferError(f"line {draft.line}: conversation.messages: {told}")
    try:
        if len(draft.messages) <= AT_ONCE and draft.bytes <= BYTES_AT_ONCE:
            added = await _store_at_once(database, user_id, limits, draft)
        else:
            added = await _store_in_portions(database, user_id, limits, draft)
    except IntegrityError:
        raise TransferError(f"line {draft.line}: somebody else stored or deleted the same meanwhile") from None
    done.added += added
    done.known += not added
    done.messages += len(draft.messages) if added else 0


async def _store_at_once(database: Database, user_id: str, limits: InputLimits, draft: Draft) -> bool:
    """False: it is there already."""
    async with database.turn(), database.write() as session:
        if not await _is_wanted(session, user_id, limits, draft):
            return False
        tree = await _tree(session, user_id, draft, user_id)
        session.add(tree.conversation)
        await session.flush()
        await add_tree(session, tree.messages, list(tree.runs.values()), user_id)
        await _count(session, user_id, tree.conversation)
    return True


async def _store_in_portions(database: Database, user_id: str, limits: InputLimits, draft: Draft) -> bool:
    """The same of a long one, which is nobody's until it is whole."""
    async with database.turn(), database.write() as session:
        if not await _is_wanted(session, user_id, limits, draft):
            return False
        stage = await open_stage(session)
        tree = await _tree(session, user_id, draft, stage)
        session.add(tree.conversation)
    for part in _portions(tree.messages):
        async with database.turn(), database.write() as session:
            await _keep(session, stage, draft)
            # Not active yet: what is, is looked for.
            rows = [row | {"active": False} for row in part]
            await add_tree(session, rows, [tree.runs[row["id"]] for row in part if row["id"] in tree.runs], user_id)
    async with database.turn(), database.write() as session:
        wanted = await _is_wanted(session, user_id, limits, draft)
        await _keep(session, stage, draft)
        conversation = await session.get(Conversation, tree.conversation.id)
        if wanted and conversation is not None:
            await activate(session, [row["id"] for row in tree.messages if row["active"]])
            await hand_over(session, conversation, user_id)
            await _count(session, user_id, conversation)
            await close_stage(session, stage)
    return wanted


async def _keep(session: AsyncSession, stage: str, draft: Draft) -> None:
    if not await keep_stage(session, stage):
        raise TransferError(f"line {draft.line}: this took too long, and what had come was erased; try again")


def _portions(rows: Sequence[Row]) -> Iterator[Sequence[Row]]:
    start = size = 0
    for place, row in enumerate(rows):
        size += len(row["content"])
        if place - start == AT_ONCE or (size > BYTES_AT_ONCE and place > start):
            yield rows[start:place]
            start, size = place, len(row["content"])
    yield rows[start:]


async def _is_wanted(session: AsyncSession, user_id: str, limits: InputLimits, draft: Draft) -> bool:
    await hold(session, f"conversations of {user_id}")
    for key in (draft.record.id, draft.record.external_id):
        if key is not None and await conversation_of(session, user_id, key) is not None:
            return False
    user = await user_by_id(session, user_id)
    if user is None or user.conversation_count >= limits.conversations:
        raise TransferError(f"line {draft.line}: the user may have {limits.conversations} conversations")
    return True


class Tree(NamedTuple):
    """What is stored; `runs` by the ids of the messages that they wrote."""

    conversation: Conversation
    messages: list[Row]
    runs: dict[str, Row]


async def _tree(session: AsyncSession, user_id: str, draft: Draft, owner_id: str) -> Tree:
    """`owner_id`: who has it at first."""
    record, active = draft.record, draft.active()
    ids = await _free(session, Message, [message.id for message in draft.messages], "msg")
    kept = await _free(session, Conversation, [record.id], "conv")
    conversation = Conversation(
        id=kept[record.id],
        owner_id=owner_id,
        # By which it is known the next time, where its id is another's.
        external_id=record.external_id or (None if kept[record.id] == record.id else record.id),
        title=record.title,
        model=record.model,
        system_prompt=record.system_prompt,
        created_at=from_millis(record.created_at),
        updated_at=from_millis(record.updated_at),
        archived=record.archived,
        pinned=record.pinned,
        message_count=len(active),
        head_id=None if record.head_id is None else ids[record.head_id],
    )
    runs = await _free(session, Run, [message.run.id for message in draft.messages if message.run], "run")
    rows = [_message(message, draft, conversation.id, user_id, ids, runs, active) for message in draft.messages]
    written = {row["id"]: _run(row, message, owner_id) for row, message in _written(rows, draft)}
    return Tree(conversation, rows, written)


async def _count(session: AsyncSession, user_id: str, conversation: Conversation) -> None:
    await add_to_counters(session, user_id, conversations=1, messages=conversation.message_count)
    await tell_viewers(session, conversation, ChangeKind.CHANGED, conversation.id)


def _written(rows: list[Row], draft: Draft) -> Iterator[tuple[Row, MessageRecord]]:
    seen = set()
    for row, message in zip(rows, draft.messages, strict=True):
        if message.run is not None and row["run_id"] not in seen:
            seen.add(row["run_id"])
            yield row, message


async def _free(
    session: AsyncSession, table: type[Message | Run | Conversation], ids: list[str], prefix: str
) -> dict[str, str]:
    """Each id as it is here: its own, if all are of ours and nobody has any. Else others in the same order, by which
    siblings stand."""
    ours = all(OURS.fullmatch(id_) and id_.startswith(f"{prefix}_") for id_ in ids)
    if ours and not await taken_ids(session, table, ids):
        return {id_: id_ for id_ in ids}
    wanted = sorted(set(ids))
    return dict(zip(wanted, sorted(new_id(prefix) for _ in wanted), strict=True))


def _message(
    message: MessageRecord,
    draft: Draft,
    conversation_id: str,
    user_id: str,
    ids: dict[str, str],
    runs: dict[str, str],
    active: set[str],
) -> Row:
    status = message.status
    return {
        "id": ids[message.id],
        "conversation_id": conversation_id,
        "external_id": message.external_id,
        "parent_id": None if message.parent_id is None else ids[message.parent_id],
        "depth": draft.depths[message.id],
        "active": message.id in active,
        "role": message.role,
        "content": message.content,
        "reasoning": message.reasoning,
        # Nobody writes it any more.
        "status": MessageStatus.INTERRUPTED if status == MessageStatus.STREAMING else status,
        "created_at": from_millis(message.created_at),
        "author_id": user_id if message.by_owner else None,
        "model": message.model,
        "run_id": None if message.run is None else runs[message.run.id],
    }


def _run(row: Row, message: MessageRecord, user_id: str) -> Row:
    """The run's usage is shown; the user's counters stay, for which it was counted where it was made."""
    assert message.run is not None
    values = message.run.model_dump()
    for name in MOMENTS:
        values[name] = None if values[name] is None else from_millis(values[name])
    place = {
        "id": row["run_id"],
        "user_id": user_id,
        "conversation_id": row["conversation_id"],
        "message_id": row["id"],
    }
    status = RunStatus.INTERRUPTED if values["status"] in ACTIVE else values["status"]
    return values | place | {"status": status, "attempts": [], "cancel_requested": False}
