"""API keys: for programs that ask in a user's name."""

from __future__ import annotations

from datetime import datetime

import strawberry
from strawberry import ID

from graph.context import Info
from graph.node_type import Node
from models import api_key as api_keys


@strawberry.type(description="For `Authorization: Bearer`, by every way in. It cannot manage the account.")
class ApiKey(Node):
    name: str
    prefix: str = strawberry.field(description="How the key begins.")
    created_at: datetime
    last_used_at: datetime | None = strawberry.field(description="To the minute.")
    expires_at: datetime | None

    @classmethod
    def of(cls, row: api_keys.ApiKey) -> ApiKey:
        return cls(
            id=ID(row.id),
            name=row.name,
            prefix=row.prefix,
            created_at=row.created_at,
            last_used_at=row.last_used_at,
            expires_at=row.expires_at,
        )


@strawberry.input
class CreateApiKeyInput:
    name: str
    expires_at: datetime | None = strawberry.field(default=None, description="Never, if it is absent.")


@strawberry.input
class RevokeApiKeyInput:
    id: ID


@strawberry.type
class CreateApiKeyPayload:
    key: str = strawberry.field(description="Shown this once.")
    api_key: ApiKey


@strawberry.type
class RevokeApiKeyPayload:
    id: ID


@strawberry.type
class ApiKeyMutation:
    @strawberry.mutation
    async def create_api_key(self, info: Info, input: CreateApiKeyInput) -> CreateApiKeyPayload:
        viewer = info.context.require_session()
        key, row = await info.context.services.api_keys.create(viewer.id, input.name, input.expires_at)
        return CreateApiKeyPayload(key=key, api_key=ApiKey.of(row))

    @strawberry.mutation(description="Whatever is open for the key is closed.")
    async def revoke_api_key(self, info: Info, input: RevokeApiKeyInput) -> RevokeApiKeyPayload:
        viewer = info.context.require_session()
        await info.context.services.api_keys.revoke(viewer.id, input.id)
        await info.context.services.sessions.ended(viewer.id)
        return RevokeApiKeyPayload(id=input.id)
