import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chat.inputs import clean, clean_id, clean_max_tokens, clean_model, clean_temperature, is_text, storable
from errors import BadUserInput

ANYTHING = st.text(st.characters(exclude_categories=()))


def refused(call: object, *arguments: object, **named: object) -> str | None:
    with pytest.raises(BadUserInput) as caught:
        call(*arguments, **named)  # type: ignore[operator]  # any of the functions here
    return caught.value.field


@given(ANYTHING)
def test_what_is_mended_can_be_stored_and_what_is_right_stays(text: str) -> None:
    mended = storable(text)
    assert is_text(mended)
    assert len(mended) == len(text)
    if is_text(text):
        assert mended is text


@given(ANYTHING, st.integers(0, 20))
def test_clean_lets_through_text_up_to_its_limit_unchanged(text: str, limit: int) -> None:
    if len(text) <= limit and is_text(text):
        assert clean(text, "content", limit) is text
    else:
        assert refused(clean, text, "content", limit) == "content"


@pytest.mark.parametrize("text", ["", " ", "\n\t", "\u3000"])
def test_blank_is_empty_where_something_is_needed(text: str) -> None:
    assert refused(clean, text, "content", 10, least=1) == "content"
    assert refused(clean_model, text) == "model"


def test_an_id_may_be_left_out_or_blank() -> None:
    assert clean_id(None, "id") is None
    assert clean_id("  ", "id") is None
    assert clean_id("对话 1", "id") == "对话 1"
    assert refused(clean_id, "x" * 201, "id") == "id"
    assert refused(clean_id, "a\x00", "id") == "id"


@pytest.mark.parametrize("value", [-0.1, 2.1, math.nan, math.inf])
def test_a_temperature_out_of_range_is_refused(value: float) -> None:
    assert refused(clean_temperature, value) == "temperature"


@pytest.mark.parametrize("value", [0, -1, 4097])
def test_a_number_of_tokens_out_of_range_is_refused(value: int) -> None:
    assert refused(clean_max_tokens, value) == "maxTokens"


def test_defaults_and_bounds_are_the_guides() -> None:
    assert [clean_temperature(value) for value in (None, 0.0, 2.0)] == [0.7, 0.0, 2.0]
    assert [clean_max_tokens(value) for value in (None, 1, 4096)] == [2048, 1, 4096]
