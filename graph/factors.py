"""Two-factor authentication: turn it on with an authenticator app, and off again."""

import strawberry

from graph.context import Info
from graph.types import User, viewer_of


@strawberry.input
class ConfirmTotpInput:
    code: str = strawberry.field(description="The six digits that the app shows.")


@strawberry.input
class DisableTotpInput:
    code: str = strawberry.field(description="The app's six digits, or a recovery code.")


@strawberry.type
class BeginTotpPayload:
    secret: str = strawberry.field(description="In base 32, for apps that cannot read a QR code.")
    otpauth_uri: str
    qr_svg: str = strawberry.field(description="The URI as an SVG element.")


@strawberry.type
class ConfirmTotpPayload:
    recovery_codes: list[str] = strawberry.field(description="Each opens the account once, in the app's place.")
    user: User


@strawberry.type
class UserPayload:
    user: User


@strawberry.type
class FactorMutation:
    @strawberry.mutation(description="Nothing changes before `confirmTotp`. Begun again: a new secret.")
    async def begin_totp(self, info: Info) -> BeginTotpPayload:
        viewer = info.context.require_session()
        offer = await info.context.services.factors.begin(viewer.id, viewer.username)
        return BeginTotpPayload(secret=offer.secret, otpauth_uri=offer.uri, qr_svg=offer.qr_svg)

    @strawberry.mutation(description="The recovery codes are shown this once.")
    async def confirm_totp(self, info: Info, input: ConfirmTotpInput) -> ConfirmTotpPayload:
        viewer = info.context.require_session()
        factors = info.context.services.factors
        codes = await factors.confirm(viewer.id, viewer.username, input.code, info.context.device)
        return ConfirmTotpPayload(recovery_codes=codes, user=await viewer_of(info.context))

    @strawberry.mutation
    async def disable_totp(self, info: Info, input: DisableTotpInput) -> UserPayload:
        viewer = info.context.require_session()
        await info.context.services.factors.disable(viewer.id, viewer.username, input.code, info.context.device)
        return UserPayload(user=await viewer_of(info.context))
