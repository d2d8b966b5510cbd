"""/api/auth/oauth: to Google or GitHub and back, and the exchange of the code that a browser brings home.

A browser goes to `/{provider}` and comes back to `/{provider}/callback`. Whatever happened, it ends at the operator's
page, with `#code=…`, `#link_code=…` or `#error=…&message=…` behind its address: a fragment is sent to no server.
"""

from typing import Annotated
from urllib.parse import quote, urlencode

from fastapi import APIRouter, Query, Request, Response

from auth.round_trip import TRIP_SECONDS
from errors import ChatError
from models.identity import CodePurpose
from rest.bodies import CodeBody, Detail, TokenAnswer
from rest.deps import From, OpenRoute, Served
from rest.errors import masked
from services import Services

PATH = "/api/auth/oauth"
SEE_OTHER = 303
FRAGMENTS = {CodePurpose.SIGN_IN: "code", CodePurpose.LINK: "link_code"}
MAX_CHARS = 4096

router = APIRouter(prefix=PATH, route_class=OpenRoute, tags=["auth"])

Text = Annotated[str | None, Query(max_length=MAX_CHARS)]


@router.get("/{provider}", status_code=SEE_OTHER, response_class=Response, responses={404: {"model": Detail}})
async def begin(
    request: Request, provider: str, services: Served, challenge: Text = None, ticket: Text = None
) -> Response:
    """Send the browser to the provider. `challenge`: the SHA-256 of a verifier that the page keeps, in base64url; the
    code that comes back is then worth nothing to whoever does not have it. `ticket`: of `beginIdentityLink`.

    Raises:
        NotFound: there is no such provider, or the operator has not set it up.
    """
    services.oauth.provider(provider)
    address = _callback(request, services, provider)
    try:
        url, cookie = await services.oauth.begin(provider, address, challenge, ticket)
        answer = Response(status_code=SEE_OTHER, headers={"Location": url})
    except ChatError as error:
        return _home(services, provider, error)
    except Exception as failure:
        return _home(services, provider, masked(failure, f"the way to {provider}"))
    secure = address.startswith("https:")
    answer.set_cookie(_cookie(provider), cookie, TRIP_SECONDS, path=PATH, secure=secure, httponly=True, samesite="lax")
    return answer


@router.get("/{provider}/callback", status_code=SEE_OTHER, response_class=Response, responses={404: {"model": Detail}})
async def callback(
    request: Request,
    provider: str,
    services: Served,
    device: From,
    state: Text = None,
    code: Text = None,
    error: Text = None,
) -> Response:
    """Where the provider sends the browser back to.

    Raises:
        NotFound: there is no such provider, or the operator has not set it up.
    """
    services.oauth.provider(provider)
    cookie = request.cookies.get(_cookie(provider))
    try:
        purpose, found = await services.oauth.finish(provider, cookie, state, None if error else code, device)
        answer = _to(services, {FRAGMENTS[purpose]: found, "provider": provider})
    except ChatError as refusal:
        answer = _home(services, provider, refusal)
    except Exception as failure:
        answer = _home(services, provider, masked(failure, f"the callback of {provider}"))
    answer.delete_cookie(_cookie(provider), path=PATH, httponly=True, samesite="lax")
    return answer


@router.post("/token", responses={401: {"model": Detail}, 429: {"model": Detail}})
async def exchange(body: CodeBody, services: Served, device: From) -> TokenAnswer:
    """An access token for the code that the page was opened with.

    Raises:
        BadUserInput, OtpRequired, InvalidOtp, InvalidCredentials, RateLimited
    """
    signed_in = await services.oauth.sign_in(body.code, device, verifier=body.verifier, otp=body.otp, refreshable=False)
    return TokenAnswer(access_token=signed_in.access_token)


def _cookie(provider: str) -> str:
    return f"oauth_{provider}"


def _callback(request: Request, services: Services, provider: str) -> str:
    base = services.settings.public_url or str(request.base_url).rstrip("/")
    return f"{base}{PATH}/{provider}/callback"


def _home(services: Services, provider: str, error: ChatError) -> Response:
    return _to(services, {"error": error.code.value, "message": error.message, "provider": provider})


def _to(services: Services, fragment: dict[str, str]) -> Response:
    location = f"{services.settings.frontend}#{urlencode(fragment, quote_via=quote)}"
    return Response(status_code=SEE_OTHER, headers={"Location": location})
