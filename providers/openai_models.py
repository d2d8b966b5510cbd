"""What servers answer to GET /models: a list of names, and here and there how long a conversation may be."""

import re
from collections.abc import Iterable, Sequence
from typing import Any

import orjson

from providers.base import ModelInfo
from providers.failures import Garbled
from providers.sse import NOT_AN_ANSWER
from providers.vendors import OPENAI

MAX_LIST_BYTES = 8 << 20
"""OpenRouter's list, the longest known, has 700 KB."""

MAX_WINDOW = 1_000_000_000
"""Tokens. More is a joke, and no GraphQL Int."""
_WINDOWS = ("context_length", "context_window", "max_model_len", "max_context_length", "n_ctx")
"""What OpenRouter and Together, Groq, vLLM, Mistral and llama.cpp call it."""
_NO_CHAT = re.compile(
    r"embedding|whisper|tts|dall-e|image|audio|realtime|moderation|transcribe|translate|instruct|davinci|babbage|sora"
    r"|search|computer-use|codex|deep-research|-pro(-|$)|live|rosalind",
    re.I,
)
"""OpenAI's models that chat completions do not serve."""
_DATED = re.compile(r"-(\d{4}-\d\d-\d\d|\d{4})$")


def listed_models(body: bytes, provider: str) -> list[ModelInfo]:
    """The models of a list, in its order. Entries that are none are left out.

    Raises:
        Garbled: it is no list.
    """
    try:
        parsed = orjson.loads(body)
    except ValueError as exc:
        raise Garbled(NOT_AN_ANSWER) from exc
    entries = parsed.get("data") if isinstance(parsed, dict) else parsed
    if not isinstance(entries, list):
        raise Garbled(NOT_AN_ANSWER)
    named = (entry for entry in entries if isinstance(entry, dict) and isinstance(entry.get("id"), str))
    return [ModelInfo(entry["id"], provider, _window(entry)) for entry in named]


def chat_models(listed: Iterable[ModelInfo]) -> Sequence[ModelInfo]:
    """Those of OpenAI's models that can chat: the well-known ones first, the names of versions last."""
    chat = [model for model in listed if OPENAI.has(model.id) and not _NO_CHAT.search(model.id)]
    return sorted(chat, key=_rank)


def _rank(model: ModelInfo) -> tuple[int, bool]:
    known = OPENAI.known.index(model.id) if model.id in OPENAI.known else len(OPENAI.known)
    return known, _DATED.search(model.id) is not None


def _window(entry: dict[str, Any]) -> int | None:
    meta = entry.get("meta")
    for told in (entry, meta if isinstance(meta, dict) else {}):
        for name in _WINDOWS:
            if type(told.get(name)) is int and 0 < told[name] <= MAX_WINDOW:
                return int(told[name])
    return None
