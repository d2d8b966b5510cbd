import re

import pytest

from providers.prices import context_window
from providers.vendors import ANTHROPIC, GOOGLE, OPENAI, VENDORS, Vendor
from settings import Settings


@pytest.mark.parametrize(
    ("name", "vendor"),
    [
        ("gpt-3.5-turbo", OPENAI),
        ("gpt-6.1-sol", OPENAI),
        ("o3-mini", OPENAI),
        ("chatgpt-4o-latest", OPENAI),
        ("ft:gpt-4o:me::id", OPENAI),
        ("claude-sonnet-5-5", ANTHROPIC),
        ("gemini-3.8-flash", GOOGLE),
        ("models/gemini-3.8-flash", GOOGLE),
        ("gpt-oss-20b", None),
        ("openai/gpt-4o", None),
        ("llama-3.3-70b", None),
        ("ollama", None),
        ("", None),
    ],
)
def test_a_name_has_one_vendor_or_none(name: str, vendor: Vendor | None) -> None:
    assert [each for each in VENDORS if each.has(name)] == ([vendor] if vendor else [])


@pytest.mark.parametrize("vendor", VENDORS, ids=lambda vendor: vendor.name)
def test_the_known_models_are_real_and_their_variable_is_a_setting(vendor: Vendor) -> None:
    for model in vendor.known:
        assert vendor.has(model)
        assert context_window(vendor.name, model), f"{model} is in no list of prices"
    assert vendor.variable.lower() in Settings.model_fields
    assert [model.id for model in vendor.without_key()] == list(vendor.known)
    assert all(re.search(vendor.variable, model.unavailable_reason or "") for model in vendor.without_key())
