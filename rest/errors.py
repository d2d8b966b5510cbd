"""How a failure looks on REST: one table from code to status, `{"detail": …}`, and the unforeseen masked."""

import logging
import math
import secrets
from collections.abc import Mapping
from typing import Any

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError

from errors import ChatError, ErrorCode, InternalError, QuotaExceeded, TooLarge, TooSlow

logger = logging.getLogger(__name__)

STATUS = {
    ErrorCode.UNAUTHENTICATED: 401,
    ErrorCode.TOKEN_EXPIRED: 401,
    ErrorCode.INVALID_CREDENTIALS: 401,
    ErrorCode.OTP_REQUIRED: 401,
    ErrorCode.INVALID_OTP: 401,
    ErrorCode.FORBIDDEN: 403,
    ErrorCode.NOT_FOUND: 404,
    ErrorCode.CONFLICT: 409,
    ErrorCode.USERNAME_TAKEN: 400,
    ErrorCode.EMAIL_TAKEN: 400,
    ErrorCode.RUN_ACTIVE: 409,
    ErrorCode.BAD_USER_INPUT: 422,
    ErrorCode.QUERY_TOO_COMPLEX: 422,
    ErrorCode.CONTEXT_TOO_LONG: 422,
    ErrorCode.CONTENT_FILTERED: 422,
    ErrorCode.RATE_LIMITED: 429,
    ErrorCode.QUOTA_EXCEEDED: 429,
    ErrorCode.PROVIDER_RATE_LIMITED: 429,
    ErrorCode.PROVIDER_AUTH: 502,
    ErrorCode.PROVIDER_ERROR: 502,
    ErrorCode.MODEL_UNAVAILABLE: 503,
    ErrorCode.UNAVAILABLE: 503,
    ErrorCode.PROVIDER_TIMEOUT: 504,
    ErrorCode.INTERNAL_ERROR: 500,
}
RETRY_SECONDS = 5
"""What a client is told to wait where nobody knows better."""


def json_response(content: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(orjson.dumps(content), status, headers, "application/json")


def status_of(error: ChatError) -> int:
    if isinstance(error, TooSlow):
        return 408
    return 413 if isinstance(error, TooLarge) else STATUS[error.code]


def error_response(error: ChatError) -> Response:
    """`{"detail": text}`; for 422 FastAPI's list of `{type, loc, msg}`. 429 always says when to come back,
    and `resets_at` when a day's limit begins anew."""
    status = status_of(error)
    headers: dict[str, str] = {}
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if status == 429 or error.retry_after is not None:
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after or RETRY_SECONDS)))
    body = {"detail": _detail(error, status)}
    if isinstance(error, QuotaExceeded):
        body["resets_at"] = error.resets_at.isoformat()
    return json_response(body, status, headers)


def _detail(error: ChatError, status: int) -> object:
    if status != 422:
        return error.message
    location = ["body"] if error.field is None else ["body", *error.field.split(".")]
    return [{"type": error.code.lower(), "loc": location, "msg": error.message}]


def masked(error: Exception, what: str) -> InternalError:
    """The error to show instead of one that we did not foresee. The log has its traceback under the same id."""
    request_id = secrets.token_hex(8)
    logger.error("request %s: %s failed", request_id, what, exc_info=error)
    return InternalError(f"Something went wrong (request {request_id})")


async def _chat_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, ChatError)
    return error_response(error)


async def _validation_error(request: Request, error: Exception) -> Response:
    """FastAPI's list without the input: it may be a password, or nothing that JSON can say."""
    assert isinstance(error, RequestValidationError)
    items = [_item(item) for item in error.errors()]
    for item in items:
        if item["type"] == "model_attributes_type" and item["loc"] == ("body",):
            item["msg"] = _whole_body(request)
    return json_response({"detail": items}, 422)


def _whole_body(request: Request) -> str:
    """What is wrong with a body that is no object. FastAPI does not read one as JSON that says it is something else."""
    as_json = "json" in request.headers.get("content-type", "").lower()
    return "The body must be a JSON object" if as_json else "Content-Type must be application/json"


def _item(item: dict[str, Any]) -> dict[str, Any]:
    shown = {name: item[name] for name in ("type", "loc", "msg")}
    if item["type"] == "json_invalid":
        shown["ctx"] = item["ctx"]
    return shown


def install(app: FastAPI) -> None:
    app.add_exception_handler(ChatError, _chat_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
