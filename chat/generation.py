"""One run's work: ask the candidates in turn, write what comes to the log, and say how it ended."""

import asyncio
import logging
import time
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import partial

from chat.attempts import Attempts, RetryLimits, failure_of
from chat.events import RunFailure, RunReasoningDelta, RunStarted, RunTextDelta
from chat.inputs import storable
from chat.patience import patient
from chat.prompt import estimate_turns, trim
from chat.run import Transition, transition
from chat.tail import Tail
from chat.usage import believed, estimated, filled, priced, refused, set_usage
from errors import ContentFiltered, ErrorCode, ProviderError, ProviderTimeout
from models.columns import utc_now
from models.run import Run, RunStatus
from providers.base import (
    Chunk,
    FinishChunk,
    FinishReason,
    GenerationRequest,
    TextChunk,
    Turn,
    Usage,
    UsageChunk,
)
from providers.catalog import Candidate
from providers.prices import Price

logger = logging.getLogger(__name__)

FIGURES_SECONDS = 5.0
"""How long an answer that has its finish waits for the provider's figures."""

MOST_BLANKS = 2_000
"""White space in a row: ten lines of a drawing or a table, 200 columns wide, with nothing in them."""


@dataclass(frozen=True, slots=True)
class GenerationLimits:
    """Times in seconds, `chars` of text and reasoning together."""

    first_token: float
    next_token: float
    whole: float
    chars: int
    coalesce: float
    retry: RetryLimits


@dataclass(frozen=True, slots=True)
class Prompt:
    """What is asked, whoever answers."""

    turns: tuple[Turn, ...]
    temperature: float
    max_tokens: int


@dataclass(slots=True)
class Outcome:
    """How a run ended, before it is stored."""

    event: Transition
    finish_reason: FinishReason | None = None
    error: RunFailure | None = None


@dataclass(slots=True)
class Generation:
    """Works on `run`, the live copy of the row, and on its log. `write` may be cancelled at any point."""

    run: Run
    candidates: Sequence[Candidate]
    tail: Tail
    limits: GenerationLimits
    usage: Usage | None = None
    _sent: tuple[Turn, ...] | None = None
    _price: Price | None = None
    _room: int = field(init=False)
    _began: bool = False
    _blank: int = 0
    _reason: FinishReason | None = None
    _last_seconds: float = field(init=False)
    _begun_at: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self._room = self.limits.chars
        self._last_seconds = min(self.limits.next_token, FIGURES_SECONDS)

    async def write(self, prompt: Prompt) -> Outcome:
        """Ask until someone answers. Provider failures end in the outcome, never in an exception."""
        until = time.monotonic() + self.limits.whole
        attempts = Attempts(self.run, self.tail, self.limits.retry, until)
        try:
            async with asyncio.timeout(self.limits.whole):
                return await attempts.ask(self.candidates, partial(self._ask, prompt))
        except TimeoutError:
            message = f"The answer took longer than {self.limits.whole:g} seconds; ask for a shorter one"
            error: ProviderError = ProviderTimeout(message)
            attempts.cut_off(error)
        except ProviderError as failure:
            error = failure
        return Outcome(Transition.FAIL, error=failure_of(error))

    async def _ask(self, prompt: Prompt, candidate: Candidate) -> Outcome:
        window = candidate.model.context_window
        request = GenerationRequest(
            model=candidate.model.id,
            turns=trim(prompt.turns, window, prompt.max_tokens),
            temperature=prompt.temperature,
            max_tokens=prompt.max_tokens,
        )
        self._sent, self._price, self.usage = request.turns, candidate.model.price, None
        self._blank, self._reason = 0, None
        next_seconds = self.limits.next_token
        try:
            with patient(self.limits.first_token) as patience:
                async with aclosing(candidate.provider.stream(request)) as stream:
                    async for chunk in stream:
                        moved = self._take(chunk)
                        if self._room < 0:
                            break
                        if self._reason is not None:
                            patience.renew(self._last_seconds)
                        elif moved:
                            patience.renew(next_seconds)
        except ProviderError as error:
            # Behind its finish the answer is whole, whatever becomes of the connection.
            if self._reason is None:
                if refused(error) and self.run.time_to_first_token_ms is None:
                    self._sent = None
                raise
        reason = self._reason
        if reason is None:
            raise ProviderError("The model's provider stopped in the middle of the answer; try again")
        if reason is FinishReason.CONTENT_FILTER and self._room == self.limits.chars:
            raise ContentFiltered
        return Outcome(Transition.COMPLETE, finish_reason=reason)

    def _take(self, chunk: Chunk) -> bool:
        """Write a chunk to the log; whether there is more of the answer than before.

        Raises:
            ProviderError: it is endless white space, in which some models end up.
        """
        if isinstance(chunk, UsageChunk):
            self.usage = chunk.usage
            return False
        if not self._began:
            self._started()
        if isinstance(chunk, FinishChunk):
            self._reason = chunk.reason
            return False
        text = chunk.text
        if len(text) > self._room:
            text, self._reason = text[: self._room], FinishReason.LENGTH
        self._room -= len(chunk.text)
        self.tail.delta(RunTextDelta if isinstance(chunk, TextChunk) else RunReasoningDelta, storable(text))
        if chunk.text and not chunk.text.isspace():
            self._blank = 0
            return True
        self._blank += len(chunk.text) or 1
        if self._blank > MOST_BLANKS:
            raise ProviderError("The model went on with nothing but spaces; try again")
        return False

    def _started(self) -> None:
        run, self._began = self.run, True
        run.time_to_first_token_ms = round((time.monotonic() - self._begun_at) * 1000, 3)
        values = run.requested_model, run.model, run.provider, run.message_id
        self.tail.event(lambda run_id, seq: RunStarted(run_id, seq, *values))

    def final_usage(self) -> Usage | None:
        """The provider's figures; our estimate where it gave none that can be; None when nobody was asked, or all
        refused."""
        if self._sent is None:
            return None
        usage = believed(self.usage)
        if usage is None or not usage.prompt_tokens or not usage.completion_tokens:
            log = self.tail.log
            own = estimated(estimate_turns(self._sent), log.text, log.reasoning)
            usage = own if usage is None else filled(usage, own)
        return priced(usage, self._price)


