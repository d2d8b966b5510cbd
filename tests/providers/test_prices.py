"""Prices, and the vendors' lists: what we ask is what the list's own package would."""

import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal

import pytest
from genai_prices.data import providers as vendors
from genai_prices.types import ModelInfo, Provider, Usage
from hypothesis import given
from hypothesis import strategies as st

from providers.prices import FREE, NANOS, Price, Rate, flat_price, list_price
from tests.server import ROOT

OPENAI = "https://api.openai.com/v1"
TOKENS = st.integers(0, 10**9)


def test_tokens_are_paid_by_the_million() -> None:
    price = flat_price(Decimal("2.5"), Decimal(10), Decimal("1.25"))
    assert price.cost(1_000_000, 0) == 2.5 * NANOS
    assert price.cost(0, 1_000_000) == 10 * NANOS
    assert price.cost(1_000, 10) == 2_500_000 + 100_000
    assert price.cost(1_000, 10, cached=600) == 1_000_000 + 750_000 + 100_000


def test_what_is_in_no_cache_price_costs_the_same() -> None:
    price = flat_price(Decimal(2), Decimal(8))
    assert price.cost(100, 10, cached=50, reasoning=5) == price.cost(100, 10)


@given(TOKENS, TOKENS, TOKENS, TOKENS)
def test_what_is_said_to_be_part_of_less_never_lowers_it_below_nothing(
    prompt: int, completion: int, cached: int, reasoning: int
) -> None:
    """Some servers count their cache beside the prompt."""
    price = Price(Rate(Decimal(3)), Rate(Decimal(15)), Rate(Decimal("0.3")), Rate(Decimal(5)))
    least = price.cost(prompt, completion, prompt, completion)
    assert 0 <= least <= price.cost(prompt, completion, cached, reasoning) <= price.cost(prompt, completion)


def test_the_smallest_amounts_are_rounded_to_the_nearest() -> None:
    assert flat_price(Decimal("0.0005"), Decimal(0)).cost(1, 0) == 1
    assert flat_price(Decimal("0.0004"), Decimal(0)).cost(1, 0) == 0


def test_one_s_own_machine_asks_nothing() -> None:
    assert FREE.cost(10**9, 10**9, 5, 5) == 0


def test_a_long_prompt_may_cost_more_a_token() -> None:
    rate = Rate(Decimal(3), ((200_000, Decimal(6)), (500_000, Decimal(9))))
    price = Price(rate, Rate(Decimal(15)))
    assert price.cost(200_000, 0) == NANOS * 6 // 10
    assert price.cost(200_001, 0) == 200_001 * 6_000
    assert price.cost(600_000, 0) == 600_000 * 9_000


def sold() -> Iterator[tuple[Provider, ModelInfo]]:
    for vendor in vendors:
        for model in vendor.models:
            if vendor.find_model(model.id, all_providers=list(vendors)) is model:
                yield vendor, model


@pytest.mark.parametrize("usage", [(1_000, 100, 0, 0), (900_000, 50_000, 300_000, 20_000), (7, 3, 7, 3), (0, 0, 0, 0)])
@pytest.mark.parametrize("at", [datetime(2025, 3, 1, 3, tzinfo=UTC), datetime(2027, 1, 1, 18, tzinfo=UTC)])
def test_every_model_costs_what_the_list_s_own_package_says(usage: tuple[int, ...], at: datetime) -> None:
    """Tiers, times of day and dates of change among them."""
    prompt, completion, cached, reasoning = usage
    compared = 0
    for vendor, model in sold():
        if (price := list_price(vendor.id, model.id, at)) is None:
            continue
        figures = {"input_tokens": prompt, "output_tokens": completion, "cache_read_tokens": cached}
        theirs = model.calc_price(
            Usage(**figures, output_reasoning_tokens=reasoning), vendor, genai_request_timestamp=at
        )
        expected = int((theirs.total_price * NANOS).to_integral_value(ROUND_HALF_UP))
        assert price.cost(*usage) == expected, (vendor.id, model.id)
        compared += 1
    assert compared > 1_500


def test_the_vendor_is_known_by_its_address() -> None:
    by_address = list_price(OPENAI, "gpt-4o")
    assert by_address is not None
    assert by_address == list_price("openai", "gpt-4o")
    assert by_address.cached is not None
    assert by_address.cached.dollars < by_address.prompt.dollars
    assert list_price("https://api.anthropic.com", "claude-sonnet-4-5") is not None
    assert list_price("https://generativelanguage.googleapis.com", "gemini-2.5-pro") is not None
    assert list_price("https://api.deepseek.com/v1", "deepseek-chat") is not None


def test_a_model_keeps_its_price_with_a_date_behind_its_name() -> None:
    assert list_price(OPENAI, "gpt-4o-2024-08-06") == list_price(OPENAI, "gpt-4o")


@pytest.mark.parametrize(
    ("source", "model"),
    [
        (OPENAI, "text-embedding-3-small"),
        (OPENAI, "no-such-model"),
        ("http://localhost:11434/v1", "gpt-4o"),
        ("no-such-vendor", "gpt-4o"),
        ("OpenAI-compatible", "gpt-4o"),
    ],
)
def test_what_nobody_knows_has_no_price(source: str, model: str) -> None:
    """Not even a famous name: another server that has a model so called asks what it likes."""
    assert list_price(source, model) is None


def test_a_price_is_that_of_the_moment() -> None:
    at = datetime(2025, 1, 1, tzinfo=UTC)
    prices = {list_price("openai", "o3", at + timedelta(days=30 * month)) for month in range(18)}
    assert len(prices - {None}) == 2, "o3 became cheaper in June 2025"


def test_names_that_users_make_up_fill_no_memory() -> None:
    for number in range(5_000):
        list_price(OPENAI, f"made-up-{number}")
    from providers import prices  # noqa: PLC0415

    assert prices._sold.cache_info().currsize <= 2_000


def test_the_list_is_not_read_before_it_is_asked_for() -> None:
    """0.2 s at every start, for those who use the embedded model."""
    code = "import sys, providers.prices, providers.local; assert not any('genai' in name for name in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
