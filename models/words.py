"""How a text becomes words that can be found: the same for what is stored and for what is asked, on every database.

Words are runs of letters, digits and marks, compared without case and without compatibility forms (a full-width `Ａ` is
an `a`). Chinese, Japanese and Korean are written without spaces that a program could go by: a run of their characters
becomes its bigrams, so that a word of two characters is one of them and a longer one is several side by side. Single
characters stand behind them all, so that one alone is found too.
"""

import re
import sys
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

INDEXED_CHARS = 32_000
"""Of one message: eight times the longest default answer. A longer one took the event loop for 100 ms."""
MOST_TOKENS = 16_000
"""PostgreSQL counts positions in a text up to 16,383."""
TOKEN_CHARS = 64
"""What is longer is nobody's word: keys, hashes, encoded files. Its beginning is kept."""

CJK = (
    "\u1100-\u11ff\u3005\u3007\u3041-\u3096\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff\u3105-\u312f\u3131-\u318e"
    "\u31a0-\u31bf\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\ua960-\ua97c\uac00-\ud7ff\uf900-\ufaff\uff66-\uff9f"
    "\U00020000-\U0003ffff"
)
"""Han, kana, bopomofo and Hangul."""
NOT_OF_WORDS = re.compile(r"[\x00-/:-@\[-`{-\x7f\s]+")


class Token(NamedTuple):
    """A word or a bigram, and where in the text it stands."""

    text: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Term:
    """Words that have to stand side by side; the last one may go on when `prefix`."""

    words: tuple[str, ...]
    prefix: bool = False


@cache
def _pattern() -> re.Pattern[str]:
    # Marks belong to the letter in front of them, but Python's \w has none: most of India's vowels are such.
    marks = _ranges(code for code in range(0x300, 0x20000) if unicodedata.category(chr(code))[0] == "M")
    return re.compile(f"[{CJK}]+|(?:(?![{CJK}_])[\\w{marks}])+")


def _ranges(codes: Iterator[int]) -> str:
    found: list[list[int]] = []
    for code in codes:
        if found and found[-1][1] == code - 1:
            found[-1][1] = code
        else:
            found.append([code, code])
    return "".join(f"{chr(first)}-{chr(last)}" for first, last in found)


@cache
def _is_cjk() -> re.Pattern[str]:
    return re.compile(f"[{CJK}]")


def is_cjk(text: str) -> bool:
    """Whether it begins with a character that is written without spaces."""
    return _is_cjk().match(text) is not None


def composed(text: str) -> str:
    """In the form in which tokens have their places: NFC."""
    return unicodedata.normalize("NFC", text)


def tokens_of(text: str) -> Iterator[Token]:
    """The words of a composed text in its order; a run of CJK characters as bigrams, one alone as itself."""
    for match in _pattern().finditer(text):
        start, end = match.span()
        if not is_cjk(match[0]):
            if word := _folded(match[0]):
                yield Token(word, start, end)
        elif end - start == 1:
            yield Token(sys.intern(match[0]), start, end)
        else:
            for place in range(start, end - 1):
                yield Token(text[place : place + 2], place, place + 2)


def _folded(word: str) -> str:
    word = word[: 2 * TOKEN_CHARS]
    if word.isascii():
        return word.lower()[:TOKEN_CHARS]
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", word).casefold())
    # Of a ligature or a fraction there may be something left that the databases would take for the end of a word.
    return NOT_OF_WORDS.sub("", folded)[:TOKEN_CHARS]


@dataclass(frozen=True, slots=True)
class Words:
    """What is stored of a message: its words in order, and the single characters that are in its bigrams."""

    ordered: tuple[str, ...]
    single: tuple[str, ...]

    @classmethod
    def of(cls, content: str) -> "Words":
        ordered: list[str] = []
        for token in tokens_of(composed(content[:INDEXED_CHARS])):
            ordered.append(token.text)
            if len(ordered) >= MOST_TOKENS:
                break
        known = set(ordered)
        characters = {character for word in known if len(word) == 2 and is_cjk(word) for character in word}
        return cls(tuple(ordered), tuple(sorted(characters - known)))

    def for_sqlite(self) -> str:
        """Each word between two spaces of its own, so that occurrences can be counted."""
        return "".join(f" {word} " for word in (*self.ordered, *self.single))

    def for_postgres(self) -> str:
        """As a tsvector is written."""
        placed = [f"'{word}':{place}" for place, word in enumerate(self.ordered, 1)]
        return " ".join([*placed, *(f"'{character}'" for character in self.single)])
