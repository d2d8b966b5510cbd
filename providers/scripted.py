"""A provider that plays a script: the fake for tests and benchmarks. The model's name is the script.

`scripted` echoes the last message word by word. `scripted:` takes steps separated by `,`:
    text=WORD       one text chunk (`_` is a space)      think=WORD   one reasoning chunk
    words=N         N chunks of text, `w0 w1 …`          every=S      wait S seconds before each chunk from here on
    wait=S          wait S seconds                       usage=P/C    figures: P prompt, C completion tokens
    fail=CODE       raise the error of this ErrorCode    cut          end without a finish     finish=REASON
A script that does not finish, fail or cut ends with STOP and counts one token a chunk.
`scripted@P/C` and `scripted@P/C:…` do the same at a price, in dollars for a million tokens of prompt and completion.
"""

import asyncio
import re
from collections.abc import AsyncGenerator, Sequence
from decimal import Decimal

from errors import (
    ContentFiltered,
    ContextTooLong,
    ModelUnavailable,
    ProviderAuth,
    ProviderError,
    ProviderRateLimited,
    ProviderTimeout,
)
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

FAILURES: dict[str, type[ProviderError]] = {
    kind.code: kind
    for kind in (
        ProviderError,
        ModelUnavailable,
        ProviderAuth,
        ProviderRateLimited,
        ProviderTimeout,
        ContentFiltered,
        ContextTooLong,
    )
}


class ScriptedProvider:
    """Any model whose name begins with `scripted` is here. `active` counts the streams that are open now."""

    name = NAME

    def __init__(self) -> None:
        self.active = 0

    def models(self) -> Sequence[ModelInfo]:
        return [ModelInfo(NAME, NAME, WINDOW)]

    def find(self, model: str) -> ModelInfo | None:
        name, _, dollars = model.partition(":")[0].partition("@")
        return ModelInfo(model, NAME, WINDOW, price=_price(dollars)) if name == NAME else None

    async def stream(self, request: GenerationRequest) -> AsyncGenerator[Chunk, None]:
        self.active += 1
        try:
            async for chunk in _play(request):
                yield chunk
        finally:
            self.active -= 1

    async def aclose(self) -> None:
        return None


def _price(dollars: str) -> Price | None:
    said = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)/([0-9]{1,9}(?:\.[0-9]{1,9})?)", dollars)
    return None if said is None else flat_price(Decimal(said[1]), Decimal(said[2]))


async def _play(request: GenerationRequest) -> AsyncGenerator[Chunk, None]:
    _, _, script = request.model.partition(":")
    if not script:
        script = ",".join(f"text={word}_" for word in request.turns[-1].content.replace(",", " ").split())
    every = 0.0
    chunks = 0
    usage: Usage | None = None
    for step in filter(None, script.split(",")):
        verb, _, value = step.partition("=")
        if verb == "every":
            every = float(value)
        elif verb == "wait":
            await asyncio.sleep(float(value))
        elif verb == "usage":
            prompt, _, completion = value.partition("/")
            usage = Usage(int(prompt), int(completion))
        elif verb == "fail":
            raise FAILURES[value]
        elif verb == "cut":
            return
        elif verb == "finish":
            yield FinishChunk(FinishReason(value))
            return
        else:
            for chunk in _chunks(verb, value):
                await asyncio.sleep(every)
                chunks += 1
                yield chunk
                if chunks >= request.max_tokens:
                    yield FinishChunk(FinishReason.LENGTH)
                    return
    yield FinishChunk(FinishReason.STOP)
    yield UsageChunk(usage or Usage(sum(len(turn.content.split()) for turn in request.turns), chunks))


def _chunks(verb: str, value: str) -> Sequence[Chunk]:
    if verb == "words":
        return [TextChunk(f"w{number} ") for number in range(int(value))]
    text = value.replace("_", " ")
    return [ReasoningChunk(text) if verb == "think" else TextChunk(text)]
