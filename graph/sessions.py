"""Where the viewer is signed in, and how that ends."""

from __future__ import annotations

from datetime import datetime

import strawberry
from strawberry import ID

from graph.context import Context, Info
from models.user_session import UserSession


@strawberry.type(description="One place where the viewer is signed in.")
class Session:
    id: ID
    created_at: datetime
    last_seen_at: datetime = strawberry.field(description="To the minute.")
    user_agent: str | None
    ip: str | None
    current: bool = strawberry.field(description="Whether it is the one that asks.")

    @classmethod
    def of(cls, row: UserSession, context: Context) -> Session:
        return cls(
            id=ID(row.id),
            created_at=row.created_at,
            last_seen_at=row.last_seen_at,
            user_agent=row.user_agent,
            ip=row.address,
            current=context.viewer is not None and context.viewer.session_id == row.id,
        )


@strawberry.input
class LogoutInput:
    everywhere: bool | None = False


@strawberry.input
class RevokeSessionInput:
    id: ID


@strawberry.type
class LogoutPayload:
    sessions_ended: int


@strawberry.type
class SessionMutation:
    @strawberry.mutation(description="This session, or all of them. What is open for them is closed.")
    async def logout(self, info: Info, input: LogoutInput | None = None) -> LogoutPayload:
        everywhere = input is not None and bool(input.everywhere)
        ended = await info.context.services.sessions.log_out(info.context.require_session(), everywhere=everywhere)
        return LogoutPayload(sessions_ended=ended)

    @strawberry.mutation(description="One of the viewer's sessions, on whatever device.")
    async def revoke_session(self, info: Info, input: RevokeSessionInput) -> LogoutPayload:
        await info.context.services.sessions.revoke(info.context.require_session().id, input.id)
        return LogoutPayload(sessions_ended=1)
