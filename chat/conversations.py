"""What users do with their conversations. Whatever takes an id takes the user, and what is not theirs is not found."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import Enum

from sqlmodel.ext.asyncio.session import AsyncSession

from chat.access import allowed
from chat.branches import set_head
from chat.changes import tell_changed, tell_conversation, tell_viewers
from chat.drafts import (
    DEFAULT_TITLE,
    ConversationDraft,
    check_draft,
    check_system_prompt,
    check_title,
    lay_branch,
    same_as_stored,
)
from chat.engine import Engine
from chat.inputs import InputLimits, clean_filter, clean_id, clean_model
from errors import BadUserInput, Conflict, NotFound
from models.branch import BranchRow, add_branch_rows, branch_rows, move_branch_rows, place_of
from models.change import ChangeKind
from models.columns import utc_now
from models.conversation import (
    Conversation,
    ConversationFilter,
    Position,
    Span,
    conversation_of,
    list_conversations,
)
from models.database import Database
from models.erasure import discard_messages, erase_conversation, set_aside
from models.locks import hold
from models.member import MemberRole, readable_conversation, remove_members, shared_conversations
from models.message import (
    Message,
    active_branch,
    ids_below,
    message_in,
    messages_of,
    newest_leaf_beside,
)
from models.run import active_run, runs_writing
from models.user import add_to_counters, user_by_id
from providers.catalog import Catalog


class Unset(Enum):
    """Absent from an update, as distinct from null."""

    UNSET = 0


UNSET = Unset.UNSET


@dataclass(frozen=True, slots=True)
class ConversationChanges:
    """UNSET leaves a value; `system_prompt` None clears it."""

    title: str | Unset = UNSET
    model: str | Unset = UNSET
    system_prompt: str | Unset | None = UNSET
    archived: bool | Unset = UNSET
    pinned: bool | Unset = UNSET
    head_id: str | Unset = UNSET


class Conversations:
    """`on_set_aside` is called with the stage under which the rest of something that was deleted is to be erased."""

    def __init__(self, database: Database, engine: Engine, catalog: Catalog, limits: InputLimits) -> None:
        self._database = database
        self._engine = engine
        self._catalog = catalog
        self._limits = limits
        self.on_set_aside: Callable[[str], object] | None = None

    async def find(self, user_id: str, key: str) -> Conversation | None:
        """One in which the user has a part: by our id, else by the id that the user's client chose."""
        async with self._database.read() as session:
            return await readable_conversation(session, user_id, key)

    async def get(self, user_id: str, key: str) -> tuple[Conversation, Sequence[Message]]:
        """A conversation with its active branch.

        Raises:
            NotFound: the user has none of this id.
        """
        async with self._database.read() as session:
            conversation = await owned(session, user_id, key)
            return conversation, await active_branch(session, conversation.id)

    async def page(
        self,
        user_id: str,
        *,
        limit: int,
        older_than: Position | None = None,
        newer_than: Position | None = None,
        from_oldest: bool = False,
        only: ConversationFilter | None = None,
    ) -> Sequence[Conversation]:
        """One page without messages; see `list_conversations`.

        Raises:
            BadUserInput: names the filter's field.
        """
        only = clean_filter(only or ConversationFilter(), self._limits)
        span = Span(older_than, newer_than, from_oldest, limit)
        async with self._database.read() as session:
            owned_rows = await list_conversations(session, user_id, only=only, span=span)
            return span.merge(owned_rows, await shared_conversations(session, user_id, only=only, span=span))

    async def create(self, user_id: str, draft: ConversationDraft) -> tuple[Conversation, Sequence[BranchRow]]:
        """Store a new conversation, messages included. The same draft under the same id again returns the stored one.

        Raises:
            BadUserInput: names the field.
            Conflict: the user has another conversation of this id.
        """
        check_draft(draft, self._limits)
        async with self._database.write() as session:
            key = clean_id(draft.external_id, "id")
            # One after the other: two of the same id are one, and their number has a bound.
            await hold(session, f"conversations of {user_id}")
            if key is not None and (stored := await conversation_of(session, user_id, key)) is not None:
                messages = await branch_rows(session, stored.id, active=True)
                if same_as_stored(draft, stored, messages, self._default_model()):
                    return stored, messages
                raise Conflict(f"You have another conversation with the id {key!r}", field="id")
            await self._check_count(session, user_id)
            now = utc_now()
            conversation = Conversation(
                owner_id=user_id,
                external_id=key,
                title=draft.title or DEFAULT_TITLE,
                model=draft.model or self._default_model(),
                system_prompt=draft.system_prompt,
                created_at=draft.created_at or now,
                updated_at=draft.updated_at or draft.created_at or now,
            )
            branch = await lay_branch(conversation, draft.messages, {}, user_id)
            session.add(conversation)
            await session.flush()
            await add_branch_rows(session, branch)
            await add_to_counters(session, user_id, conversations=1, messages=len(branch))
            await tell_viewers(session, conversation, ChangeKind.CHANGED, conversation.id)
        return conversation, branch

    def _default_model(self) -> str:
        return self._catalog.default or "gpt-3.5-turbo"

    async def _check_count(self, session: AsyncSession, user_id: str) -> None:
        user = await user_by_id(session, user_id)
        if user is None or user.conversation_count >= self._limits.conversations:
            raise BadUserInput(f"At most {self._limits.conversations} conversations")

    async def replace(
        self,
        user_id: str,
        key: str,
        draft: ConversationDraft,
        expected_version: int | None = None,
        *,
        owned_only: bool = False,
    ) -> tuple[Conversation, Sequence[BranchRow]]:
        """Make the conversation what the draft says, messages included, as one branch.

        A message whose id, role and content are unchanged keeps its identity, run and usage; all others go, with
        their branches. An active run is cancelled. Times that the draft does not give stay as they are.
        `owned_only`: for a transport to which what others share with the user does not exist.

        Raises:
            NotFound: the user has none of this id.
            Forbidden: the user does not own it.
            Conflict: it is not at `expected_version`.
        """
        check_draft(draft, self._limits)
        async with self._stopped(user_id, key, expected_version, owned_only) as (session, conversation):
            rows = await branch_rows(session, conversation.id)
            known = {row.id: row for row in rows} | {row.external_id: row for row in rows if row.external_id}
            before, places = conversation.message_count, {row.id: place_of(row) for row in rows}
            branch = await lay_branch(conversation, draft.messages, known, user_id)
            kept = {row.id for row in branch}
            gone = [row.id for row in rows if row.id not in kept]
            added = [row for row in branch if row.id not in places]
            stage = await discard_messages(session, conversation.id, gone)
            await add_branch_rows(session, added)
            await move_branch_rows(
                session, [row for row in branch if places.get(row.id, place_of(row)) != place_of(row)]
            )
            conversation.title = draft.title or DEFAULT_TITLE
            conversation.model = draft.model or conversation.model
            conversation.system_prompt = draft.system_prompt
            conversation.created_at = draft.created_at or conversation.created_at
            conversation.updated_at = draft.updated_at or utc_now()
            conversation.version += 1
            await add_to_counters(session, user_id, messages=len(branch) - before)
            await tell_conversation(session, conversation, ChangeKind.MESSAGE_REMOVED, gone)
            await tell_conversation(session, conversation, ChangeKind.MESSAGE_ADDED, [row.id for row in added])
            await tell_changed(session, conversation)
        self._set_aside(stage)
        return conversation, branch

    async def update(
        self, user_id: str, key: str, changes: ConversationChanges, expected_version: int | None = None
    ) -> Conversation:
        """
        Raises:
            NotFound: the user has none of this id, or there is no such message in it.
            Forbidden: the user may only read it.
            Conflict: it is not at `expected_version`.
            BadUserInput: names the field.
        """
        if not isinstance(changes.title, Unset):
            check_title(changes.title, self._limits)
        if not isinstance(changes.model, Unset):
            clean_model(changes.model)
        if not isinstance(changes.system_prompt, Unset):
            check_system_prompt(changes.system_prompt, self._limits)
        async with self._database.write() as session:
            conversation = await allowed(session, user_id, key, MemberRole.EDITOR)
            _check_version(conversation, expected_version)
            if not isinstance(changes.head_id, Unset):
                await _move_head(session, conversation, changes.head_id)
            for name in ("title", "model", "system_prompt", "archived", "pinned"):
                value = getattr(changes, name)
                if value is not UNSET:
                    setattr(conversation, name, value)
            conversation.updated_at = utc_now()
            conversation.version += 1
            session.add(conversation)
            await tell_changed(session, conversation)
        return conversation

    async def delete(self, user_id: str, key: str, *, owned_only: bool = False) -> str:
        """Delete a conversation with its messages; an active run is cancelled. Returns its own id. It is gone for
        everyone at once; what is left of a big one is erased behind this. `owned_only`: see `replace`.

        Raises:
            NotFound: the user has none of this id.
            Forbidden: the user does not own it.
        """
        async with self._stopped(user_id, key, None, owned_only) as (session, conversation):
            stage = None if await _take_away(session, conversation) else await set_aside(session, conversation)
            await add_to_counters(session, user_id, conversations=-1, messages=-conversation.message_count)
        self._set_aside(stage)
        return conversation.id

    async def close(self, user_id: str, conversation_id: str) -> bool:
        """Delete a conversation of a user who is being erased, as far as one transaction may. False: only the owner has
        a part in it any more, and `erase_conversation` is to go on.

        Raises:
            NotFound: the user has none of this id.
        """
        async with self._stopped(user_id, conversation_id, None, True) as (session, conversation):
            return await _take_away(session, conversation)

    async def delete_message(self, user_id: str, message_id: str) -> Conversation:
        """Delete a message with the branches below it; answers that are being written there are cancelled. Where it
        stood on the active branch, the one beside it that was last written in becomes active, else the branch ends
        above it.

        Raises:
            NotFound: the user can see no such message.
            Forbidden: the user does not own the conversation.
        """
        while True:
            async with self._database.write() as session:
                message = (await messages_of(session, user_id, [message_id])).get(message_id)
                if message is None:
                    raise NotFound("No such message", field="id")
                conversation = await allowed(session, user_id, message.conversation_id, MemberRole.OWNER)
                gone = await ids_below(session, message.id)
                writing = await runs_writing(session, conversation.id)
                run = next((run for run in writing if run.message_id in set(gone)), None)
                if run is None:
                    stage = await _cut_off(session, conversation, message, gone)
            if run is None:
                self._set_aside(stage)
                return conversation
            # Outside the transaction: the run's own end has to be written before its message is gone.
            await self._engine.cancel(run)

    def _set_aside(self, stage: str | None) -> None:
        if stage is not None and self.on_set_aside is not None:
            self.on_set_aside(stage)

    @asynccontextmanager
    async def _stopped(
        self, user_id: str, key: str, expected_version: int | None, owned_only: bool
    ) -> AsyncIterator[tuple[AsyncSession, Conversation]]:
        """A transaction on a conversation that no run is writing to."""
        while True:
            async with self._database.write() as session:
                if owned_only:
                    conversation = await owned(session, user_id, key)
                else:
                    conversation = await allowed(session, user_id, key, MemberRole.OWNER)
                _check_version(conversation, expected_version)
                run = await active_run(session, conversation.id)
                if run is None:
                    yield session, conversation
                    return
            # Outside the transaction: the run's own end has to be written before it is gone.
            await self._engine.cancel(run)


