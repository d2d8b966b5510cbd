"""One open legacy socket: what it reads, what it answers, and the tasks that do it."""

import asyncio
import logging
from contextlib import aclosing

import orjson
from fastapi import WebSocket
from starlette.websockets import WebSocketDisconnect, WebSocketDisconnected

from auth.tokens import bearer
from auth.visits import Visit
from chat.chats import StatelessChat
from chat.events import RunTextDelta
from errors import BadUserInput, ChatError, Forbidden, RateLimited, Unauthenticated
from peers import device_of
from providers.base import Role, Turn
from rates import Rates
from rest.errors import masked
from rest.exchange import WAITING, Asked, Line, Memory
from rest.frames import AUTHENTICATED, CHAT_COMPLETE, PONG, Frame, error_frame, frame_of, read_frame
from rest.handshake import Caller, OthersToken, subprotocol_of
from rest.streams import ReaderStuck
from services import Services

logger = logging.getLogger(__name__)

ONLY = ""
"""The key of what a socket counts for itself."""
PAUSE_SECONDS = 0.2
"""Before a frame too many is refused: until then the next one is not read, and the client has to wait."""


class Session:
    """Its tasks end together: when the client leaves nothing of it stays, and the run that it waited for is
    cancelled."""

    def __init__(self, websocket: WebSocket, caller: Caller, services: Services, visit: Visit) -> None:
        limits = services.limits
        self._websocket = websocket
        self._caller = caller
        self._visit = visit
        self._services = services
        self._limits = limits
        self._line = Line()
        self._memory = Memory(services.chats.limits.chat_messages, services.chats.limits.message)
        self._device = device_of(websocket)
        self._frames = Rates(limits.frames_per_minute)
        self._opened = asyncio.Event()

    async def run(self) -> None:
        """Open the socket and serve it until its end.

        Raises:
            WebSocketDisconnect: the client left.
            TokenExpired, TokenInvalid: the token's time came, or its session was ended.
            OthersToken: it was shown another user's.
            ReaderStuck: the client does not read.
        """
        tasks = [asyncio.create_task(self._tell_who_types())]
        # Listen before opening: who sees the socket open may type at once, and be missed.
        await asyncio.sleep(0)
        try:
            await self._websocket.accept(subprotocol_of(self._websocket))
            self._opened.set()
            tasks += [asyncio.create_task(work) for work in (self._read(), self._chat_in_turn(), self._until_over())]
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _send(self, frame: Frame) -> None:
        try:
            async with asyncio.timeout(self._limits.send_timeout):
                await self._websocket.send_text(orjson.dumps(frame).decode())
        except TimeoutError:
            raise ReaderStuck from None
        except WebSocketDisconnected:
            # Another task has found out already that the client is gone.
            raise WebSocketDisconnect from None

    async def _read(self) -> None:
        while True:
            message = await self._websocket.receive()
            if message["type"] == "websocket.disconnect":
                raise WebSocketDisconnect(message["code"])
            wait = self._frames.take(ONLY)
            frame: Frame = {}
            try:
                frame = await read_frame(message, self._limits.frame, self._limits.json_values)
                if wait:
                    await asyncio.sleep(PAUSE_SECONDS)
                    raise RateLimited(f"At most {self._limits.frames_per_minute} frames a minute", retry_after=wait)
                await self._obey(frame)
            except Unauthenticated:
                raise
            except ChatError as error:
                await self._send(error_frame(error))
                if frame.get("type") == "chat":
                    self._line.gap()

    async def _obey(self, frame: Frame) -> None:
        if frame.get("type") == "ping":
            await self._send(PONG)
            return
        self._services.operations.of_address(self._device)
        if self._caller.viewer is not None:
            self._services.operations.of_user(self._caller.viewer.id)
        match frame.get("type"):
            case "chat":
                await self._check()
                self._ask(frame)
            case "typing":
                await self._check()
                await self._type()
            case "auth":
                await self._renew(frame)
            case _:
                raise BadUserInput("type must be ping, chat, typing or auth", field="type")

    async def _check(self) -> None:
        if self._visit.viewer is not None:
            await self._services.sessions.check(self._visit.viewer)

    async def _renew(self, frame: Frame) -> None:
        """A newer token in place of the one that the socket was opened with."""
        token = frame.get("token")
        if not isinstance(token, str):
            raise BadUserInput("token must be text", field="token")
        if self._caller.viewer is None:
            raise Forbidden("Opened without a token: connect with one")
        viewer = await self._services.sessions.viewer(bearer(token) or "")
        if viewer.id != self._caller.viewer.id:
            raise OthersToken
        self._visit.admit(viewer)
        await self._send(AUTHENTICATED)

    def _ask(self, frame: Frame) -> None:
        content, model = frame.get("content"), frame.get("model")
        if not isinstance(content, str) or not content.strip():
            raise BadUserInput("content must be text, and not empty", field="content")
        if self._caller.viewer is None:
            model = None
        elif not isinstance(model, str | None):
            raise BadUserInput("model must be text", field="model")
        if self._caller.guest:
            self._services.operations.guest_chat(self._device)
        if not self._line.add(Asked(content, model)):
            raise RateLimited(f"One chat at a time and {WAITING} waiting; wait for chat_complete")

    async def _chat_in_turn(self) -> None:
        while True:
            entry = await self._line.next()
            if isinstance(entry, Asked):
                await self._chat(entry)
                self._line.done()
            for _ in range(entry if isinstance(entry, int) else 1):
                await self._send(CHAT_COMPLETE)

    async def _chat(self, asked: Asked) -> None:
        viewer = self._caller.viewer
        turns = [*self._memory.turns(), Turn(Role.USER, asked.content)]
        logger.debug("收到聊天请求: user=%s, messages=%d", "guest" if viewer is None else viewer.id, len(turns))
        limit = self._limits.guest_max_tokens if self._caller.guest else None
        chat = StatelessChat(turns, model=asked.model, max_tokens=limit)
        parts: list[str] = []
        try:
            async with aclosing(self._services.chats.chat(None if viewer is None else viewer.id, chat)) as events:
                async for event in events:
                    if isinstance(event, RunTextDelta):
                        parts.append(event.text)
                    if (frame := frame_of(event)) is not None:
                        await self._send(frame)
        except ChatError as error:
            await self._send(error_frame(error))
        except (ReaderStuck, WebSocketDisconnect):
            raise
        except Exception as error:
            await self._send(error_frame(masked(error, "a chat of a legacy socket")))
        self._memory.remember(asked.content, "".join(parts))

    async def _type(self) -> None:
        caller = self._caller
        if caller.guest and await self._services.accounts.exists(caller.id):
            raise Forbidden("This is a registered user's id: connect with its token")
        await self._services.typing.tell(caller.id, None if caller.viewer is None else caller.viewer.username)

    async def _tell_who_types(self) -> None:
        async with aclosing(self._services.typing.follow(self._caller.id)) as notices:
            async for notice in notices:
                await self._opened.wait()
                await self._send({"type": "user_typing", "user_id": notice.user_id})

    async def _until_over(self) -> None:
        """A socket does not outlive its right."""
        raise await self._visit.over
