"""The legacy frames: what the socket reads and sends, and the `data:` lines of a streamed chat."""

from collections.abc import Mapping
from typing import Any

import orjson

from chat.chats import raise_failure
from chat.events import RunEvent, RunFinished, RunTextDelta
from errors import BadUserInput, ChatError, QuotaExceeded, TooLarge
from payloads import read_json

Frame = dict[str, Any]

PONG: Frame = {"type": "pong"}
AUTHENTICATED: Frame = {"type": "authenticated"}
CHAT_COMPLETE: Frame = {"type": "chat_complete"}


async def read_frame(message: Mapping[str, Any], limit: int, values: int) -> Frame:
    """The object that a client sent. `limit` is in bytes, `values` in keys and values.

    Raises:
        BadUserInput: it is binary, too large, no JSON, or no object.
    """
    text = message.get("text")
    if text is None:
        raise BadUserInput("Frames are JSON text, not binary")
    if len(text) > limit or len(encoded := text.encode()) > limit:
        raise TooLarge(f"The frame is larger than {limit} bytes")
    try:
        frame = await read_json(encoded, values)
    except orjson.JSONDecodeError:
        raise BadUserInput("The frame is not JSON") from None
    if not isinstance(frame, dict):
        raise BadUserInput("The frame is not a JSON object")
    return frame


def error_frame(error: ChatError) -> Frame:
    frame: Frame = {"type": "error", "code": error.code, "message": error.message}
    if isinstance(error, QuotaExceeded):
        frame |= {"retry_after": error.retry_after, "resets_at": error.resets_at.isoformat()}
    return frame


def frame_of(event: RunEvent) -> Frame | None:
    """The frame that tells of a run's event; None where there is none. A run that ends well has only its
    `chat_complete`, which is the caller's to send."""
    if isinstance(event, RunTextDelta):
        return {"type": "chat_chunk", "content": event.text}
    if isinstance(event, RunFinished):
        try:
            raise_failure(event)
        except ChatError as error:
            return error_frame(error)
    return None


def complete_frame(finished: RunFinished) -> Frame:
    """A streamed chat's last object, with what the plain answer tells besides the text."""
    tokens = 0 if finished.usage is None else finished.usage.total_tokens
    return {**CHAT_COMPLETE, "tokens": tokens, "model": finished.model}
