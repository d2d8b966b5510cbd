"""Register, log in, and who the viewer is."""

import strawberry

from auth.sessions import SignedIn
from graph.context import Info
from graph.types import User, viewer_of


@strawberry.input
class RegisterInput:
    username: str
    email: str
    password: str


@strawberry.input
class LoginInput:
    username: str
    password: str
    otp: str | None = None


@strawberry.input
class RefreshSessionInput:
    refresh_token: str


@strawberry.input
class ChangePasswordInput:
    current_password: str
    new_password: str


@strawberry.type
class AuthPayload:
    access_token: str
    refresh_token: str = strawberry.field(description="For `refreshSession`, once: each answer brings the next one.")
    token_type: str
    expires_in: int = strawberry.field(description="Seconds.")
    user: User

    @classmethod
    def of(cls, signed_in: SignedIn) -> "AuthPayload":
        assert signed_in.refresh_token is not None, "sessions that cannot be refreshed are REST's"
        return cls(
            access_token=signed_in.access_token,
            refresh_token=signed_in.refresh_token,
            token_type="bearer",  # noqa: S106
            expires_in=signed_in.expires_in,
            user=User.own(signed_in.user),
        )


@strawberry.type
class AuthQuery:
    @strawberry.field(description="The viewer; null when anonymous.")
    async def me(self, info: Info) -> User | None:
        return None if info.context.viewer is None else await viewer_of(info.context)


@strawberry.type
class AuthMutation:
    @strawberry.mutation
    async def register(self, info: Info, input: RegisterInput) -> AuthPayload:
        accounts = info.context.services.accounts
        return AuthPayload.of(await accounts.register(input.username, input.email, input.password, info.context.device))

    @strawberry.mutation
    async def login(self, info: Info, input: LoginInput) -> AuthPayload:
        accounts = info.context.services.accounts
        return AuthPayload.of(await accounts.login(input.username, input.password, info.context.device, otp=input.otp))

    @strawberry.mutation(description="A new access token, and the next refresh token. Takes no access token.")
    async def refresh_session(self, info: Info, input: RefreshSessionInput) -> AuthPayload:
        sessions = info.context.services.sessions
        return AuthPayload.of(await sessions.refresh(input.refresh_token, info.context.device))

    @strawberry.mutation(description="Ends every session and begins a new one.")
    async def change_password(self, info: Info, input: ChangePasswordInput) -> AuthPayload:
        viewer, device = info.context.require_session(), info.context.device
        credentials = info.context.services.credentials
        signed_in = await credentials.change_password(viewer, input.current_password, input.new_password, device)
        return AuthPayload.of(signed_in)
