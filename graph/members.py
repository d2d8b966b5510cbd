"""Several people in one conversation."""

import strawberry
from strawberry import ID

from graph.context import Info
from graph.conversations import ConversationPayload
from graph.enums import MemberRole
from graph.types import Conversation


@strawberry.input
class AddMemberInput:
    conversation_id: ID
    username: str
    role: MemberRole


@strawberry.input
class RemoveMemberInput:
    conversation_id: ID
    user_id: ID


@strawberry.type
class MemberMutation:
    @strawberry.mutation(description="Or change the role of one who is in.")
    async def add_member(self, info: Info, input: AddMemberInput) -> ConversationPayload:
        row = await info.context.services.members.add(
            info.context.user_id, input.conversation_id, input.username, input.role
        )
        return ConversationPayload(conversation=Conversation.of(row))

    @strawberry.mutation(description="Or leave, with one's own id.")
    async def remove_member(self, info: Info, input: RemoveMemberInput) -> ConversationPayload:
        row = await info.context.services.members.remove(info.context.user_id, input.conversation_id, input.user_id)
        return ConversationPayload(conversation=Conversation.of(row))
