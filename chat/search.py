"""Messages found by their words, as far as the user may read them."""

import asyncio
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from chat.inputs import clean
from chat.snippet import Part, snippet_of
from errors import BadUserInput
from models.conversation import Conversation
from models.database import Database
from models.member import readable_conversations
from models.message import Message, messages_of
from models.search import search_messages
from models.words import Term, composed, is_cjk, tokens_of

MAX_QUERY_CHARS = 500
MAX_TERMS = 16
MAX_WORDS = 100
"""Of a query, of all its terms: more are no question, and each is one more list to go through."""
MIN_PREFIX = 2
"""Letters of a word that is taken for the beginning of one: a single letter begins every text."""

QUOTES = '"“”„«»「」『』'
PIECE = re.compile(f"[{QUOTES}](?P<phrase>[^{QUOTES}]*)(?:[{QUOTES}]|$)|(?P<word>[^\\s{QUOTES}]+)")


@dataclass(frozen=True, slots=True)
class Hit:
    """`place` is where it stands in the list, the highest first."""

    message: Message
    conversation: Conversation
    parts: list[Part]
    place: tuple[int, int]


def parse_query(query: str) -> list[Term]:
    """All of its terms have to be there: words, and phrases in quotes. The last word may be the beginning of one, as
    others are behind which a `*` stands. Nothing else in it means anything. Empty: there is no word in it.

    Raises:
        BadUserInput: it is empty or too long, or has characters that are no text.
    """
    clean(query, "query", MAX_QUERY_CHARS, least=1)
    text = composed(query)
    terms = list(dict.fromkeys(_terms(text)))
    if len(terms) > MAX_TERMS or sum(len(term.words) for term in terms) > MAX_WORDS:
        raise BadUserInput(f"query has more than {MAX_TERMS} terms", field="query")
    return terms


def _terms(text: str) -> Iterator[Term]:
    for match in PIECE.finditer(text):
        word = match["word"]
        if word is None:
            yield from _of(match["phrase"], prefix=False)
        else:
            yield from _of(word, prefix=word.endswith("*") or match.end() == len(text))


def _of(text: str, *, prefix: bool) -> Iterator[Term]:
    """What is written together stands together. Single characters at its ends are terms of their own: in the message
    they may be half of a bigram."""
    tokens = list(tokens_of(text))
    words = [token.text for token in tokens]
    while words and _is_single(words[0]):
        yield Term((words.pop(0),))
    behind = []
    while words and _is_single(words[-1]):
        behind.append(Term((words.pop(),)))
        prefix = False
    if words:
        goes_on = prefix and not is_cjk(words[-1]) and len(words[-1]) >= MIN_PREFIX
        yield Term(tuple(words), goes_on)
    yield from reversed(behind)


def _is_single(word: str) -> bool:
    return len(word) == 1 and is_cjk(word)


class Searches:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def messages(
        self, user_id: str, query: str, *, limit: int, after: tuple[int, int] | None = None
    ) -> Sequence[Hit]:
        """The best first, from behind `after` on.

        Raises:
            BadUserInput: the query is none; see `parse_query`.
        """
        terms = parse_query(query)
        if not terms:
            return []
        async with self._database.read() as session:
            found = await search_messages(session, user_id, terms)
            page = [each for each in found if after is None or each.place < after][:limit]
            messages = await messages_of(session, user_id, [each.message_id for each in page]) if page else {}
            ids = {message.conversation_id for message in messages.values()}
            conversations = await readable_conversations(session, user_id, sorted(ids)) if ids else {}
        # One read, one moment: what was found is there, and is the user's to see.
        rows = [(each.place, messages[each.message_id]) for each in page]
        parts = await asyncio.to_thread(lambda: [snippet_of(message.content, terms) for _, message in rows])
        return [
            Hit(message, conversations[message.conversation_id], part, place)
            for (place, message), part in zip(rows, parts, strict=True)
        ]
