"""What every text and number from a client has to pass, whichever transport brought it."""

import re
from dataclasses import dataclass

from errors import BadUserInput
from models.conversation import ConversationFilter

MIN_TEMPERATURE, MAX_TEMPERATURE, DEFAULT_TEMPERATURE = 0.0, 2.0, 0.7
MIN_ANSWER_TOKENS, MAX_ANSWER_TOKENS, DEFAULT_ANSWER_TOKENS = 1, 4096, 2048
MAX_ID_CHARS = 200
MAX_MODEL_CHARS = 200
NOT_TEXT = re.compile("[\x00\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class InputLimits:
    """Counts of characters and items."""

    message: int
    system_prompt: int
    title: int
    conversation_messages: int
    chat_messages: int
    conversations: int


def clean(value: str, field: str, limit: int, *, least: int = 0) -> str:
    """The text itself if every database and model can take it.

    Raises:
        BadUserInput: too long, too short, or with characters that are no text (NUL, lone surrogates).
    """
    if len(value) > limit:
        raise BadUserInput(f"{field} is longer than {limit} characters", field=field)
    if len(value.strip()) < least:
        raise BadUserInput(f"{field} is empty" if least == 1 else f"{field} is too short", field=field)
    if not is_text(value):
        raise BadUserInput(f"{field} has characters that are not text", field=field)
    return value


def is_text(value: str) -> bool:
    """Whether every database can store it: no NUL, no lone surrogate."""
    try:
        # C's speed: 16 million letters in 20 ms, where a loop over them would hold the event loop for a second.
        if not value.isascii():
            value.encode()
    except UnicodeEncodeError:
        return False
    return "\x00" not in value


def storable(value: str) -> str:
    """The text with a replacement character for what no database stores."""
    return value if is_text(value) else NOT_TEXT.sub("\ufffd", value)


def clean_id(value: str | None, field: str) -> str | None:
    """An id that a client chose; None and blank mean that it chose none."""
    return None if value is None or not value.strip() else clean(value, field, MAX_ID_CHARS)


def clean_model(value: str, field: str = "model") -> str:
    return clean(value, field, MAX_MODEL_CHARS, least=1)


def clean_filter(only: ConversationFilter, limits: InputLimits) -> ConversationFilter:
    """What no title and no model can be is refused here: SQLite fails on a LIKE pattern over 50,000 bytes."""
    if only.title_contains is not None:
        clean(only.title_contains, "filter.titleContains", limits.title)
    if only.model is not None:
        clean(only.model, "filter.model", MAX_MODEL_CHARS)
    return only


def clean_temperature(value: float | None) -> float:
    if value is None:
        return DEFAULT_TEMPERATURE
    if not MIN_TEMPERATURE <= value <= MAX_TEMPERATURE:
        raise BadUserInput("temperature must be from 0 to 2", field="temperature")
    return value


def clean_max_tokens(value: int | None) -> int:
    if value is None:
        return DEFAULT_ANSWER_TOKENS
    if not MIN_ANSWER_TOKENS <= value <= MAX_ANSWER_TOKENS:
        raise BadUserInput(f"maxTokens must be from 1 to {MAX_ANSWER_TOKENS}", field="maxTokens")
    return value
