"""What handlers are given: the services, and who is asking."""

from collections.abc import Callable, Coroutine
from typing import Annotated, Any, cast

from fastapi import Depends, Request, Response, Security
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from fastapi.security import HTTPBearer
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from auth.device import Device
from auth.sessions import Viewer
from auth.tokens import bearer
from errors import ChatError, TokenMissing, TooLarge
from payloads import read_json
from peers import device_of
from rest.errors import error_response, masked
from services import Services
from streaming import ClientLeft

CLIENT_CLOSED = 499
"""nginx's number for an answer that nobody waits for."""

documented = HTTPBearer(auto_error=False, description="The access_token of /api/auth/login")
"""For the OpenAPI page only: `token_of` reads the header itself and is more forgiving."""


def services_of(request: Request) -> Services:
    return cast(Services, request.app.state.services)


def token_of(request: Request) -> str:
    """
    Raises:
        TokenMissing
    """
    token = bearer(request.headers.get("authorization"))
    if token is None:
        raise TokenMissing
    return token


async def get_services(request: Request) -> Services:
    return services_of(request)


async def get_viewer(request: Request, _scheme: Annotated[object, Security(documented)]) -> Viewer:
    """Who the token belongs to; `ViewerRoute` has found out before it read the body."""
    return cast(Viewer, request.state.viewer)


async def get_token(request: Request, _scheme: Annotated[object, Security(documented)]) -> str:
    return token_of(request)


async def get_device(request: Request) -> Device:
    return device_of(request)


Served = Annotated[Services, Depends(get_services)]
Signed = Annotated[Viewer, Depends(get_viewer)]
Token = Annotated[str, Depends(get_token)]
From = Annotated[Device, Depends(get_device)]
Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class StrictRequest(Request):
    """JSON read by orjson, which refuses what Python's reader lets through and no answer could repeat: NaN, lone
    surrogates, text that is not UTF-8, a depth over 1,024. FastAPI turns its error into a 422, and TooLarge into a 400
    that the routes undo."""

    async def json(self) -> Any:
        return await read_json(await self.body(), services_of(self).limits.json_values)


class OpenRoute(APIRoute):
    """A route for everyone. Errors that nobody foresaw are masked here, inside CORS, so that browsers can read them."""

    def get_route_handler(self) -> Handler:
        handler = super().get_route_handler()

        async def handle(original: Request) -> Response:
            request = StrictRequest(original.scope, original.receive)
            try:
                await self.admit(request)
                return await handler(request)
            except HTTPException as error:
                if isinstance(error.__cause__, TooLarge):
                    raise error.__cause__ from None
                raise
            except (ChatError, RequestValidationError):
                raise
            except (ClientLeft, ClientDisconnect):
                return Response(status_code=CLIENT_CLOSED)
            except Exception as error:
                return error_response(masked(error, f"{request.method} {request.url.path!r}"))

        return handle

    async def admit(self, request: Request) -> None:
        """Runs before the body is read.

        Raises:
            RateLimited
        """
        services_of(request).operations.of_address(device_of(request))


class ViewerRoute(OpenRoute):
    """A route for users: a stranger's body is not even read."""

    async def admit(self, request: Request) -> None:
        """
        Raises:
            RateLimited, TokenMissing, TokenInvalid, TokenExpired
        """
        await super().admit(request)
        services = services_of(request)
        viewer = await services.sessions.viewer(token_of(request))
        services.operations.of_user(viewer.id)
        request.state.viewer = viewer
