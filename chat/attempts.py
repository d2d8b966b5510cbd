"""Who is asked for an answer, and how often: each model some times, then the next, until somebody has said something.

Two answers are never glued together, so all of it happens before the first text (reasoning is text here).
"""

import logging
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from stamina import retry_context

from chat.events import RunAttemptFailed, RunFailure
from chat.inputs import storable
from chat.tail import Tail
from errors import ProviderError
from models.columns import to_millis, utc_now
from models.run import Run
from providers.catalog import Candidate

logger = logging.getLogger(__name__)

T = TypeVar("T")

FIRST_PAUSE = 0.5
PAUSE_FACTOR = 2.0
JITTER = 0.5
"""Seconds. Runs that failed together must not come back together, not even when the provider told them all when."""


@dataclass(frozen=True, slots=True)
class RetryLimits:
    """`retries`: of one model, behind its first attempt. `pause`: the longest in front of one, in seconds; a provider
    that asks for more is not asked again."""

    retries: int
    pause: float


@dataclass(slots=True)
class Attempts:
    """Asks, and records in the run and its log what failed. `until`: when the run's time is up, by time.monotonic."""

    run: Run
    tail: Tail
    limits: RetryLimits
    until: float
    _pause: bool | float = field(default=False, init=False)
    """Before the next attempt; False: there is none with this model. True: as long as is usual."""

    async def ask(self, candidates: Sequence[Candidate], one: Callable[[Candidate], Awaitable[T]]) -> T:
        """The answer of the first candidate that gives one, or begins to.

        Raises:
            ProviderError: what the last attempt failed with.
        """
        for place, candidate in enumerate(candidates):
            others = place + 1 < len(candidates)
            try:
                return await self._ask_one(candidate, one, others)
            except ProviderError as error:
                if self._answering or not others or not error.passed_on:
                    raise
        raise AssertionError("a run has at least one candidate")

    async def _ask_one(self, candidate: Candidate, one: Callable[[Candidate], Awaitable[T]], others: bool) -> T:
        retries = retry_context(
            on=lambda _: self._pause,
            attempts=self.limits.retries + 1,
            timeout=None,
            wait_initial=FIRST_PAUSE,
            wait_max=self.limits.pause,
            wait_jitter=JITTER,
            wait_exp_base=PAUSE_FACTOR,
        )
        async for attempt in retries:
            with attempt:
                self._pause = False
                self._record(candidate)
                try:
                    return await one(candidate)
                except ProviderError as error:
                    if attempt.num <= self.limits.retries:
                        self._pause = self._pause_behind(error, attempt.next_wait)
                    goes_on = self._pause is not False or (others and error.passed_on and not self._answering)
                    self._failed(error, goes_on=goes_on)
                    raise
        raise AssertionError("unreachable")

    @property
    def _answering(self) -> bool:
        return self.run.time_to_first_token_ms is not None

    def _pause_behind(self, error: ProviderError, usual: float) -> bool | float:
        if self._answering or not error.retried:
            return False
        after = usual if error.retry_after is None else error.retry_after
        if after > self.limits.pause or after >= self.until - time.monotonic():
            return False
        return True if error.retry_after is None else after + random.uniform(0, JITTER)  # noqa: S311

    def _record(self, candidate: Candidate) -> None:
        attempt: dict[str, Any] = {
            "model": candidate.model.id,
            "provider": candidate.provider.name,
            "started_at": to_millis(utc_now()),
        }
        # A new list each time: the row's JSON column sees changes by identity.
        self.run.attempts = [*self.run.attempts, attempt]
        self.run.model, self.run.provider = candidate.model.id, candidate.provider.name

    def cut_off(self, error: ProviderError) -> None:
        """The attempt under way had no time left, if there was one and not a pause."""
        if "error" not in self.run.attempts[-1]:
            self._failed(error, goes_on=False)

    def _failed(self, error: ProviderError, *, goes_on: bool) -> None:
        """Record an attempt's end. The last one's is not told: it is the run's."""
        failure = failure_of(error)
        model, provider = self.run.model, self.run.provider
        self.run.attempts[-1]["error"] = {
            "code": failure.code,
            "message": failure.message,
            "retryable": failure.retryable,
            "retry_after": failure.retry_after,
        }
        logger.warning("run %s: %s of %s: %s: %s", self.run.id, model, provider, failure.code, failure.message)
        if goes_on:
            self.tail.event(lambda run_id, seq: RunAttemptFailed(run_id, seq, model, provider, failure))


def failure_of(error: ProviderError) -> RunFailure:
    return RunFailure(error.code, storable(error.message), error.retryable, error.retry_after)