async def owned(session: AsyncSession, user_id: str, key: str) -> Conversation:
    conversation = await conversation_of(session, user_id, key)
    if conversation is None:
        raise NotFound("对话不存在")
    return conversation


async def _take_away(session: AsyncSession, conversation: Conversation) -> bool:
    """Everyone is told, and nobody has a part in it any more but the owner. False: something of it is left."""
    await tell_conversation(session, conversation, ChangeKind.DELETED, [conversation.id])
    await tell_viewers(session, conversation, ChangeKind.DELETED, conversation.id)
    await remove_members(session, conversation.id)
    return await erase_conversation(session, conversation.id)


async def _move_head(session: AsyncSession, conversation: Conversation, message_id: str) -> None:
    message = await message_in(session, conversation.id, message_id)
    if message is None:
        raise NotFound("No such message", field="headMessageId")
    await set_head(session, conversation, message)


async def _cut_off(
    session: AsyncSession, conversation: Conversation, message: Message, gone: Sequence[str]
) -> str | None:
    """The stage under which what is gone is to be erased, if it is much."""
    # First: what goes need not be marked as on no active branch any more.
    stage = await discard_messages(session, conversation.id, gone)
    if message.active:
        head = await newest_leaf_beside(session, message)
        if head is None and message.parent_id is not None:
            head = await message_in(session, conversation.id, message.parent_id)
        await set_head(session, conversation, head)
    conversation.updated_at = utc_now()
    conversation.version += 1
    session.add(conversation)
    await tell_conversation(session, conversation, ChangeKind.MESSAGE_REMOVED, gone)
    await tell_changed(session, conversation)
    return stage


def _check_version(conversation: Conversation, expected: int | None) -> None:
    if expected is not None and conversation.version != expected:
        raise Conflict(f"The conversation is at version {conversation.version}", field="expectedVersion")
