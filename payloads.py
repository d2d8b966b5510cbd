"""JSON from clients. What would be long to read is refused before it is read: a reader holds the interpreter until it
has made every value, in a thread as well, and 16 MiB of `[]` took orjson five seconds.
"""

import asyncio
from typing import Any

import orjson

from errors import TooLarge

MARKS = b"[{,:"
"""Each key and each value stands behind one of them, but the outermost."""
SLICE_BYTES = 256 * 1024
"""What is counted between two turns of the event loop: at most some 15 ms."""


async def read_json(body: bytes, most: int) -> Any:
    """What the body says, if it has at most `most` opening brackets, commas and colons outside of its texts.

    Raises:
        TooLarge: it has more.
        orjson.JSONDecodeError: it is not JSON, or nested over 1,024 levels.
    """
    # Nearly every body is decided by its length, and of the others nearly all by one look, which takes 1 ms a MiB.
    if len(body) > most and marks_in(body) > most and await marks_outside_texts(body, most) > most:
        raise TooLarge(f"The JSON has more than {most} keys and values")
    return orjson.loads(body)


def marks_in(piece: bytes) -> int:
    return len(piece) - len(piece.translate(None, MARKS))


async def marks_outside_texts(body: bytes, enough: int) -> int:
    """Counted until there are more than `enough`. In what is not JSON, right up to the place where a reader stops."""
    count = start = inside = 0
    while start < len(body) and count <= enough:
        piece = body[start : start + SLICE_BYTES]
        start += len(piece)
        if (len(piece) - len(piece.rstrip(b"\\"))) % 2:
            # The slice ends between a backslash and what it escapes, which is not to begin the next one.
            start += 1
        parts = piece.replace(rb"\\", b"").replace(rb"\"", b"").split(b'"')
        count += marks_in(b"".join(parts[inside::2]))
        inside ^= len(parts) % 2 == 0
        await asyncio.sleep(0)
    return count
