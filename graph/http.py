"""GraphQL over HTTP: JSON for queries and mutations, server-sent events for subscriptions, GraphiQL for browsers."""

import logging
import math
from collections.abc import AsyncGenerator
from typing import Any

import orjson
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from auth.sessions import Viewer
from auth.tokens import bearer
from errors import BadUserInput, ChatError, RateLimited, TooLarge, Unauthenticated
from graph.context import Context
from graph.errors import format_chat_error
from graph.execution import Operation, RequestRefused, Runner
from payloads import read_json
from peers import device_of
from services import Services
from streaming import ClientLeft, EventStream, while_connected

logger = logging.getLogger(__name__)

JSON = "application/json"
GRAPHQL_JSON = "application/graphql-response+json"
EVENTS = "text/event-stream"
STATUS = {Unauthenticated: 401, RateLimited: 429}
COMPLETE = b"event: complete\ndata:\n\n"


async def handle(request: Request, runner: Runner, services: Services) -> Response:
    """One request, whatever it holds, to one answer. Never raises for a client's mistake."""
    accepted = accepted_types(request.headers.get("accept"))
    kind = _answer_type(accepted)
    device = device_of(request)
    try:
        services.operations.of_address(device)
        body = await _read(request, services.limits.json_values)
        operation = runner.prepare(body)
        _check_method(request, operation)
        viewer = await _viewer(request, services)
    except _Refused as refused:
        return _respond({"errors": [format_chat_error(refused.error)]}, JSON, refused.status, refused.headers)
    except RequestRefused as refused:
        if refused.malformed:
            return _respond({"errors": refused.errors}, GRAPHQL_JSON if kind == GRAPHQL_JSON else JSON, 400)
        # 200 for application/json: older clients take any other status for a broken network.
        return _respond({"errors": refused.errors}, kind, 400 if kind == GRAPHQL_JSON else 200)
    except ChatError as error:
        status = next((number for kind_of, number in STATUS.items() if isinstance(error, kind_of)), 503)
        result = {"errors": [format_chat_error(error)]}
        return _respond(result, kind, status if kind == GRAPHQL_JSON else 200, _retry_after(result))
    except (ClientDisconnect, ClientLeft):
        return Response(status_code=499)
    context = Context(services, viewer, device)
    if operation.streams or kind == EVENTS:
        return _stream(runner, operation, context, accepted)
    try:
        result = await while_connected(request.receive, runner.execute(operation, context))
    except ClientLeft:
        return Response(status_code=499)
    failed = kind == GRAPHQL_JSON and "data" not in result
    return _respond(result, kind, 400 if failed else 200, _retry_after(result))


class _Refused(Exception):
    def __init__(self, status: int, message: str, **headers: str) -> None:
        super().__init__(message)
        self.status = status
        self.error = BadUserInput(message)
        self.headers = headers


def accepted_types(header: str | None) -> list[str]:
    """The media types of an Accept header, the most wanted first; those refused by `q=0` left out."""
    wanted: list[tuple[float, str]] = []
    for part in (header or "*/*").lower().split(","):
        name, *parameters = (piece.strip() for piece in part.split(";"))
        weight = next((piece[2:] for piece in parameters if piece.startswith("q=")), "1")
        try:
            quality = float(weight)
        except ValueError:
            quality = 1.0
        if name and quality > 0:
            wanted.append((-quality, name))
    return [name for _, name in sorted(wanted, key=lambda pair: pair[0])]


def _answer_type(accepted: list[str]) -> str:
    """JSON wherever the client takes it: one that names events among others wants them for subscriptions."""
    for name in accepted:
        if name == GRAPHQL_JSON:
            return GRAPHQL_JSON
        if name in {JSON, "application/*", "*/*", "application/graphql+json"}:
            return JSON
    return EVENTS if EVENTS in accepted else JSON


async def _read(request: Request, most: int) -> object:
    if request.method == "GET":
        return _from_address(request)
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != JSON:
        raise _Refused(415, f"Content-Type must be {JSON}")
    body = await request.body()
    try:
        return await read_json(body, most)
    except TooLarge as error:
        raise _Refused(413, error.message) from None
    except orjson.JSONDecodeError:
        raise _Refused(400, "The body is not JSON") from None


def _from_address(request: Request) -> dict[str, Any]:
    parameters = request.query_params
    found: dict[str, Any] = {"query": parameters.get("query"), "operationName": parameters.get("operationName")}
    if found["query"] is None:
        raise _Refused(400, "There is no query")
    if variables := parameters.get("variables"):
        try:
            found["variables"] = orjson.loads(variables)
        except orjson.JSONDecodeError:
            raise _Refused(400, "variables is not JSON") from None
    return found


def _check_method(request: Request, operation: Operation) -> None:
    # A mutation by GET could be asked for by any page's <img>.
    if request.method == "GET" and operation.kind.value == "mutation":
        raise _Refused(405, "Mutations are asked for by POST", Allow="POST")


async def _viewer(request: Request, services: Services) -> Viewer | None:
    token = bearer(request.headers.get("authorization"))
    if token is None:
        return None
    viewer = await services.sessions.viewer(token)
    services.operations.of_user(viewer.id)
    return viewer


def _stream(runner: Runner, operation: Operation, context: Context, accepted: list[str]) -> Response:
    if EVENTS not in accepted and "text/*" not in accepted:
        message = f"A subscription is answered as {EVENTS} (say so in Accept), or over a WebSocket"
        return _respond({"errors": [format_chat_error(BadUserInput(message))]}, JSON, 406)
    services = context.services
    return EventStream(
        _frames(runner, operation, context),
        visit=services.visits.visit(context.viewer),
        farewell=_farewell,
        closing=services.closing,
        grace=services.engine.limits.shutdown_grace + 1,
        send_timeout=services.limits.send_timeout,
    )


async def _frames(runner: Runner, operation: Operation, context: Context) -> AsyncGenerator[bytes, None]:
    """The graphql-sse protocol, distinct connections: `next` for each answer, then `complete`."""
    try:
        if operation.streams:
            async for result in runner.subscribe(operation, context):
                yield _next(result)
        else:
            yield _next(await runner.execute(operation, context))
    except RequestRefused as refused:
        yield _next({"errors": refused.errors})
    yield COMPLETE


def _farewell(error: ChatError) -> bytes:
    return _next({"errors": [format_chat_error(error)]}) + COMPLETE


def _next(result: dict[str, Any]) -> bytes:
    return b"event: next\ndata: " + orjson.dumps(result) + b"\n\n"


def _retry_after(result: dict[str, Any]) -> dict[str, str]:
    """For clients and proxies that know HTTP better than `extensions.retryAfter`."""
    waits = [error["extensions"].get("retryAfter") for error in result.get("errors", ())]
    longest = max((wait for wait in waits if wait is not None), default=None)
    return {} if longest is None else {"Retry-After": str(max(1, math.ceil(longest)))}


def _respond(result: dict[str, Any], kind: str, status: int, headers: dict[str, str] | None = None) -> Response:
    if kind == EVENTS:
        return Response(_next(result) + COMPLETE, status, media_type=EVENTS)
    media_type = f"{kind}; charset=utf-8"
    return Response(orjson.dumps(result), status, headers={**(headers or {}), "Content-Type": media_type})
