"""The piece of a message that a search shows, with the hits in it."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from models.words import INDEXED_CHARS, Term, Token, composed, is_cjk, tokens_of

BEFORE, LENGTH = 40, 160
"""Characters in front of the first hit, and in all: two lines of a list of results."""
MOST_HITS = 200
"""Looked at to find the place where the most different words stand together."""
SPACE = re.compile(r"\s+")


@dataclass(frozen=True, slots=True)
class Part:
    """Plain text, a hit or what stands between two."""

    text: str
    hit: bool


@dataclass(frozen=True, slots=True)
class Hit:
    start: int
    end: int
    term: int


def snippet_of(content: str, terms: Sequence[Term]) -> list[Part]:
    """Its parts in order; together they are the snippet. Where the text goes on there is a `…`; white space is one
    space."""
    text = composed(content[:INDEXED_CHARS])
    hits = sorted(islice(_hits(text, terms), MOST_HITS), key=lambda hit: (hit.start, -hit.end))
    start = max(0, _best(hits) - BEFORE)
    end = min(len(text), start + LENGTH)
    # Not in the middle of a word, where there are spaces.
    if start and (space := SPACE.search(text, start, start + BEFORE // 2)) is not None:
        start = space.end()
    parts = list(_parts(text, hits, start, end))
    front, back = "…" if text[:start].strip() else "", "…" if text[end:].strip() or len(content) > INDEXED_CHARS else ""
    return [part for part in (Part(front, False), *parts, Part(back, False)) if part.text]


def _best(hits: Sequence[Hit]) -> int:
    """Where the window begins that has the most different terms; the first of several."""
    best, most = 0, 0
    for number, hit in enumerate(hits):
        near = {other.term for other in islice(hits, number, number + 20) if other.end - hit.start <= LENGTH - BEFORE}
        if len(near) > most:
            best, most = hit.start, len(near)
    return best


def _parts(text: str, hits: Sequence[Hit], start: int, end: int) -> Iterator[Part]:
    place = start
    for hit in hits:
        first, last = max(hit.start, place), min(hit.end, end)
        if first < last:
            yield _part(text[place:first], False)
            yield _part(text[first:last], True)
            place = last
    yield _part(text[place:end], False)


def _part(text: str, hit: bool) -> Part:
    return Part(SPACE.sub(" ", text), hit)


def _hits(text: str, terms: Sequence[Term]) -> Iterator[Hit]:
    """In no order where one character is looked for; else by where they end."""
    longer = []
    for number, term in enumerate(terms):
        if len(term.words) == 1 and len(term.words[0]) == 1 and is_cjk(term.words[0]):
            for match in islice(re.finditer(term.words[0], text), MOST_HITS // len(terms)):
                yield Hit(match.start(), match.end(), number)
        else:
            longer.append((number, term))
    most = max((len(term.words) for _, term in longer), default=0)
    last: list[Token] = []
    for token in tokens_of(text) if longer else ():
        last = [*last[-most + 1 :], token] if most > 1 else [token]
        for number, term in longer:
            if _ends_with(last, term):
                yield Hit(last[-len(term.words)].start, token.end, number)


def _ends_with(tokens: Sequence[Token], term: Term) -> bool:
    if len(tokens) < len(term.words):
        return False
    *words, word = term.words
    here = tokens[-len(term.words) :]
    fits = here[-1].text.startswith(word) if term.prefix else here[-1].text == word
    return fits and all(token.text == other for token, other in zip(here[:-1], words, strict=True))
