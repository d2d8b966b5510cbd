"""What a model's tokens cost: a price, and the vendors' list prices, which come with a package and need no network."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import ROUND_HALF_UP, Decimal
from functools import cache, lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from genai_prices import types

NANOS = 10**9
"""Money is kept as whole billionths of a US dollar: sums are exact, and a token at $0.01 a million is ten of them."""
NANOS_A_TOKEN = Decimal(NANOS) / 10**6
"""At a dollar for a million tokens."""


@dataclass(frozen=True, slots=True)
class Rate:
    """US dollars for a million tokens. `above`: other rates, of all the tokens of a request whose prompt is longer
    than so many tokens; rising."""

    dollars: Decimal
    above: tuple[tuple[int, Decimal], ...] = ()

    def nanos(self, tokens: int, prompt_tokens: int) -> Decimal:
        dollars = self.dollars
        for start, higher in self.above:
            if prompt_tokens > start:
                dollars = higher
        return dollars * tokens * NANOS_A_TOKEN


@dataclass(frozen=True, slots=True)
class Price:
    """`cached`: of prompt tokens that the provider had in its cache; `reasoning`: of completion tokens that were
    thought and not said. None: they cost what the others cost. `request`: dollars for each request."""

    prompt: Rate
    completion: Rate
    cached: Rate | None = None
    reasoning: Rate | None = None
    request: Decimal = Decimal(0)

    def cost(self, prompt: int, completion: int, cached: int = 0, reasoning: int = 0) -> int:
        """Billionths of a dollar for these tokens. `cached` are among the prompt's, `reasoning` among the
        completion's."""
        cached, reasoning = min(cached, prompt), min(reasoning, completion)
        parts = (
            self.prompt.nanos(prompt - cached, prompt),
            (self.cached or self.prompt).nanos(cached, prompt),
            self.completion.nanos(completion - reasoning, prompt),
            (self.reasoning or self.completion).nanos(reasoning, prompt),
            self.request * NANOS,
        )
        return int(sum(parts, Decimal(0)).to_integral_value(ROUND_HALF_UP))


def flat_price(prompt: Decimal, completion: Decimal, cached: Decimal | None = None) -> Price:
    """The same whatever the length of the prompt; in US dollars for a million tokens."""
    return Price(Rate(prompt), Rate(completion), None if cached is None else Rate(cached))


FREE = flat_price(Decimal(0), Decimal(0))
"""Of what runs on one's own machine."""


def list_price(source: str, model: str, at: datetime | None = None) -> Price | None:
    """What the vendor asks for this model at this moment (now); None: not known, or not sold by the token.

    `source` is the address of the vendor's API (`https://api.openai.com/v1`), or the vendor's id in genai-prices.
    """
    sold = _sold(source, model)
    return None if sold is None else _price(sold.get_prices(at or datetime.now(UTC)))


def context_window(source: str, model: str) -> int | None:
    """Tokens of prompt and answer together, as the same list tells them."""
    sold = _sold(source, model)
    return None if sold is None else sold.context_window


def load_list_prices() -> None:
    """Read the list now: 0.2 s and 12 MB, which would otherwise hold up the first question."""
    _vendors()


@cache
def _vendors() -> "Sequence[types.Provider]":
    from genai_prices.data import providers  # noqa: PLC0415  0.2 s and 12 MB, only where something is paid for

    return providers


@lru_cache(maxsize=64)
def _vendor(source: str) -> "types.Provider | None":
    if "://" in source:
        return next((vendor for vendor in _vendors() if re.match(vendor.api_pattern, source)), None)
    return next((vendor for vendor in _vendors() if vendor.id == source), None)


# The package's own look-up keeps every name that was ever asked for; ours come from users.
@lru_cache(maxsize=2_000)
def _sold(source: str, model: str) -> "types.ModelInfo | None":
    vendor = _vendor(source)
    return None if vendor is None else vendor.find_model(model, all_providers=list(_vendors()))


def _price(listed: "types.ModelPrice") -> Price | None:
    prompt, completion = _rate(listed.input_mtok), _rate(listed.output_mtok)
    if prompt is None or completion is None:
        return None
    request = listed.requests_kcount
    return Price(
        prompt,
        completion,
        _rate(listed.cache_read_mtok),
        _rate(listed.output_reasoning_mtok),
        request / 1000 if isinstance(request, Decimal) else Decimal(0),
    )


def _rate(listed: "Decimal | types.TieredPrices | None") -> Rate | None:
    if listed is None:
        return None
    if isinstance(listed, Decimal):
        return Rate(listed)
    return Rate(listed.base, tuple((tier.start, tier.price) for tier in listed.tiers))
