"""How much text one answer may hold. What is counted before an operation runs are fields: a text may be 100,000
characters, and stand in an answer as often as there are aliases."""

from collections.abc import Iterable
from sys import getsizeof
from typing import Any

import orjson

from errors import QueryTooComplex
from models.message import Message

MAX_ANSWER_BYTES = 10 * 1024 * 1024
"""As JSON: a page of a hundred of the longest messages in English, of 33 in Chinese."""
MAX_READ_BYTES = 20 * 1024 * 1024
"""Of messages' texts in memory, whether they are in the answer or not, up to the page that is one too many."""
SHORT = 1_000
"""Characters. There are at most MAX_COST texts, and escapes make few of them longer."""


def check_answer(data: Any) -> None:
    """
    Raises:
        QueryTooComplex: it would be longer than MAX_ANSWER_BYTES as JSON.
    """
    waiting, size = [data], 0
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value
        elif isinstance(value, str):
            size += len(value) if len(value) <= SHORT else len(orjson.dumps(value))
            if size > MAX_ANSWER_BYTES:
                raise QueryTooComplex(f"The answer is longer than {MAX_ANSWER_BYTES} bytes; ask for smaller pages")


def bytes_of(rows: Iterable[Message]) -> int:
    """What their texts take in memory."""
    return sum(getsizeof(row.content) + getsizeof(row.reasoning) for row in rows)
