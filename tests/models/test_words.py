"""One tokenisation, for what is stored and what is asked."""

import time
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.words import INDEXED_CHARS, MOST_TOKENS, TOKEN_CHARS, Words, composed, tokens_of


def words(text: str) -> list[str]:
    return [token.text for token in tokens_of(composed(text))]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Hello, WORLD!", ["hello", "world"]),
        ("Straße STRASSE", ["strasse", "strasse"]),
        ("don't snake_case foo.bar C++", ["don", "t", "snake", "case", "foo", "bar", "c"]),
        ("你好吗", ["你好", "好吗"]),
        ("好", ["好"]),
        ("GPT模型4代", ["gpt", "模型", "4", "代"]),
        ("ひらがなカタカナー", ["ひら", "らが", "がな", "なカ", "カタ", "タカ", "カナ", "ナー"]),
        ("한국어", ["한국", "국어"]),
        ("ＡＢＣ１２", ["abc12"]),
        ("हिन्दी", ["हिन्दी"]),
        ("e\u0301te\u0301", ["été"]),
        ("…—!?  \n🙂", []),
        ("", []),
    ],
)
def test_words_are_these(text: str, expected: list[str]) -> None:
    assert words(text) == expected


@pytest.mark.parametrize("text", ["café", "한국어 말", "Ångström"])
def test_it_does_not_matter_how_letters_are_composed(text: str) -> None:
    """A Mac's file names come decomposed."""
    assert words(unicodedata.normalize("NFD", text)) == words(text)


def test_places_are_of_the_text() -> None:
    text = composed("Ein Straßenfest, 你好吗?")
    for token in tokens_of(text):
        assert words(text[token.start : token.end]) == [token.text]


@given(st.text(max_size=200))
def test_words_have_nothing_that_a_database_would_split_or_quote(text: str) -> None:
    """They stand bare in FTS5's and PostgreSQL's own languages."""
    for word in words(text):
        assert word
        assert all(character.isalnum() or not character.isascii() for character in word)
        assert not any(character.isspace() for character in word)
        assert len(word) <= TOKEN_CHARS


def test_single_characters_stand_behind() -> None:
    found = Words.of("你好 好")
    assert found.ordered == ("你好", "好")
    assert found.single == ("你",)
    assert found.for_sqlite() == " 你好  好  你 "
    assert found.for_postgres() == "'你好':1 '好':2 '你'"


@pytest.mark.parametrize("piece", ["a ", "数据库里搜索中文", "x" * 1_000, "\u0301", "ﷺ "])
def test_a_long_text_is_bounded(piece: str) -> None:
    """PostgreSQL takes a megabyte of words, and positions up to 16,383; the event loop waits for it."""
    begun = time.process_time()
    found = Words.of(piece * (400_000 // len(piece)))
    assert time.process_time() - begun < 0.5
    assert len(found.ordered) <= min(MOST_TOKENS, INDEXED_CHARS)
    assert len(found.for_postgres().encode()) < 900_000
