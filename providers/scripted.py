"""A provider that plays a script: the fake for tests and benchmarks. The model's name is the script.

`scripted` echoes the last message word by word. `scripted:` takes steps separated by `,`:
    text=WORD       one text chunk (`_` is a space)      think=WORD   one reasoning chunk
    words=N         N chunks of text, `w0 w1 …`          blanks=N     N chunks of one space
    every=S         wait S seconds before each chunk from here on
    wait=S          wait S seconds                       stall        wait for ever
    usage=P/C       figures: P prompt, C completion tokens, whatever they are
    fail=CODE       raise the error of this ErrorCode; fail=CODE/S: the provider asks for S seconds
    flaky=N/CODE    raise it only the first N times that this script is played
    cut             end without a finish                 crash        raise what nobody foresees
    finish=REASON   end so, without figures
A script that does not finish, fail or cut ends with STOP and counts one token a chunk. One that says anything else is a
model that does not exist.
`scripted@P/C` and `scripted@P/C:…` do the same at a price, in dollars for a million tokens of prompt and completion.
"""

import asyncio
import math
import re
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from decimal import Decimal
from functools import lru_cache, partial
from typing import Any

from errors import BY_CODE, ModelUnknown, ProviderError
from providers.base import (
    Chunk,
    FinishChunk,
    FinishReason,
    GenerationRequest,
    ModelInfo,
    ReasoningChunk,
    TextChunk,
    Usage,
    UsageChunk,
)
from providers.prices import Price, flat_price

NAME = "scripted"
WINDOW = 8192
LONGEST_WAIT = 86_400.0
"""Seconds, as in the settings."""
MOST = 10**9
"""Chunks of one step; they are made one by one."""
REMEMBERED = 1_000
"""Flaky scripts whose plays are counted."""

FAILURES: dict[str, type[ProviderError]] = {
    code: kind for code, kind in BY_CODE.items() if issubclass(kind, ProviderError)
}

Fail = Callable[[], ProviderError]


class ScriptedProvider:
    """Any model whose name begins with `scripted` is here. `active` counts the streams that are open now."""

    name = NAME

    def __init__(self) -> None:
        self.active = 0
        self._played: OrderedDict[str, int] = OrderedDict()

    def models(self) -> Sequence[ModelInfo]:
        return [ModelInfo(NAME, NAME, WINDOW)]

    def find(self, model: str) -> ModelInfo | None:
        name, _, dollars = model.partition(":")[0].partition("@")
        return ModelInfo(model, NAME, WINDOW, price=_price(dollars)) if name == NAME else None

    async def stream(self, request: GenerationRequest) -> AsyncGenerator[Chunk, None]:
        self.active += 1
        try:
            async for chunk in self._play(request):
                yield chunk
        finally:
            self.active -= 1

    async def aclose(self) -> None:
        return None

    async def _play(self, request: GenerationRequest) -> AsyncGenerator[Chunk, None]:
        every = 0.0
        chunks = 0
        usage: Usage | None = None
        for verb, value in _steps(request):
            match verb:
                case "every":
                    every = value
                case "wait" | "stall":
                    await asyncio.sleep(value)
                case "usage":
                    usage = value
                case "fail":
                    raise value()
                case "flaky":
                    self._fail_at_first(request.model, *value)
                case "finish":
                    yield FinishChunk(value)
                    return
                case "cut":
                    return
                case _:
                    for chunk in _chunks(verb, value):
                        await asyncio.sleep(every)
                        chunks += 1
                        yield chunk
                        if chunks >= request.max_tokens:
                            yield FinishChunk(FinishReason.LENGTH)
                            return
        yield FinishChunk(FinishReason.STOP)
        yield UsageChunk(usage or Usage(sum(len(turn.content.split()) for turn in request.turns), chunks))

    def _fail_at_first(self, model: str, times: int, failure: Fail) -> None:
        played = self._played.pop(model, 0)
        self._played[model] = played + 1
        if len(self._played) > REMEMBERED:
            self._played.popitem(last=False)
        if played < times:
            raise failure()


def _price(dollars: str) -> Price | None:
    said = re.fullmatch(r"([0-9]{1,6}(?:\.[0-9]{1,9})?)/([0-9]{1,6}(?:\.[0-9]{1,9})?)", dollars)
    return None if said is None else flat_price(Decimal(said[1]), Decimal(said[2]))


def _steps(request: GenerationRequest) -> Sequence[tuple[str, Any]]:
    _, _, script = request.model.partition(":")
    if script:
        return _parse(script)
    return [("text", f"{word} ") for word in request.turns[-1].content.replace(",", " ").split()]


@lru_cache(maxsize=64)
def _parse(script: str) -> Sequence[tuple[str, Any]]:
    """
    Raises:
        ModelUnknown: names the step that says nothing.
    """
    steps = []
    for step in filter(None, script.split(",")):
        verb, _, value = step.partition("=")
        try:
            steps.append((verb, _VERBS[verb](value)))
        except (KeyError, ValueError, OverflowError):
            raise ModelUnknown(f"No script says {step[:100]!r}") from None
    return steps


def _chunks(verb: str, value: Any) -> Iterator[Chunk]:
    match verb:
        case "words":
            yield from (TextChunk(f"w{number} ") for number in range(value))
        case "blanks":
            yield from (TextChunk(" ") for _ in range(value))
        case "think":
            yield ReasoningChunk(value)
        case "text":
            yield TextChunk(value)
        case _:
            raise RuntimeError("The script says so")


def _spaced(value: str) -> str:
    return value.replace("_", " ")


def _count(value: str) -> int:
    if not 0 <= (count := int(value)) <= MOST:
        raise ValueError
    return count


def _seconds(value: str) -> float:
    if not 0 <= (seconds := float(value)) <= LONGEST_WAIT:
        raise ValueError
    return seconds


def _nothing(value: str) -> None:
    if value:
        raise ValueError


def _usage(value: str) -> Usage:
    prompt, _, completion = value.partition("/")
    return Usage(int(prompt), int(completion))


def _failure(value: str) -> Fail:
    code, _, seconds = value.partition("/")
    return partial(FAILURES[code], retry_after=_seconds(seconds) if seconds else None)


def _flaky(value: str) -> tuple[int, Fail]:
    times, _, failure = value.partition("/")
    return _count(times), _failure(failure)


def _for_ever(value: str) -> float:
    _nothing(value)
    return math.inf


_VERBS: Mapping[str, Callable[[str], Any]] = {
    "text": _spaced,
    "think": _spaced,
    "words": _count,
    "blanks": _count,
    "every": _seconds,
    "wait": _seconds,
    "stall": _for_ever,
    "usage": _usage,
    "fail": _failure,
    "flaky": _flaky,
    "cut": _nothing,
    "crash": _nothing,
    "finish": FinishReason,
}
