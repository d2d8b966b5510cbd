"""What users do with models: chat without a conversation, follow a run, cancel it."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

from chat.access import allowed
from chat.budget import needed, reserve
from chat.changes import tell_run
from chat.engine import Engine
from chat.events import RunEvent, RunFinished, text_of
from chat.generation import Prompt
from chat.inputs import InputLimits, clean, clean_id, clean_max_tokens, clean_model, clean_temperature
from chat.jobs import Work
from chat.keys import KeyTaken, check_key
from chat.log import RunLog
from chat.places import admit
from chat.unbroken import unbroken
from errors import BadUserInput, Conflict, NotFound, Unavailable, error_for
from models.columns import utc_now
from models.database import Database
from models.member import MemberRole
from models.run import Run, RunPurpose, RunStatus, release_key, run_by_key, runs_of
from models.usage import UNLIMITED, Limits
from providers.base import Turn
from providers.catalog import Candidate, Catalog

ASIDE_TEMPERATURE = 0.2


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
    def __init__(
        self, database: Database, engine: Engine, catalog: Catalog, limits: InputLimits, budget: Limits = UNLIMITED
    ) -> None:
        self._database = database
        self._engine = engine
        self._catalog = catalog
        self._limits = limits
        self._budget = budget

    @property
    def limits(self) -> InputLimits:
        """What a prompt has to keep to."""
        return self._limits

    def _new_run(self, user_id: str | None, requested: str, candidates: Sequence[Candidate]) -> Run:
        first = candidates[0]
        return self._engine.claim(
            Run(user_id=user_id, requested_model=requested, model=first.model.id, provider=first.provider.name)
        )

    async def chat(self, user_id: str | None, chat: StatelessChat) -> AsyncGenerator[RunEvent, None]:
        """Start a stateless run, or find the one of the same key, and follow it. Closing the generator is leaving it:
        the run is cancelled when the last follower has left. `user_id` None is a guest of the legacy socket.

        Raises:
            BadUserInput, ModelUnavailable, RateLimited, QuotaExceeded, Unavailable
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
            with suppress(KeyTaken):
                log = await unbroken(self._begin(user_id, requested, prompt, key), undo=RunLog.leave)
                return log.follow()

    async def aside(
        self, user_id: str | None, turns: tuple[Turn, ...], model: str, max_tokens: int, purpose: RunPurpose
    ) -> str:
        """What a model says to a question of ours, at the user's cost, but without taking one of the user's places.

        Raises:
            ChatError: what the run failed with, or why there is none.
        """
        prompt = Prompt(turns, ASIDE_TEMPERATURE, max_tokens)
        log = await unbroken(self._begin(user_id, model, prompt, None, purpose), undo=RunLog.leave)
        async with aclosing(log.follow()) as stream:
            events = [event async for event in stream]
        finished = events[-1]
        assert isinstance(finished, RunFinished)
        raise_failure(finished)
        return text_of(events)

    async def _begin(
        self, user_id: str | None, requested: str, prompt: Prompt, key: str | None, purpose: RunPurpose | None = None
    ) -> RunLog:
        candidates = self._catalog.candidates(requested)
        with self._engine.place(user_id if purpose is None else None) as place:
            run = self._new_run(user_id, requested, candidates)
            run.idempotency_key, run.purpose = key, purpose
            if self._budget.any:
                run.reserved_tokens, run.reserved_nanos = needed(prompt.turns, prompt.max_tokens, candidates)
            async with self._database.write() as session:
                if user_id is not None:
                    await check_key(session, user_id, key)
                if purpose is None:
                    await admit(session, self._engine.limits, user_id)
                session.add(run)
                await reserve(session, self._budget, run)
                await tell_run(session, run)
            return self._engine.launch(place, run, Work(partial(_already, prompt), candidates))

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
        """A run that the user caused, or that writes in a conversation in which the user has a part, as it is now."""
        async with self._database.read() as session:
            run = (await runs_of(session, user_id, [run_id])).get(run_id)
        if run is None:
            return None
        live = self._engine.live(run)
        if run.conversation_id is None and live.conversation_id is not None:
            # Deleted meanwhile, with all text: this process may have some of it still.
            self._engine.forget(run.id)
            return run
        return live

    async def follow(
        self, user_id: str, run_id: str, after: int | None, *, within: str | None = None
    ) -> AsyncGenerator[RunEvent, None]:
        """The log of one run behind `after`; ends behind RunFinished. The right to it is looked up once: who
        follows for long does so through Happenings. `within`: the conversation that it has to write in.

        Raises:
            NotFound: no such run.
            BadUserInput: `after` is out of range.
        """
        run = await self.own_run(user_id, run_id)
        if within is not None and run.conversation_id != within:
            raise NotFound("No such run", field="runId")
        async with aclosing(self._engine.follow(run, after)) as events:
            async for event in events:
                yield event

    async def cancel(self, user_id: str, run_id: str) -> Run:
        """Stop a run and keep what it wrote. One that has ended is returned as it is.

        Raises:
            NotFound: no such run.
            Forbidden: the user may only read its conversation.
        """
        run = await self.own_run(user_id, run_id)
        if run.conversation_id is not None:
            async with self._database.read() as session:
                await allowed(session, user_id, run.conversation_id, MemberRole.EDITOR)
        return await self._engine.cancel(run)

    async def own_run(self, user_id: str, run_id: str) -> Run:
        """
        Raises:
            NotFound: no such run.
        """
        run = await self.run(user_id, run_id)
        if run is None:
            raise NotFound("No such run", field="runId")
        return run


async def _already(prompt: Prompt) -> Prompt:
    return prompt


def raise_failure(finished: RunFinished) -> None:
    """
    Raises:
        ChatError: the run did not come to its own end.
    """
    if finished.status is RunStatus.COMPLETED:
        return
    if finished.error is not None and finished.status is not RunStatus.INTERRUPTED:
        raise error_for(finished.error.code, finished.error.message, finished.error.retry_after)
    if finished.status is RunStatus.CANCELLED:
        raise Conflict("The answer was cancelled")
    raise Unavailable("The server stopped before the answer was whole; try again", retry_after=2)
