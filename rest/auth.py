"""/api/auth: register, log in, who am I. There is no refreshing here: when the token ends, clients log in again."""

from fastapi import APIRouter

from errors import NotFound
from rest.bodies import Detail, LoginBody, RegisterBody, TokenAnswer, UserAnswer
from rest.deps import From, OpenRoute, Served, Token

router = APIRouter(prefix="/api/auth", route_class=OpenRoute, tags=["auth"])


@router.post("/register", responses={400: {"model": Detail}, 429: {"model": Detail}})
async def register(body: RegisterBody, services: Served, device: From) -> TokenAnswer:
    """
    Raises:
        UsernameTaken, EmailTaken, BadUserInput, RateLimited
    """
    signed_in = await services.accounts.register(body.username, body.email, body.password, device, refreshable=False)
    return TokenAnswer(access_token=signed_in.access_token)


@router.post("/login", responses={401: {"model": Detail}, 429: {"model": Detail}})
async def login(body: LoginBody, services: Served, device: From) -> TokenAnswer:
    """
    Raises:
        InvalidCredentials, OtpRequired, InvalidOtp, RateLimited
    """
    signed_in = await services.accounts.login(body.username, body.password, device, otp=body.otp, refreshable=False)
    return TokenAnswer(access_token=signed_in.access_token)


@router.get("/me", responses={401: {"model": Detail}, 404: {"model": Detail}})
async def me(token: Token, services: Served) -> UserAnswer:
    """The token's user. The one route that tells a user who is gone (404) from a bad token (401).

    Raises:
        TokenMissing, TokenInvalid, TokenExpired, NotFound
    """
    user, _ = await services.sessions.user_of(token)
    if user is None:
        raise NotFound("用户不存在")
    return UserAnswer(
        id=user.id,
        username=user.username,
        email=user.email,
        created_at=user.created_at.strftime("%Y-%m-%dT%H:%M:%S"),
    )
