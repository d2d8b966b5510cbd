"""What a model is given: the turns, trimmed to its window."""

import math
from collections.abc import Sequence

from providers.base import Role, Turn

PER_TURN = 4
"""Tokens that a chat template adds to each message."""
ANSWER_SHARE = 4
"""The answer is promised at least a quarter of the window: trimming more history for it would lose the thread."""


def estimate_tokens(text: str) -> int:
    """Tokens of a text, estimated from above: English has about 4 letters a token, other scripts fewer.

    Measured with SmolLM2's tokenizer: English prose 4.4 letters a token, code 3.1, Chinese 1.6 tokens a character.
    """
    ascii_letters = sum(character < "\x80" for character in text)
    return math.ceil(ascii_letters / 3 + (len(text) - ascii_letters) * 1.7)


def estimate_turns(turns: Sequence[Turn]) -> int:
    return sum(estimate_tokens(turn.content) + PER_TURN for turn in turns)


def trim(turns: Sequence[Turn], window: int | None, max_tokens: int) -> tuple[Turn, ...]:
    """Drop the oldest turns until the rest fits; system prompts and the newest turn always stay.

    `window` is the model's context in tokens (None: unknown, nothing is dropped). The provider says so if what
    must stay is too long on its own.
    """
    if window is None:
        return tuple(turns)
    budget = window - min(max_tokens, window // ANSWER_SHARE)
    budget -= estimate_turns([turn for turn in turns if turn.role is Role.SYSTEM])
    keep: set[int] = set()
    full = False
    for index in range(len(turns) - 1, -1, -1):
        turn = turns[index]
        if turn.role is Role.SYSTEM:
            keep.add(index)
            continue
        budget -= estimate_turns([turn])
        full = full or (budget < 0 and index != len(turns) - 1)
        if not full:
            keep.add(index)
    return tuple(turn for index, turn in enumerate(turns) if index in keep)
