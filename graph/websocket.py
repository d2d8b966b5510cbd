"""graphql-transport-ws, after https://github.com/enisdenjo/graphql-ws/blob/master/PROTOCOL.md.

One socket carries many operations; each has its own context, and a bad one fails alone. What breaks the protocol closes
the socket with a code: 4400 a message that is none, 4401 not initialised, a refused token or a session that has ended,
4403 an expired token or another user's, 4408 initialised too late, 4409 an id twice, 4429 initialised twice or too many
messages, 1009 a frame too large, 1013 a reader that does not read, or too many sockets. A `ping` whose payload has
`authorization` renews the token in place.
"""

import asyncio
import logging
from contextlib import ExitStack, aclosing, suppress
from typing import Any

import orjson
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketDisconnected, WebSocketState

from auth.tokens import bearer
from auth.visits import Visit
from errors import ChatError, RateLimited, TokenExpired, TooLarge, Unauthenticated, Unavailable
from graph.context import Context
from graph.errors import format_chat_error
from graph.execution import RequestRefused, Runner
from origins import origin_allowed
from payloads import read_json
from peers import device_of
from rates import Rates
from services import Services

logger = logging.getLogger(__name__)

PROTOCOL = "graphql-transport-ws"
MAX_ID_CHARS = 128
ANSWER_SECONDS = 1.0
"""How long queries and mutations under way may take when the socket has to end."""


