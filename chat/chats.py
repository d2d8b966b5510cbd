"""What users do with models: send a message in a conversation, chat without one, follow a run, cancel it."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from datetime import timedelta

from sqlmodel.ext.asyncio.session import AsyncSession

from chat.conversations import owned
from chat.engine import Engine
from chat.events import RunEvent, RunFinished, text_of
from chat.generation import Prompt
from chat.inputs import InputLimits, clean, clean_id, clean_max_tokens, clean_model, clean_temperature
from chat.log import RunLog
from chat.unbroken import unbroken
from errors import BadUserInput, Conflict, NotFound, RunActive, Unavailable, error_for
from models.columns import utc_now
from models.conversation import Conversation
from models.database import Database
from models.message import Message, MessageStatus, active_branch, messages_of
from models.run import Run, RunStatus, active_run, release_key, run_by_key, runs_of
from models.user import add_to_counters
from providers.base import Role, Turn
from providers.catalog import Candidate, Catalog

HISTORY = 400
"""Messages read back for a prompt: more than any window here holds, so that a long conversation costs no more."""


class _KeyTaken(Exception):
    """Another request with the same idempotencyKey was a moment faster."""


@dataclass(frozen=True, slots=True)
class Sending:
    """A user's message to a conversation's model."""

    conversation_id: str
    content: str
    model: str | None = None
    temperature: float | None = None
    max_tokens: int | None = None
    idempotency_key: str | None = None


@dataclass(frozen=True, slots=True)
class StatelessChat:
    """A prompt that brings its whole history; nothing of its text is stored. No model: the default one."""

    turns: Sequence[Turn]
    model: str | None = None
    temperature: float | None = None
    max_tokens: int | None = None
    idempotency_key: str | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    content: str
    tokens: int
    model: str
    run_id: str


class Chats:
    def __init__(self, database: Database, engine: Engine, catalog: Catalog, limits: InputLimits) -> None:
        self._database = database
        self._engine = engine
        self._catalog = catalog
        self._limits = limits

    @property
    def limits(self) -> InputLimits:
        """What a prompt has to keep to."""
        return self._limits

    async def send_message(self, user_id: str, sending: Sending) -> tuple[Message, Run]:
        """Store the message, start a run for its answer, return at once.

        Raises:
            NotFound: no such conversation.
            RunActive: an answer is under way in it.
            BadUserInput, ModelUnavailable, RateLimited, Unavailable
        """
        clean(sending.content, "content", self._limits.message, least=1)
        key = clean_id(sending.idempotency_key, "idempotencyKey")
        temperature, max_tokens = clean_temperature(sending.temperature), clean_max_tokens(sending.max_tokens)
        if key is not None and (first := await self._first_result(user_id, key)) is not None:
            return first
        try:
            return await unbroken(self._send(user_id, sending, key, temperature, max_tokens))
        except _KeyTaken:
            assert key is not None
            first = await self._first_result(user_id, key)
            assert first is not None
            return first

    async def _send(
        self, user_id: str, sending: Sending, key: str | None, temperature: float, max_tokens: int
    ) -> tuple[Message, Run]:
        with self._engine.place(user_id) as place:
            async with self._database.write() as session:
                await _check_key(session, user_id, key)
                conversation = await owned(session, user_id, sending.conversation_id)
                if await active_run(session, conversation.id) is not None:
                    raise RunActive
                requested = clean_model(sending.model) if sending.model is not None else conversation.model
                candidates = self._catalog.candidates(requested)
                history = await active_branch(session, conversation.id, limit=HISTORY, from_end=True)
                message, run = await self._store(session, conversation, user_id, sending.content, requested, candidates)
                run.idempotency_key = key
                turns = history_turns(conversation, [*reversed(history), message])
            self._engine.launch(place, run, Prompt(turns, temperature, max_tokens), candidates)
        return message, run

    async def _first_result(self, user_id: str, key: str) -> tuple[Message, Run] | None:
        async with self._database.read() as session:
            run = await run_by_key(session, user_id, key)
            if run is None:
                return None
            answer = (await messages_of(session, user_id, [run.message_id or ""])).get(run.message_id or "")
            parent = answer.parent_id if answer is not None and answer.parent_id is not None else ""
            question = (await messages_of(session, user_id, [parent])).get(parent)
        if question is None:
            raise Conflict("This idempotencyKey was used for something else", field="idempotencyKey")
        return question, self._engine.live(run)

    async def _store(
        self,
        session: AsyncSession,
        conversation: Conversation,
        user_id: str,
        content: str,
        requested: str,
        candidates: Sequence[Candidate],
    ) -> tuple[Message, Run]:
        question = Message(
            conversation_id=conversation.id,
            parent_id=conversation.head_id,
            depth=conversation.message_count,
            role=Role.USER,
            content=content,
            author_id=user_id,
        )
        run = self._new_run(user_id, requested, candidates)
        answer = Message(
            conversation_id=conversation.id,
            parent_id=question.id,
            depth=question.depth + 1,
            role=Role.ASSISTANT,
            content="",
            status=MessageStatus.STREAMING,
            model=run.model,
            run_id=run.id,
        )
        run.conversation_id, run.message_id = conversation.id, answer.id
        conversation.head_id = answer.id
        conversation.message_count += 2
        conversation.updated_at = utc_now()
        session.add_all([question, answer, run, conversation])
        await add_to_counters(session, user_id, messages=2)
        return question, run

    def _new_run(self, user_id: str | None, requested: str, candidates: Sequence[Candidate]) -> Run:
        first = candidates[0]
        return self._engine.claim(
            Run(user_id=user_id, requested_model=requested, model=first.model.id, provider=first.provider.name)
        )

    async def chat(self, user_id: str | None, chat: StatelessChat) -> AsyncGenerator[RunEvent, None]:
        """Start a stateless run, or find the one of the same key, and follow it. Closing the generator is leaving it:
        the run is cancelled when the last follower has left. `user_id` None is a guest of the legacy socket.

        Raises:
            BadUserInput, ModelUnavailable, RateLimited, Unavailable
        """
        turns = self._clean_turns(chat.turns)
        prompt = Prompt(turns, clean_temperature(chat.temperature), clean_max_tokens(chat.max_tokens))
        key = clean_id(chat.idempotency_key, "idempotencyKey") if user_id is not None else None
        requested = clean_model(chat.model) if chat.model is not None else self._catalog.default or ""
        async with aclosing(await self._stateless(user_id, requested, prompt, key)) as events:
            async for event in events:
                yield event

    async def _stateless(
        self, user_id: str | None, requested: str, prompt: Prompt, key: str | None
    ) -> AsyncGenerator[RunEvent, None]:
        """The events of the run of this key, or of a new one."""
        while True:
            if key is not None and user_id is not None and (run := await self._keyed_run(user_id, key)) is not None:
                return self._engine.follow(run, None)
            with suppress(_KeyTaken):
                log = await unbroken(self._begin(user_id, requested, prompt, key), undo=RunLog.leave)
                return log.follow()

    async def _begin(self, user_id: str | None, requested: str, prompt: Prompt, key: str | None) -> RunLog:
        candidates = self._catalog.candidates(requested)
        with self._engine.place(user_id) as place:
            run = self._new_run(user_id, requested, candidates)
            run.idempotency_key = key
            async with self._database.write() as session:
                if user_id is not None:
                    await _check_key(session, user_id, key)
                session.add(run)
            return self._engine.launch(place, run, prompt, candidates)

    def _clean_turns(self, turns: Sequence[Turn]) -> tuple[Turn, ...]:
        if not turns:
            raise BadUserInput("messages is empty", field="messages")
        if len(turns) > self._limits.chat_messages:
            raise BadUserInput(f"At most {self._limits.chat_messages} messages", field="messages")
        for turn in turns:
            clean(turn.content, "messages", self._limits.message)
        if not turns[-1].content.strip():
            raise BadUserInput("The last message is empty", field="messages")
        return tuple(turns)

    async def _keyed_run(self, user_id: str, key: str) -> Run | None:
        """The run that was started under this key, while it is kept; then the key is free again."""
        async with self._database.read() as session:
            run = await run_by_key(session, user_id, key)
        if run is None:
            return None
        if run.conversation_id is not None:
            raise Conflict("This idempotencyKey was used for something else", field="idempotencyKey")
        fresh = run.created_at + timedelta(seconds=self._engine.limits.chat_key) > utc_now()
        # An ended run whose text is gone, with the process that had it, can answer nobody.
        if fresh and (run.active or self._engine.log_of(run.id) is not None):
            return run
        async with self._database.write() as session:
            await release_key(session, run.id)
        return None

    async def answer(self, user_id: str | None, chat: StatelessChat) -> Answer:
        """The whole answer of a stateless run. Cancelling the caller cancels the run.

        Raises:
            ChatError: what the run failed with.
        """
        events: list[RunEvent] = []
        async with aclosing(self.chat(user_id, chat)) as stream:
            events = [event async for event in stream]
        finished = events[-1]
        assert isinstance(finished, RunFinished)
        raise_failure(finished)
        tokens = 0 if finished.usage is None else finished.usage.total_tokens
        return Answer(text_of(events), tokens, finished.model, finished.run_id)

    async def run(self, user_id: str, run_id: str) -> Run | None:
        """A run that the user caused, as it is now."""
        async with self._database.read() as session:
            run = (await runs_of(session, user_id, [run_id])).get(run_id)
        return None if run is None else self._engine.live(run)

    async def follow(self, user_id: str, run_id: str, after: int | None) -> AsyncGenerator[RunEvent, None]:
        """The log of one run behind `after`; ends behind RunFinished.

        Raises:
            NotFound: no such run.
            BadUserInput: `after` is out of range.
        """
        async with aclosing(self._engine.follow(await self._own_run(user_id, run_id), after)) as events:
            async for event in events:
                yield event

    async def cancel(self, user_id: str, run_id: str) -> Run:
        """Stop a run and keep what it wrote. One that has ended is returned as it is.

        Raises:
            NotFound: no such run.
        """
        return await self._engine.cancel(await self._own_run(user_id, run_id))

    async def _own_run(self, user_id: str, run_id: str) -> Run:
        run = await self.run(user_id, run_id)
        if run is None:
            raise NotFound("No such run", field="runId")
        return run


async def _check_key(session: AsyncSession, user_id: str, key: str | None) -> None:
    if key is not None and await run_by_key(session, user_id, key) is not None:
        raise _KeyTaken


def history_turns(conversation: Conversation, messages: Sequence[Message]) -> tuple[Turn, ...]:
    """What the model is told: the system prompt, then the branch without answers that never came to a word."""
    turns = [Turn(Role.SYSTEM, conversation.system_prompt)] if conversation.system_prompt else []
    turns += [Turn(Role(message.role), message.content) for message in messages if message.content.strip()]
    return tuple(turns)


def raise_failure(finished: RunFinished) -> None:
    """
    Raises:
        ChatError: the run did not come to its own end.
    """
    if finished.status is RunStatus.COMPLETED:
        return
    if finished.error is not None:
        raise error_for(finished.error.code, finished.error.message, finished.error.retry_after)
    if finished.status is RunStatus.CANCELLED:
        raise Conflict("The answer was cancelled")
    raise Unavailable("The server stopped before the answer was whole; try again", retry_after=2)
