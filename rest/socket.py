"""/ws/{user_id}: the legacy socket. Ping, chat and typing, in frames of JSON text.

Closed with 4400 (bad user id), 4401 (no token, a bad one, or one whose session has ended), 4403 (a token whose time
came, or another user's), 1013 (too many sockets or requests, or a client that does not read), 1011 (our fault). A page
of a foreign origin gets HTTP 403.
"""

import asyncio
from contextlib import ExitStack, suppress

from fastapi import APIRouter, WebSocket
from starlette.websockets import WebSocketDisconnect, WebSocketState

from errors import RateLimited, TokenExpired, Unauthenticated, Unavailable
from origins import origin_allowed
from peers import device_of
from rest.errors import masked
from rest.handshake import FORBIDDEN, UNAUTHENTICATED, Refused, caller_of, subprotocol_of
from rest.session import Session
from rest.streams import ReaderStuck
from services import Services

router = APIRouter()

TRY_LATER, INTERNAL = 1013, 1011
CLOSE_SECONDS = 1.0
"""A client that does not read does not read a close frame either."""


@router.websocket("/ws/{user_id}")
async def legacy_socket(websocket: WebSocket, user_id: str) -> None:
    services: Services = websocket.app.state.services
    device = device_of(websocket)
    if not origin_allowed(websocket, services.settings.origins):
        await websocket.close()
        return
    try:
        services.operations.of_address(device)
        caller = await caller_of(websocket, user_id, services)
        with ExitStack() as seats:
            seats.enter_context(await services.presence.socket(device, guest=caller.guest))
            if caller.viewer is not None:
                seats.enter_context(await services.presence.user(caller.viewer.id))
            visit = seats.enter_context(services.visits.visit(caller.viewer))
            await Session(websocket, caller, services, visit).run()
    except WebSocketDisconnect:
        pass
    except Refused as refusal:
        await _close(websocket, refusal.code, refusal.reason)
    except Unauthenticated as error:
        await _close(websocket, FORBIDDEN if isinstance(error, TokenExpired) else UNAUTHENTICATED, error.message)
    except (Unavailable, RateLimited) as error:
        await _close(websocket, TRY_LATER, error.message)
    except ReaderStuck:
        await _close(websocket, TRY_LATER, "The client does not read")
    except Exception as error:
        await _close(websocket, INTERNAL, masked(error, "a legacy socket").message)


async def _close(websocket: WebSocket, code: int, reason: str) -> None:
    with suppress(WebSocketDisconnect, RuntimeError, TimeoutError):
        async with asyncio.timeout(CLOSE_SECONDS):
            if websocket.application_state is WebSocketState.CONNECTING:
                await websocket.accept(subprotocol_of(websocket))
            await websocket.close(code, reason)
