"""Messages that ask for an answer: sent, edited, or asked again. Each is stored, starts a run, and returns at once."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial

from sqlmodel.ext.asyncio.session import AsyncSession

from chat.access import allowed
from chat.branches import append, set_head
from chat.budget import needed, reserve
from chat.changes import tell_conversation, tell_run
from chat.engine import Engine
from chat.events import RunEvent
from chat.generation import Prompt
from chat.history import Branch, read_branch
from chat.inputs import InputLimits, clean, clean_id, clean_max_tokens, clean_model, clean_temperature
from chat.jobs import Work
from chat.keys import KeyTaken, check_key
from chat.places import admit_in
from chat.unbroken import unbroken
from errors import BadUserInput, ChatError, Conflict, NotFound, RateLimited, RunActive
from models.change import ChangeKind
from models.columns import utc_now
from models.conversation import Conversation
from models.database import Database
from models.member import MemberRole
from models.message import Message, MessageStatus, message_in, messages_of, on_path
from models.run import Run, RunStatus, run_by_key, runs_writing
from models.search import index_messages
from models.usage import UNLIMITED, Limits
from providers.base import Role
from providers.catalog import Catalog

MAX_WRITING = 16
"""Answers under way in one conversation, whoever asked for them: a cursor of conversationEvents names each."""

Placing = Callable[[AsyncSession], Awaitable[tuple[Conversation, Message | None, str | None]]]
"""Finds, inside the transaction, where the new messages go: the conversation, what they stand under, and the question's
text (None: the parent is the question)."""


@dataclass(frozen=True, slots=True)
class Asking:
    """How an answer is wanted. `queue`: behind one that is under way in the branch."""

    model: str | None = None
    temperature: float | None = None
    max_tokens: int | None = None
    idempotency_key: str | None = None
    queue: bool = False


class Sendings:
    def __init__(
        self, database: Database, engine: Engine, catalog: Catalog, limits: InputLimits, budget: Limits = UNLIMITED
    ) -> None:
        self._database = database
        self._engine = engine
        self._catalog = catalog
        self._limits = limits
        self._budget = budget

    async def send(
        self, user_id: str, conversation_id: str, content: str, asking: Asking, parent_id: str | None = None
    ) -> tuple[Message, Run]:
        """A new message under the head, or under `parent_id`, which makes that branch the active one.

        Raises:
            NotFound: no such conversation, or no such parent in it.
            Forbidden: the user may only read it.
            RunActive: an answer is under way in the branch.
            BadUserInput, ModelUnavailable, RateLimited, QuotaExceeded, Unavailable
        """
        clean(content, "content", self._limits.message, least=1)

        async def place(session: AsyncSession) -> tuple[Conversation, Message | None, str | None]:
            conversation = await allowed(session, user_id, conversation_id, MemberRole.EDITOR)
            parent = await _message(
                session, conversation, conversation.head_id if parent_id is None else parent_id, "parentId"
            )
            return conversation, parent, content

        return await self._once(user_id, asking, place)

    async def edit(self, user_id: str, message_id: str, content: str, asking: Asking) -> tuple[Message, Run]:
        """A sibling of one's message with another text, and an answer to it.

        Raises:
            NotFound, Forbidden, RunActive, BadUserInput, ModelUnavailable, RateLimited, QuotaExceeded, Unavailable
        """
        clean(content, "content", self._limits.message, least=1)

        async def place(session: AsyncSession) -> tuple[Conversation, Message | None, str | None]:
            conversation, message = await self._editable(session, user_id, message_id)
            if message.role != Role.USER:
                raise BadUserInput("Only a user's message can be edited", field="messageId")
            return conversation, await _message(session, conversation, message.parent_id, "messageId"), content

        return await self._once(user_id, asking, place)

    async def regenerate(self, user_id: str, message_id: str, asking: Asking) -> Run:
        """A sibling of the answer.

        Raises:
            NotFound, Forbidden, RunActive, BadUserInput, ModelUnavailable, RateLimited, QuotaExceeded, Unavailable
        """

        async def place(session: AsyncSession) -> tuple[Conversation, Message | None, str | None]:
            conversation, message = await self._editable(session, user_id, message_id)
            if message.role != Role.ASSISTANT or message.parent_id is None:
                raise BadUserInput("Only the answer to a message can be regenerated", field="messageId")
            return conversation, await _message(session, conversation, message.parent_id, "messageId"), None

        return (await self._once(user_id, asking, place))[1]

    async def _editable(self, session: AsyncSession, user_id: str, message_id: str) -> tuple[Conversation, Message]:
        message = (await messages_of(session, user_id, [message_id])).get(message_id)
        if message is None:
            raise NotFound("No such message", field="messageId")
        return await allowed(session, user_id, message.conversation_id, MemberRole.EDITOR), message

    async def _once(self, user_id: str, asking: Asking, place: Placing) -> tuple[Message, Run]:
        """The first result of this idempotencyKey, else a new one."""
        key = clean_id(asking.idempotency_key, "idempotencyKey")
        if key is not None and (first := await self._first_result(user_id, key, place)) is not None:
            return first
        try:
            return await unbroken(self._start(user_id, asking, key, place))
        except KeyTaken:
            first = await self._first_result(user_id, key or "", place)
            assert first is not None
            return first

    async def _first_result(self, user_id: str, key: str, place: Placing) -> tuple[Message, Run] | None:
        async with self._database.read() as session:
            run = await run_by_key(session, user_id, key)
            if run is None:
                return None
            answer = (await messages_of(session, user_id, [run.message_id or ""])).get(run.message_id or "")
            parent = answer.parent_id if answer is not None and answer.parent_id is not None else ""
            question = (await messages_of(session, user_id, [parent])).get(parent)
            if question is None and run.conversation_id is not None:
                # The message was deleted, or the user was put out of the conversation.
                raise NotFound("The first result of this idempotencyKey is gone", field="idempotencyKey")
            if question is None or question.conversation_id != (await place(session))[0].id:
                # In another conversation the first result would be no answer to what is asked now.
                raise Conflict("This idempotencyKey was used for something else", field="idempotencyKey")
        return question, self._engine.live(run)

    async def _start(self, user_id: str, asking: Asking, key: str | None, place: Placing) -> tuple[Message, Run]:
        temperature, max_tokens = clean_temperature(asking.temperature), clean_max_tokens(asking.max_tokens)
        branch = await self._branch(place)
        with self._engine.place(user_id) as reserved:
            async with self._database.write() as session:
                await check_key(session, user_id, key)
                conversation, parent, content = await place(session)
                before = await self._before(session, user_id, conversation, parent, asking.queue)
                requested = clean_model(asking.model) if asking.model is not None else conversation.model
                candidates = self._catalog.candidates(requested)
                run = self._engine.claim(
                    Run(
                        user_id=user_id,
                        idempotency_key=key,
                        requested_model=requested,
                        model=candidates[0].model.id,
                        provider=candidates[0].provider.name,
                        temperature=temperature,
                        max_tokens=max_tokens,
                    )
                )
                if branch is not None:
                    turns = await branch.turns_to(session, conversation, parent, content)
                    waited = sum(clean_max_tokens(other.max_tokens) for other in before)
                    run.reserved_tokens, run.reserved_nanos = needed(turns, max_tokens, candidates, waited)
                question = await self._lay(session, conversation, parent, content, user_id, run)
            behind = partial(self._wait_for, before) if before else None
            self._engine.launch(reserved, run, Work(partial(self._prompt, run), candidates, behind))
        return question, run

    async def _branch(self, place: Placing) -> Branch | None:
        """What has to be known of the prompt before it is stored; None: nothing, since nothing is limited."""
        if not self._budget.any:
            return None
        async with self._database.read() as session:
            conversation, parent, _ = await place(session)
            return await Branch.read(session, conversation, None if parent is None else parent.id)

    async def _before(
        self, session: AsyncSession, user_id: str, conversation: Conversation, parent: Message | None, queue: bool
    ) -> Sequence[Run]:
        """The runs that write in the branch of `parent`, to wait for.

        Raises:
            RunActive: there is one, and waiting was not asked for.
            RateLimited: so many are written in the conversation already, or by the user anywhere.
        """
        runs = await admit_in(session, self._engine.limits, user_id, conversation.id)
        if len(runs) >= MAX_WRITING:
            raise RateLimited(f"At most {MAX_WRITING} answers at a time in one conversation", retry_after=2)
        before = () if parent is None else await _above(session, runs, parent.id)
        if before and not queue:
            raise RunActive
        return before

    async def _wait_for(self, runs: Sequence[Run]) -> None:
        # Each of them: the last may be cancelled while the first is still writing.
        for run in runs:
            await self._engine.wait_for_end(run)

    async def _lay(
        self,
        session: AsyncSession,
        conversation: Conversation,
        parent: Message | None,
        content: str | None,
        user_id: str,
        run: Run,
    ) -> Message:
        """The question (`content` None: `parent` is it) and the place of its answer, at the head."""
        head = None if parent is None else parent.id
        if head != conversation.head_id:
            await set_head(session, conversation, parent)
        answer = Message(
            conversation_id=conversation.id,
            depth=0,
            role=Role.ASSISTANT,
            content="",
            status=MessageStatus.STREAMING,
            author_id=None,
            model=run.model,
            run_id=run.id,
        )
        added = [answer]
        if content is not None:
            parent = Message(
                conversation_id=conversation.id, depth=0, role=Role.USER, content=content, author_id=user_id
            )
            added = [parent, answer]
        assert parent is not None
        await append(session, conversation, added)
        run.conversation_id, run.message_id = conversation.id, answer.id
        conversation.updated_at = utc_now()
        session.add(run)
        await session.flush()
        await index_messages(session, [(message.id, message.content) for message in added])
        await reserve(session, self._budget, run)
        await tell_conversation(session, conversation, ChangeKind.MESSAGE_ADDED, [message.id for message in added])
        await tell_conversation(session, conversation, ChangeKind.RUN, [run.id])
        await tell_run(session, run)
        return parent

    async def _prompt(self, run: Run) -> Prompt:
        """The branch that the run's answer stands under, read when its turn has come."""
        async with self._database.read() as session:
            conversation = await session.get(Conversation, run.conversation_id)
            answer = await session.get(Message, run.message_id)
            if conversation is None or answer is None or answer.parent_id is None:
                raise NotFound("The conversation is gone")
            turns = await read_branch(session, conversation, answer.parent_id)
        return Prompt(turns, clean_temperature(run.temperature), clean_max_tokens(run.max_tokens))

    async def restart(self, run: Run, before: list[RunEvent]) -> bool:
        """Take over a run of a dead process that had not come to a word. False: it cannot be answered here."""
        try:
            candidates = self._catalog.candidates(run.requested_model)
            async with self._database.read() as session:
                runs = await runs_writing(session, run.conversation_id or "")
                others = [other for other in runs if other.id != run.id]
                first = await _above(session, others, run.message_id or "")
            behind = partial(self._wait_for, first) if first else None
            with self._engine.place(run.user_id, again=True) as place:
                run.status, run.started_at, run.attempts = RunStatus.QUEUED, None, []
                self._engine.launch(place, run, Work(partial(self._prompt, run), candidates, behind), before)
        except ChatError:
            return False
        return True


async def _message(
    session: AsyncSession, conversation: Conversation, message_id: str | None, field: str
) -> Message | None:
    if message_id is None:
        return None
    message = await message_in(session, conversation.id, message_id)
    if message is None:
        raise NotFound("No such message", field=field)
    return message


async def _above(session: AsyncSession, runs: Sequence[Run], message_id: str) -> Sequence[Run]:
    """Of runs under way those that write above the message, or the message itself, the nearest to the root first."""
    writing = {run.message_id: run for run in runs if run.message_id is not None}
    above = await on_path(session, message_id, list(writing)) if writing else ()
    return [writing[found] for found in above]
