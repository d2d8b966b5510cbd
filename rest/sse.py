"""A stateless run as server-sent events, in the legacy socket's words."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

import orjson

from chat.events import RunEvent, RunFinished
from errors import ChatError
from rest.errors import masked
from rest.frames import CHAT_COMPLETE, Frame, complete_frame, error_frame, frame_of

BEGUN_SECONDS = 1.0
"""How long a stream waits for its first event before it counts as begun. What is refused is refused within
milliseconds; a model may take minutes to its first word, and clients want to see headers before."""


async def begun(events: AsyncGenerator[RunEvent, None]) -> AsyncGenerator[bytes, None]:
    """The run as `data:` lines, as soon as it is sure that nothing refuses it. Closing them closes the events.

    Raises:
        ChatError: what refused it.
    """
    lines = _lines(events)
    # The first step, so that closing the lines runs their `finally`: a generator that never began has none.
    await anext(lines)
    return lines


async def _lines(events: AsyncGenerator[RunEvent, None]) -> AsyncGenerator[bytes, None]:
    """Nothing when the run has begun, then a line for each frame."""
    has_begun = False
    async with aclosing(events):
        first = asyncio.ensure_future(anext(events))
        try:
            await asyncio.wait({first}, timeout=BEGUN_SECONDS)
            if first.done():
                first.result()
            has_begun = True
            yield b""
            for frame in _frames_of(await first):
                yield _line(frame)
            async for event in events:
                for frame in _frames_of(event):
                    yield _line(frame)
        except Exception as error:
            if not has_begun:
                raise
            yield farewell(error if isinstance(error, ChatError) else masked(error, "a streamed chat"))
        finally:
            first.cancel()
            await asyncio.gather(first, return_exceptions=True)


def farewell(error: ChatError) -> bytes:
    """The last lines of a stream that ends before its run."""
    return _line(error_frame(error)) + _line(CHAT_COMPLETE)


def _frames_of(event: RunEvent) -> list[Frame]:
    frames = [] if (frame := frame_of(event)) is None else [frame]
    return [*frames, complete_frame(event)] if isinstance(event, RunFinished) else frames


def _line(frame: Frame) -> bytes:
    return b"data: " + orjson.dumps(frame) + b"\n\n"