class Close(Exception):
    """Ends the socket."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


async def serve(websocket: WebSocket, runner: Runner, services: Services) -> None:
    """One socket from its first byte to its last."""
    if not origin_allowed(websocket, services.settings.origins):
        await websocket.close(4403, "Origin not allowed")
        return
    device = device_of(websocket)
    try:
        services.operations.of_address(device)
        with await services.presence.socket(device):
            await _serve(websocket, runner, services)
    except (Unavailable, RateLimited) as error:
        # Opened first: a refused handshake has no code that says to come back.
        await websocket.accept(PROTOCOL if PROTOCOL in websocket.scope.get("subprotocols", []) else None)
        await websocket.close(1013, error.message)


async def _serve(websocket: WebSocket, runner: Runner, services: Services) -> None:
    if PROTOCOL not in websocket.scope.get("subprotocols", []):
        await websocket.accept()
        await websocket.close(4406, "Subprotocol not acceptable")
        return
    await websocket.accept(subprotocol=PROTOCOL)
    with services.visits.visit(None) as visit:
        connection = Connection(websocket, runner, services, visit)
        try:
            await connection.run()
        except Close as close:
            # First: an operation that sends behind the close frame would fail as if it were ours to fix.
            await connection.stop()
            await connection.close(close)
        except WebSocketDisconnect:
            pass
        finally:
            await connection.stop()


class Connection:
    """The state of one socket: who it is for, and the operations under way on it."""

    def __init__(self, websocket: WebSocket, runner: Runner, services: Services, visit: Visit) -> None:
        self._websocket = websocket
        self._runner = runner
        self._services = services
        self._visit = visit
        self._device = device_of(websocket)
        self._initialised = False
        self._acknowledged = False
        self._operations: dict[str, asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        """Those of `_operations`, and those whose last message is on its way."""
        self._answering: set[asyncio.Task[None]] = set()
        """Those of them that are queries and mutations."""
        self._ended: asyncio.Future[Close] = asyncio.get_running_loop().create_future()
        self._frames = Rates(services.limits.graph_frames_per_minute)
        self._seat = ExitStack()
        """This socket among its user's."""

    async def run(self) -> None:
        """
        Raises:
            Close: the socket has to be closed.
            WebSocketDisconnect: it has been.
        """
        reader = asyncio.create_task(self._read())
        try:
            waiting: set[asyncio.Future[Any]] = {reader, self._ended, self._visit.over}
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            if self._ended.done():
                raise self._ended.result()
            if self._visit.over.done():
                reader.cancel()
                await self._let_answer()
                raise closed_for(self._visit.over.result())
            reader.result()
        finally:
            reader.cancel()
            with suppress(asyncio.CancelledError, Close, WebSocketDisconnect):
                await reader

    async def _let_answer(self) -> None:
        """Whoever logs out or changes the password over this socket is told that it was done, then closed."""
        if self._answering:
            await asyncio.wait(self._answering, timeout=ANSWER_SECONDS)

    async def stop(self) -> None:
        """End what is still under way: this follower leaves, the runs of conversations go on."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._seat.close()

    async def close(self, close: Close) -> None:
        if self._websocket.application_state is WebSocketState.CONNECTED:
            with suppress(Exception):
                async with asyncio.timeout(self._services.limits.send_timeout):
                    await self._websocket.close(close.code, close.reason)

    def _end(self, code: int, reason: str) -> None:
        if not self._ended.done():
            self._ended.set_result(Close(code, reason))

    async def _read(self) -> None:
        try:
            async with asyncio.timeout(self._services.limits.init_timeout):
                while not self._initialised:
                    await self._handle(await self._receive())
        except TimeoutError:
            raise Close(4408, "Connection initialisation timeout") from None
        while True:
            await self._handle(await self._receive())

    async def _receive(self) -> dict[str, Any]:
        frame = await self._websocket.receive()
        if frame["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(frame.get("code", 1005))
        text = frame.get("text")
        if text is None:
            raise Close(4400, "Messages are text")
        limits = self._services.limits
        if len(text) > limits.frame or len(encoded := text.encode()) > limits.frame:
            raise Close(1009, "Message too large")
        try:
            message = await read_json(encoded, limits.json_values)
        except TooLarge as error:
            raise Close(1009, error.message) from None
        except orjson.JSONDecodeError:
            raise Close(4400, "The message is not JSON") from None
        if not isinstance(message, dict) or not isinstance(message.get("type"), str):
            raise Close(4400, "A message is an object with a type")
        payload = message.get("payload")
        if payload is not None and not isinstance(payload, dict):
            raise Close(4400, "payload must be an object")
        return message

    async def _handle(self, message: dict[str, Any]) -> None:
        if self._frames.take("messages"):
            raise Close(4429, "Too many messages")
        match message["type"]:
            case "connection_init":
                await self._initialise(message.get("payload") or {})
            case "ping":
                await self._renew(message.get("payload") or {})
                await self._send({"type": "pong"})
            case "pong":
                pass
            case "subscribe":
                await self._subscribe(message)
            case "complete":
                self._complete(_id_of(message))
            case other:
                raise Close(4400, f"Unknown message type {other[:50]!r}")

    async def _initialise(self, payload: dict[str, Any]) -> None:
        if self._initialised:
            raise Close(4429, "Too many initialisation requests")
        self._initialised = True
        token = bearer(_authorization(payload) or self._websocket.headers.get("authorization"))
        if token is not None:
            await self._authenticate(token)
        await self._send({"type": "connection_ack"})
        self._acknowledged = True

    async def _authenticate(self, token: str) -> None:
        try:
            viewer = await self._services.sessions.viewer(token)
            if self._visit.viewer is None:
                self._seat.enter_context(await self._services.presence.user(viewer.id))
        except ChatError as error:
            raise closed_for(error) from None
        if self._visit.viewer is not None and self._visit.viewer.id != viewer.id:
            # Like an expired token: what is open is not theirs, and a client that comes back comes as who it is now.
            raise Close(4403, "The token is another user's")
        self._visit.admit(viewer)

    async def _renew(self, payload: dict[str, Any]) -> None:
        token = bearer(_authorization(payload))
        if token is not None and self._acknowledged:
            await self._authenticate(token)

    async def _subscribe(self, message: dict[str, Any]) -> None:
        if not self._acknowledged:
            raise Close(4401, "Unauthorized")
        key = _id_of(message)
        if key in self._operations:
            raise Close(4409, f"Subscriber for {key} already exists")
        if not isinstance(message.get("payload"), dict):
            raise Close(4400, "subscribe needs a payload")
        try:
            self._admit()
        except RateLimited as refusal:
            # Sent from here, so that no more frames are read from a client that does not read these.
            await self._send({"id": key, "type": "error", "payload": [format_chat_error(refusal)]})
            return
        task = asyncio.create_task(self._operate(key, message["payload"]), name=f"operation {key}")
        self._operations[key] = task
        self._tasks.add(task)
        task.add_done_callback(lambda done: self._done(key, done))

    def _admit(self) -> None:
        services, limits = self._services, self._services.limits
        if limits.counted and len(self._tasks) >= limits.operations_per_socket:
            raise RateLimited(f"At most {limits.operations_per_socket} operations on one socket")
        services.operations.of_address(self._device)
        if self._visit.viewer is not None:
            services.operations.of_user(self._visit.viewer.id)

    def _done(self, key: str, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._answering.discard(task)
        if self._operations.get(key) is task:
            del self._operations[key]
        if task.cancelled() or (error := task.exception()) is None:
            return
        if isinstance(error, Close):
            self._end(error.code, error.reason)
        else:
            self._end(1011, "Internal error")
            if not isinstance(error, WebSocketDisconnect | OSError):
                logger.error("an operation on a socket failed", exc_info=error)

    def _complete(self, key: str) -> None:
        task = self._operations.pop(key, None)
        if task is not None:
            task.cancel()

    async def _operate(self, key: str, request: dict[str, Any]) -> None:
        """One operation, to its `complete` or its `error`."""
        try:
            operation = self._runner.prepare(request)
            if not operation.streams and (task := asyncio.current_task()) is not None:
                self._answering.add(task)
            viewer = self._visit.viewer
            if viewer is not None:
                await self._services.sessions.check(viewer)
            context = Context(self._services, viewer, self._device)
            if operation.streams:
                async with aclosing(self._runner.subscribe(operation, context)) as results:
                    async for result in results:
                        await self._send({"id": key, "type": "next", "payload": result})
            else:
                result = await self._runner.execute(operation, context)
                await self._send({"id": key, "type": "next", "payload": result})
        except RequestRefused as refused:
            end = {"id": key, "type": "error", "payload": refused.errors}
        except Unauthenticated as error:
            raise closed_for(error) from None
        except ChatError as error:
            end = {"id": key, "type": "error", "payload": [format_chat_error(error)]}
        else:
            end = {"id": key, "type": "complete"}
        # The id is free from here on: a client may use it again as soon as it has read this.
        self._operations.pop(key, None)
        await self._send(end)

    async def _send(self, message: dict[str, Any]) -> None:
        try:
            async with asyncio.timeout(self._services.limits.send_timeout):
                # Text, not bytes: a binary frame is refused by clients.
                await self._websocket.send_text(orjson.dumps(message).decode())
        except TimeoutError:
            raise Close(1013, "The reader does not read") from None
        except WebSocketDisconnected:
            # Another operation has found out already that the client is gone.
            raise WebSocketDisconnect from None


def closed_for(error: ChatError) -> Close:
    """4403, not 4401, for a token that has expired: clients come back after it, with a new one."""
    if isinstance(error, TokenExpired):
        return Close(4403, error.message)
    return Close(1013 if isinstance(error, Unavailable | RateLimited) else 4401, error.message)


def _id_of(message: dict[str, Any]) -> str:
    key = message.get("id")
    if not isinstance(key, str) or not 0 < len(key) <= MAX_ID_CHARS:
        raise Close(4400, f"id must be text of 1 to {MAX_ID_CHARS} characters")
    return key


def _authorization(payload: dict[str, Any]) -> str | None:
    """The value under `authorization`, in whatever case the client writes it."""
    for name, value in payload.items():
        if name.lower() == "authorization":
            if value is not None and not isinstance(value, str):
                raise Close(4400, "authorization must be text")
            return value
    return None
