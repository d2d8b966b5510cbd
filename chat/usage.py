"""What a run used and what that cost: from the provider's figures, or counted by us."""

from dataclasses import replace

from chat.prompt import estimate_tokens, estimate_turns, trim
from errors import (
    ContentFiltered,
    ContextTooLong,
    ModelUnavailable,
    ProviderAuth,
    ProviderBusy,
    ProviderError,
    ProviderRateLimited,
    ProviderRefused,
)
from models.run import Run
from providers.base import Turn, Usage
from providers.catalog import Candidate
from providers.figures import told_usage
from providers.prices import NANOS, Price

REFUSALS = (
    ModelUnavailable,
    ProviderAuth,
    ProviderBusy,
    ProviderRateLimited,
    ProviderRefused,
    ContentFiltered,
    ContextTooLong,
)


MOST_NANOS = 10**6 * NANOS
"""A million dollars for one answer."""


def refused(error: ProviderError) -> bool:
    """Whether the provider did nothing, for which it asks nothing."""
    return isinstance(error, REFUSALS)


def estimate_prompt(turns: tuple[Turn, ...], max_tokens: int, candidate: Candidate) -> int:
    """Tokens that this candidate would be sent, from above."""
    return estimate_turns(trim(turns, candidate.model.context_window, max_tokens))


def estimated(prompt_tokens: int, text: str, reasoning: str | None) -> Usage:
    """Counted by us."""
    return Usage(prompt_tokens, estimate_tokens(text + (reasoning or "")), estimated=True)


def believed(usage: Usage | None) -> Usage | None:
    """The provider's figures, if they can be true."""
    if usage is None:
        return None
    figures = told_usage(usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens, usage.reasoning_tokens)
    if figures is None:
        return None
    told = usage.cost_nanos
    cost = told if type(told) is int and 0 <= told <= MOST_NANOS else None
    return replace(figures, estimated=usage.estimated, cost_nanos=cost)


def filled(usage: Usage, own: Usage) -> Usage:
    """With our own count where the provider counts nothing of what there is: some servers tell zeros beside a text."""
    prompt = usage.prompt_tokens or own.prompt_tokens
    completion = usage.completion_tokens or own.completion_tokens
    if (prompt, completion) == (usage.prompt_tokens, usage.completion_tokens):
        return usage
    return Usage(
        prompt,
        completion,
        usage.cached_tokens if usage.prompt_tokens else None,
        usage.reasoning_tokens if usage.completion_tokens else None,
        estimated=True,
        cost_nanos=usage.cost_nanos or None,
    )


def priced(usage: Usage, price: Price | None) -> Usage:
    """The same with its cost; the provider's own, if it told one."""
    if usage.cost_nanos is not None or price is None:
        return usage
    tokens = usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens or 0, usage.reasoning_tokens or 0
    return replace(usage, cost_nanos=price.cost(*tokens))


def set_usage(run: Run, usage: Usage | None) -> None:
    run.prompt_tokens = None if usage is None else usage.prompt_tokens
    run.completion_tokens = None if usage is None else usage.completion_tokens
    run.cached_tokens = None if usage is None else usage.cached_tokens
    run.reasoning_tokens = None if usage is None else usage.reasoning_tokens
    run.usage_estimated = usage is not None and usage.estimated
    run.cost_nanos = None if usage is None else usage.cost_nanos


def usage_of(run: Run) -> Usage | None:
    """None: nothing was asked of anyone."""
    if run.prompt_tokens is None or run.completion_tokens is None:
        return None
    return Usage(
        run.prompt_tokens,
        run.completion_tokens,
        run.cached_tokens,
        run.reasoning_tokens,
        run.usage_estimated,
        run.cost_nanos,
    )
