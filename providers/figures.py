"""A provider's own figures of an answer, checked: they are summed and billed, and some servers tell nonsense."""

from typing import TypeGuard

from providers.base import Usage

MOST_TOKENS = 100_000_000
"""Of one answer: ten times the largest context window there is."""


def told_usage(prompt: object, completion: object, cached: object = None, reasoning: object = None) -> Usage | None:
    """The figures as usage; None, so that we count ourselves, if the two that matter are not counts.

    A detail that is no count, or more than what it is part of, is dropped alone.
    """
    if not _is_count(prompt) or not _is_count(completion):
        return None
    return Usage(prompt, completion, _part(cached, prompt), _part(reasoning, completion))


def total(*figures: object) -> int | None:
    """The sum of what a provider counts apart; None among others is nothing, and what is no count makes no sum."""
    told = [figure for figure in figures if figure is not None]
    counts = [figure for figure in told if _is_count(figure)]
    return sum(counts) if told and len(counts) == len(told) else None


def _is_count(value: object) -> TypeGuard[int]:
    return type(value) is int and 0 <= value <= MOST_TOKENS


def _part(value: object, whole: int) -> int | None:
    return value if _is_count(value) and value <= whole else None
