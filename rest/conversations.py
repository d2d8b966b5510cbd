"""/api/conversations: a user's conversations, whole, messages included."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Response
from starlette.convertors import Convertor, register_url_convertor

from chat.drafts import ConversationDraft, MessageDraft, check_count
from chat.inputs import InputLimits
from chat.listing import whole_conversation
from models.columns import from_millis
from models.whole import Whole, whole_of
from providers.base import Role
from rest.bodies import ConversationAnswer, ConversationBody, Deleted, Detail, MessageBody
from rest.deps import Served, Signed, ViewerRoute
from rest.listing import as_json, listed
from rest.streams import PiecesResponse

MAX_LIMIT = 1_000


class _Anything(Convertor[str]):
    """An id that a client chose may hold a slash, and the guide's client does not escape it."""

    regex = ".+"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("anything", _Anything())

router = APIRouter(
    prefix="/api/conversations", route_class=ViewerRoute, tags=["conversations"], responses={401: {"model": Detail}}
)
ITEM = "/{conversation_id:anything}"
GONE: dict[int | str, dict[str, Any]] = {404: {"model": Detail}}


@router.get("", response_model=list[ConversationAnswer], responses=GONE)
async def list_conversations(
    viewer: Signed,
    services: Served,
    limit: Annotated[int | None, Query(ge=1, le=MAX_LIMIT)] = None,
    before: str | None = None,
) -> Response:
    """All the viewer's conversations, newest `updatedAt` first; `limit` of them, behind the one with the id `before`,
    for those who ask.

    Raises:
        NotFound: no conversation has the id `before`.
    """
    pieces = await listed(services.database, viewer.id, limit, before)
    return PiecesResponse(pieces, services.limits.send_timeout)


@router.post("", response_model=ConversationAnswer, responses={409: {"model": Detail}})
async def create_conversation(body: ConversationBody, viewer: Signed, services: Served) -> Response:
    """The same body again gives the stored conversation.

    Raises:
        Conflict: the viewer has another one of this id.
        BadUserInput
    """
    draft = _draft(body, body.id, services.chats.limits)
    return _answer(whole_of(*await services.conversations.create(viewer.id, draft)), viewer.id)


@router.get(ITEM, response_model=ConversationAnswer, responses=GONE)
async def get_conversation(conversation_id: str, viewer: Signed, services: Served) -> Response:
    """By the server's id or by the viewer's own.

    Raises:
        NotFound
    """
    return _answer(await whole_conversation(services.database, viewer.id, conversation_id), viewer.id)


@router.put(ITEM, response_model=ConversationAnswer, responses=GONE)
async def replace_conversation(
    conversation_id: str, body: ConversationBody, viewer: Signed, services: Served
) -> Response:
    """Make it what the body says, messages included. The path's id wins over the body's.

    Raises:
        NotFound, BadUserInput
    """
    draft = _draft(body, None, services.chats.limits)
    replaced = await services.conversations.replace(viewer.id, conversation_id, draft, owned_only=True)
    return _answer(whole_of(*replaced), viewer.id)


@router.delete(ITEM, responses=GONE)
async def delete_conversation(conversation_id: str, viewer: Signed, services: Served) -> Deleted:
    """
    Raises:
        NotFound
    """
    await services.conversations.delete(viewer.id, conversation_id, owned_only=True)
    return Deleted(message="对话已删除")


def _draft(body: ConversationBody, external_id: str | None, limits: InputLimits) -> ConversationDraft:
    # Drafts of 50,000 messages would take longer to make than their body to read.
    check_count(len(body.messages), limits)
    return ConversationDraft(
        title=body.title,
        model=body.model,
        system_prompt=body.system_prompt,
        external_id=external_id,
        created_at=None if body.created_at is None else from_millis(body.created_at),
        updated_at=None if body.updated_at is None else from_millis(body.updated_at),
        messages=[_message_draft(message) for message in body.messages],
    )


def _message_draft(body: MessageBody) -> MessageDraft:
    created_at = None if body.timestamp is None else from_millis(body.timestamp)
    return MessageDraft(Role(body.role.upper()), body.content, body.id, created_at)


def _answer(whole: Whole, user_id: str) -> Response:
    return Response(as_json(whole, user_id), media_type="application/json")
