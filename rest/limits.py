"""The size and the time of request bodies, counted as they arrive."""

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from errors import BadUserInput, TooLarge, TooSlow
from rest.errors import error_response

CONVERSATIONS = "/api/conversations"
SLOWEST = 64 * 1024
"""Bytes a second that a long body has to come at: 16 MiB may take four minutes more."""


class BodyLimit:
    """Pure ASGI middleware: a body over the limit (bytes) is answered 413, and one that trickles for longer than
    `seconds` 408, whatever the application made of it.

    `conversation_limit` is for /api/conversations, whose bodies carry every message.
    """

    def __init__(self, app: ASGIApp, *, limit: int, conversation_limit: int, seconds: float) -> None:
        self.app = app
        self._seconds = seconds
        self._limit = limit
        self._conversation_limit = conversation_limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        body = _Counted(self._limit_of(scope["path"]), self._seconds, receive, send)
        if body.announced(scope):
            body.refused = body.too_large()
        else:
            try:
                await self.app(scope, body.receive, body.send)
            except (TooLarge, TooSlow):
                if body.refused is None:
                    raise
        if body.refused is not None and not body.started:
            await error_response(body.refused)(scope, receive, send)

    def _limit_of(self, path: str) -> int:
        own = path == CONVERSATIONS or path.startswith(f"{CONVERSATIONS}/")
        return self._conversation_limit if own else self._limit


class _Counted:
    """One request's body and answer."""

    def __init__(self, limit: int, seconds: float, receive: Receive, send: Send) -> None:
        self._limit = limit
        self._receive = receive
        self._send = send
        self._size = 0
        self._seconds = seconds
        self._begun = asyncio.get_running_loop().time()
        self._whole = False
        self.refused: BadUserInput | None = None
        self.started = False

    def announced(self, scope: Scope) -> bool:
        """Whether the request itself says that its body is too large."""
        lengths = [value for name, value in scope["headers"] if name == b"content-length"]
        return any(value.isdigit() and int(value[:19]) > self._limit for value in lengths)

    async def receive(self) -> Message:
        try:
            # Behind the body it is the end of the connection that is waited for.
            deadline = None if self._whole else self._begun + self._seconds + self._size / SLOWEST
            async with asyncio.timeout_at(deadline):
                message = await self._receive()
        except TimeoutError:
            self.refused = TooSlow(f"The body did not come within {self._seconds:g} seconds")
            raise self.refused from None
        if message["type"] == "http.request":
            self._size += len(message.get("body", b""))
            self._whole = not message.get("more_body", False)
            if self._size > self._limit:
                self.refused = self.too_large()
                raise self.refused
        return message

    async def send(self, message: Message) -> None:
        # What the application answers to half a body is dropped: the reason is ours to tell.
        if self.started or self.refused is None:
            self.started = True
            await self._send(message)

    def too_large(self) -> TooLarge:
        return TooLarge(f"The body is larger than {self._limit} bytes")
