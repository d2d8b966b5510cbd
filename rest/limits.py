"""The size of request bodies, counted as they arrive."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from errors import TooLarge
from rest.errors import error_response

CONVERSATIONS = "/api/conversations"


class BodyLimit:
    """Pure ASGI middleware: a body over the limit (bytes) is answered 413, whatever the application made of it.

    `conversation_limit` is for /api/conversations, whose bodies carry every message.
    """

    def __init__(self, app: ASGIApp, *, limit: int, conversation_limit: int) -> None:
        self.app = app
        self._limit = limit
        self._conversation_limit = conversation_limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        body = _Counted(self._limit_of(scope["path"]), receive, send)
        if body.announced(scope):
            await body.refuse(scope)
            return
        try:
            await self.app(scope, body.receive, body.send)
        except TooLarge:
            if not body.too_large:
                raise
        if body.too_large and not body.started:
            await body.refuse(scope)

    def _limit_of(self, path: str) -> int:
        own = path == CONVERSATIONS or path.startswith(f"{CONVERSATIONS}/")
        return self._conversation_limit if own else self._limit


class _Counted:
    """One request's body and answer."""

    def __init__(self, limit: int, receive: Receive, send: Send) -> None:
        self._limit = limit
        self._receive = receive
        self._send = send
        self._size = 0
        self.too_large = False
        self.started = False

    def announced(self, scope: Scope) -> bool:
        """Whether the request itself says that its body is too large."""
        lengths = [value for name, value in scope["headers"] if name == b"content-length"]
        return any(value.isdigit() and int(value[:19]) > self._limit for value in lengths)

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            self._size += len(message.get("body", b""))
            if self._size > self._limit:
                self.too_large = True
                raise TooLarge(self._message())
        return message

    async def send(self, message: Message) -> None:
        # What the application answers to half a body is dropped: the reason is ours to tell.
        if self.started or not self.too_large:
            self.started = True
            await self._send(message)

    async def refuse(self, scope: Scope) -> None:
        await error_response(TooLarge(self._message()))(scope, self._receive, self._send)

    def _message(self) -> str:
        return f"The body is larger than {self._limit} bytes"
