"""Who opens a legacy socket, and whether it may be opened."""

import re
from dataclasses import dataclass

from fastapi import WebSocket

from auth.sessions import Viewer
from errors import Forbidden, TokenMissing
from services import Services

MAX_ID_CHARS = 200
NOT_TEXT = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff\ufffd]")
SUBPROTOCOL = "bearer"

BAD_ID, UNAUTHENTICATED, FORBIDDEN = 4400, 4401, 4403


class Refused(Exception):
    """The socket is opened only to be closed: a browser shows its page no other reason than a close code."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class OthersToken(Refused):
    """Whoever shows it is not whom the socket is for."""

    def __init__(self) -> None:
        super().__init__(FORBIDDEN, Forbidden().message)


@dataclass(frozen=True, slots=True)
class Caller:
    """`id` is the path's. No viewer: no token was shown. `guest`: and so the guests' limits hold."""

    id: str
    viewer: Viewer | None
    guest: bool


def subprotocol_of(websocket: WebSocket) -> str | None:
    """The one to answer with: a browser that offered some gives up when none is chosen."""
    return SUBPROTOCOL if SUBPROTOCOL in websocket.scope["subprotocols"] else None


def token_of(websocket: WebSocket) -> str | None:
    """From `?token=`, or the entry behind `bearer` among the subprotocols."""
    if token := websocket.query_params.get("token"):
        return token
    offered = [name for name in websocket.scope["subprotocols"] if name != SUBPROTOCOL]
    return offered[0] if offered and subprotocol_of(websocket) else None


async def caller_of(websocket: WebSocket, user_id: str, services: Services) -> Caller:
    """
    Raises:
        Refused: with the close code to use.
        TokenInvalid, TokenExpired
    """
    if not user_id.strip() or len(user_id) > MAX_ID_CHARS or NOT_TEXT.search(user_id):
        raise Refused(BAD_ID, f"The user id must be 1 to {MAX_ID_CHARS} characters")
    mode, token = services.settings.legacy_socket, token_of(websocket)
    if token is None:
        if mode == "token":
            raise Refused(UNAUTHENTICATED, TokenMissing().message)
        return Caller(user_id, None, guest=mode == "guests")
    viewer = await services.sessions.viewer(token)
    if viewer.id != user_id:
        raise OthersToken
    return Caller(user_id, viewer, guest=False)
