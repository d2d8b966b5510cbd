"""Accounts elsewhere: sign in with them, link and unlink them. The way there and back is rest/oauth's."""

from __future__ import annotations

from urllib.parse import quote

import strawberry
from strawberry import ID

from graph.auth import AuthPayload
from graph.context import Info
from graph.factors import UserPayload
from graph.types import viewer_of

BEGIN = "/api/auth/oauth/"


@strawberry.type(description="A provider of identities that the operator has set up.")
class IdentityProvider:
    name: str
    title: str
    path: str = strawberry.field(description="Where to send the browser, on this server.")


@strawberry.input
class OAuthLoginInput:
    code: str = strawberry.field(description="From the fragment of the address that the browser was sent home to.")
    verifier: str | None = strawberry.field(default=None, description="What the page's challenge was made of.")
    otp: str | None = None


@strawberry.input
class BeginIdentityLinkInput:
    provider: str


@strawberry.type
class BeginIdentityLinkPayload:
    path: str = strawberry.field(description="Where to send the browser, on this server, within a minute.")


@strawberry.input
class LinkIdentityInput:
    code: str = strawberry.field(description="The `link_code` of the fragment.")


@strawberry.input
class UnlinkIdentityInput:
    id: ID


@strawberry.type
class IdentityQuery:
    @strawberry.field(description="With whom one can sign in here, besides a password.")
    async def identity_providers(self, info: Info) -> list[IdentityProvider]:
        providers = info.context.services.oauth.providers.values()
        return [IdentityProvider(name=each.name, title=each.title, path=BEGIN + each.name) for each in providers]


@strawberry.type
class IdentityMutation:
    @strawberry.mutation(
        name="oauthLogin",
        description="Sign in by the code that a provider's sign-in has led to. After OTP_REQUIRED the code stays good.",
    )
    async def oauth_login(self, info: Info, input: OAuthLoginInput) -> AuthPayload:
        oauth, device = info.context.services.oauth, info.context.device
        return AuthPayload.of(await oauth.sign_in(input.code, device, verifier=input.verifier, otp=input.otp))

    @strawberry.mutation(description="Nothing is linked before the browser has come back, and `linkIdentity`.")
    async def begin_identity_link(self, info: Info, input: BeginIdentityLinkInput) -> BeginIdentityLinkPayload:
        viewer = info.context.require_session()
        ticket = info.context.services.oauth.ticket(input.provider, viewer.id)
        return BeginIdentityLinkPayload(path=f"{BEGIN}{input.provider}?ticket={quote(ticket)}")

    @strawberry.mutation(description="From then on it opens the viewer's account.")
    async def link_identity(self, info: Info, input: LinkIdentityInput) -> UserPayload:
        viewer = info.context.require_session()
        await info.context.services.oauth.link(viewer.id, input.code)
        return UserPayload(user=await viewer_of(info.context))

    @strawberry.mutation(description="CONFLICT for the only way into the account.")
    async def unlink_identity(self, info: Info, input: UnlinkIdentityInput) -> UserPayload:
        viewer = info.context.require_session()
        await info.context.services.oauth.unlink(viewer.id, input.id)
        return UserPayload(user=await viewer_of(info.context))
