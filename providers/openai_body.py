"""The JSON that asks for an answer. Servers that speak OpenAI's protocol, and its own models, differ in what they take.

What is known of a model by its name is a first guess; what a server refuses is asked for again in another way, and
remembered when that helps.
"""

import re
from collections.abc import Set
from enum import Enum, auto

from providers.base import GenerationRequest

ROOM_FOR_THOUGHT = 4
"""Answers that a model may think before it answers. Models that choose their own temperature think, and their thoughts
count as tokens of the answer: bounded by the answer's length alone, many ended before the first word."""


class Quirk(Enum):
    OWN_TEMPERATURE = auto()
    """Refuses any temperature but its own."""
    OLD_LIMIT = auto()
    """Knows `max_tokens`, which OpenAI has replaced by `max_completion_tokens`."""
    NO_USAGE = auto()
    """Refuses `stream_options`, without which it may give no figures."""


_OWN_TEMPERATURE = re.compile(r"(o\d|gpt-5(-mini|-nano|-pro)?(-\d{4}|$)|gpt-[\d.]+-chat-latest)", re.I)
_REFUSED = {
    Quirk.OWN_TEMPERATURE: re.compile("temperature", re.I),
    Quirk.NO_USAGE: re.compile("stream_options|include_usage", re.I),
    Quirk.OLD_LIMIT: re.compile("max_tokens|max_completion_tokens", re.I),
}
MAX_WORDS = 2_000  # characters; a refusal that echoes the conversation names everything


def first_guess(model: str, *, of_openai: bool) -> frozenset[Quirk]:
    """What to expect of a model that was never asked."""
    quirks = set() if of_openai else {Quirk.OLD_LIMIT}
    if of_openai and _OWN_TEMPERATURE.match(model):
        quirks.add(Quirk.OWN_TEMPERATURE)
    return frozenset(quirks)


def another_way(words: str, tried: Set[Quirk], known: Set[Quirk], *, takes_usage: bool) -> frozenset[Quirk] | None:
    """How to ask again after a 400 or 422 with these words; None: it is not about how we asked, or all was tried.

    `known`: what was tried first. A refusal that names nothing of ours may still be about `stream_options`, the one
    thing that old servers do not know, unless this one `takes_usage`.
    """
    for quirk, pattern in _REFUSED.items():
        fresh = (quirk in tried) == (quirk in known) if quirk is Quirk.OLD_LIMIT else quirk not in tried
        if fresh and pattern.search(words[:MAX_WORDS]):
            return frozenset(tried ^ {quirk})
    if takes_usage or Quirk.NO_USAGE in tried:
        return None
    return frozenset(tried | {Quirk.NO_USAGE})


def room_for_thought(max_tokens: int) -> int:
    """Tokens beside the answer's own, of a model with Quirk.OWN_TEMPERATURE: those are the ones that think."""
    return ROOM_FOR_THOUGHT * max_tokens


def completion_body(request: GenerationRequest, quirks: Set[Quirk] = frozenset({Quirk.OLD_LIMIT})) -> dict[str, object]:
    """The JSON of a streamed request."""
    body: dict[str, object] = {
        "model": request.model,
        "messages": [{"role": turn.role.value.lower(), "content": turn.content} for turn in request.turns],
        "stream": True,
    }
    limit = request.max_tokens
    if Quirk.OWN_TEMPERATURE in quirks:
        limit += room_for_thought(limit)
    else:
        body["temperature"] = request.temperature
    body["max_tokens" if Quirk.OLD_LIMIT in quirks else "max_completion_tokens"] = limit
    if Quirk.NO_USAGE not in quirks:
        body["stream_options"] = {"include_usage": True}
    return body
