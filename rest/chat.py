"""POST /api/chat: a prompt that brings its history, answered whole or as server-sent events."""

import logging
from typing import Any

from fastapi import APIRouter, Request, Response

from chat.chats import StatelessChat
from providers.base import Role, Turn
from rest.bodies import ChatAnswer, ChatBody, Detail
from rest.deps import Served, Signed, ViewerRoute
from rest.errors import json_response
from rest.sse import begun, farewell
from streaming import EventStream, while_connected

logger = logging.getLogger(__name__)

router = APIRouter(route_class=ViewerRoute, tags=["chat"])


ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/event-stream": {}}},
    401: {"model": Detail},
    429: {"model": Detail},
    503: {"model": Detail},
}


@router.post("/api/chat", response_model=ChatAnswer, responses=ANSWERS)
async def chat(body: ChatBody, request: Request, viewer: Signed, services: Served) -> Response:
    """With `stream` the frames of /ws as `data:` lines. A client that leaves ends the generation.

    Raises:
        BadUserInput, ModelUnavailable, RateLimited, Unavailable, and without `stream` whatever the model failed with.
    """
    logger.debug("收到聊天请求: user=%s, messages=%d", viewer.id, len(body.messages))
    asked = StatelessChat(
        turns=[Turn(Role(message.role.upper()), message.content) for message in body.messages],
        model=body.model,
        temperature=body.temperature,
        max_tokens=body.max_tokens,
    )
    if body.stream:
        lines = await while_connected(request.receive, begun(services.chats.chat(viewer.id, asked)))
        return EventStream(
            lines,
            visit=services.visits.visit(viewer),
            farewell=farewell,
            closing=services.closing,
            grace=services.engine.limits.shutdown_grace + 1,
            send_timeout=services.limits.send_timeout,
        )
    answer = await while_connected(request.receive, services.chats.answer(viewer.id, asked))
    return json_response({"content": answer.content, "tokens": answer.tokens, "model": answer.model})
