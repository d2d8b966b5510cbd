"""The end of an account."""

import strawberry
from strawberry import ID

from graph.context import Info


@strawberry.input
class DeleteAccountInput:
    password: str


@strawberry.type
class DeleteAccountPayload:
    id: ID


@strawberry.type
class AccountMutation:
    @strawberry.mutation(description="With everything that is the viewer's. Export it first: there is no way back.")
    async def delete_account(self, info: Info, input: DeleteAccountInput) -> DeleteAccountPayload:
        viewer, services = info.context.require_session(), info.context.services
        await services.credentials.close_account(viewer, input.password, info.context.device)
        await services.erasures.erase(viewer.id)
        return DeleteAccountPayload(id=ID(viewer.id))
