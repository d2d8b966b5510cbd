"""The port between a run and whatever writes its text: a request in; text, reasoning, usage and finish out."""

from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from providers.prices import Price


class Role(StrEnum):
    SYSTEM = "SYSTEM"
    USER = "USER"
    ASSISTANT = "ASSISTANT"


class FinishReason(StrEnum):
    STOP = "STOP"
    LENGTH = "LENGTH"
    CONTENT_FILTER = "CONTENT_FILTER"
    TOOL_CALLS = "TOOL_CALLS"


@dataclass(frozen=True, slots=True)
class Turn:
    """One message as a model sees it."""

    role: Role
    content: str


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """What is asked of a model. `max_tokens` bounds the answer; `temperature` is 0 to 2."""

    model: str
    turns: tuple[Turn, ...]
    temperature: float
    max_tokens: int


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one generation. `estimated`: the provider gave no figures and we counted. `cost_nanos` in billionths of
    a US dollar; None: nobody knows the price."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None
    estimated: bool = False
    cost_nanos: int | None = None

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True, slots=True)
class TextChunk:
    text: str


@dataclass(frozen=True, slots=True)
class ReasoningChunk:
    text: str


@dataclass(frozen=True, slots=True)
class UsageChunk:
    usage: Usage


@dataclass(frozen=True, slots=True)
class FinishChunk:
    reason: FinishReason


# A `ToolCallChunk` will join them when there are tools; until then adapters drop what a model says of calls, and its
# finish reason TOOL_CALLS is all that shows.
Chunk = TextChunk | ReasoningChunk | UsageChunk | FinishChunk


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds to wait: for a connection, for the first text (the prompt is read first), then for each next one."""

    connect: float = 10.0
    first: float = 120.0
    between: float = 60.0


def no_thoughts(_max_tokens: int) -> int:
    """Of models whose thoughts, if they have any, are part of max_tokens."""
    return 0


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A model that can be asked for. `unavailable_reason` is None when it can answer now, else one line for
    the user. `context_window` is in tokens, prompt and answer together. `price`: what it costs now, if anyone knows.
    `thoughts`: tokens that it may think, and be paid for, beside an answer of so many. These two need not be told by
    `Provider.models`, only by `find`."""

    id: str
    provider: str
    context_window: int | None
    unavailable_reason: str | None = None
    price: Price | None = None
    thoughts: Callable[[int], int] = no_thoughts


class Provider(Protocol):
    """A place where models run.

    `stream` yields chunks as they are made and raises only `errors.ProviderError`s. Closing the generator
    (`aclose`, or cancelling the task that awaits it) closes the upstream request at once. After a
    `FinishChunk` at most a `UsageChunk` follows. A stream that ends without a `FinishChunk` is a failure.
    """

    @property
    def name(self) -> str: ...

    def models(self) -> Sequence[ModelInfo]:
        """The models to show, best first."""
        ...

    def find(self, model: str) -> ModelInfo | None:
        """This model, if it runs here: shown or not."""
        ...

    def stream(self, request: GenerationRequest) -> AsyncGenerator[Chunk, None]: ...

    async def aclose(self) -> None: ...
