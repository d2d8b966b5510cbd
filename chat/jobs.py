"""What the engine holds of each run that this process writes."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from chat.generation import GenerationLimits, Outcome, Prompt
from chat.log import RunLog
from chat.run import Transition
from chat.tail import Tail
from models.run import Run
from providers.catalog import Candidate


@dataclass(frozen=True, slots=True)
class EngineLimits:
    """Counts are of runs, times in seconds."""

    generation: GenerationLimits
    per_process: int
    per_user: int
    per_minute: int | None
    """Of one user."""
    queue: int
    keep: float
    chat_grace: float
    chat_key: float
    lease: float
    shutdown_grace: float
    counted: bool = True


@dataclass(frozen=True, slots=True)
class Work:
    """What a run has to do. `prompt` is asked for when its turn has come: what came before it may still be written."""

    prompt: Callable[[], Awaitable[Prompt]]
    candidates: Sequence[Candidate]
    behind: Callable[[], Awaitable[object]] | None = None
    """What must have ended before it may even ask for its turn."""


@dataclass(slots=True)
class Job:
    """A run that this process writes, or wrote a moment ago."""

    run: Run
    log: RunLog
    tail: Tail
    place: "Place"
    keep: float
    stop: Transition | None = None
    task: "asyncio.Task[Outcome] | None" = None
    alone: asyncio.TimerHandle | None = None
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def on_disk(self) -> bool:
        """Whether the log stays in the database when the run has ended. Of a stateless chat nothing does."""
        return self.keep > 0 and self.run.conversation_id is not None

    def halt_if_alone(self) -> None:
        """Nobody has come back for it."""
        if self.log.followers == 0:
            self.halt(Transition.CANCEL)

    def halt(self, reason: Transition) -> None:
        """Stop the work at once, also before it began. The first reason stays."""
        if self.stop is None and not self.ended.is_set():
            self.stop = reason
            if self.task is not None:
                self.task.cancel()


@dataclass(slots=True)
class Place:
    """A reserved place: taken before the run is stored, so that what is stored can always be worked on.
    `user_id`: who may have only so many; None: nobody."""

    user_id: str | None
    used: bool = False