SERVER_STOPPED = "The server that wrote this answer stopped"


def stopped(reason: Transition) -> Outcome:
    """Cancelled, or cut off by the server's own stop: then asking again may well help."""
    if reason is not Transition.INTERRUPT:
        return Outcome(reason)
    return Outcome(reason, error=RunFailure(ErrorCode.UNAVAILABLE, SERVER_STOPPED, retryable=True))


def internal_failure(run_id: str) -> Outcome:
    """For what we did not foresee; the log has the details under the run's id."""
    logger.exception("run %s failed", run_id)
    message = f"Something went wrong (request {run_id})"
    return Outcome(Transition.FAIL, error=RunFailure(ErrorCode.INTERNAL_ERROR, message, retryable=True))


def end_of(run: Run, outcome: Outcome) -> RunStatus:
    """The state that the outcome leads to; a run that ends before it was started passes through RUNNING."""
    status = RunStatus(run.status)
    if status is RunStatus.QUEUED and outcome.event is Transition.COMPLETE:
        status = transition(status, Transition.START)
    return transition(status, outcome.event)


def set_end(run: Run, generation: Generation, outcome: Outcome) -> None:
    """Write into the run what its end row will say."""
    run.status = end_of(run, outcome)
    run.finished_at = utc_now()
    run.finish_reason = outcome.finish_reason
    _set_error(run, outcome.error)
    set_usage(run, generation.final_usage())


def _set_error(run: Run, error: RunFailure | None) -> None:
    run.error_code = None if error is None else ErrorCode(error.code)
    run.error_message = None if error is None else error.message
    run.error_retryable = None if error is None else error.retryable


def set_failed(run: Run) -> None:
    """A failure of ours, without figures: something in them cannot be stored."""
    run.status = RunStatus.FAILED
    _set_error(run, internal_failure(run.id).error)
    set_usage(run, None)
