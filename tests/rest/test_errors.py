"""The one table from code to status, and what an error looks like on REST."""

from __future__ import annotations

import logging
import re

import httpx
import orjson
import pytest
from fastapi import FastAPI

from errors import (
    BadUserInput,
    ChatError,
    ErrorCode,
    Forbidden,
    InternalError,
    NotFound,
    ProviderRateLimited,
    RateLimited,
    RunActive,
    TokenExpired,
    TooLarge,
    Unavailable,
)
from rest import errors
from rest.deps import OpenRoute
from rest.errors import STATUS, error_response, masked


def test_the_contracts_table() -> None:
    expected = {
        400: ["USERNAME_TAKEN", "EMAIL_TAKEN"],
        401: ["UNAUTHENTICATED", "TOKEN_EXPIRED", "INVALID_CREDENTIALS", "OTP_REQUIRED", "INVALID_OTP"],
        403: ["FORBIDDEN"],
        404: ["NOT_FOUND"],
        409: ["CONFLICT", "RUN_ACTIVE"],
        422: ["BAD_USER_INPUT", "QUERY_TOO_COMPLEX", "CONTEXT_TOO_LONG", "CONTENT_FILTERED"],
        429: ["RATE_LIMITED", "QUOTA_EXCEEDED", "PROVIDER_RATE_LIMITED"],
        500: ["INTERNAL_ERROR"],
        502: ["PROVIDER_AUTH", "PROVIDER_ERROR"],
        503: ["MODEL_UNAVAILABLE", "UNAVAILABLE"],
        504: ["PROVIDER_TIMEOUT"],
    }
    assert {code: status for status, codes in expected.items() for code in codes} == STATUS


def test_every_code_has_a_status() -> None:
    assert set(STATUS) == set(ErrorCode)


@pytest.mark.parametrize(
    ("error", "status"), [(Forbidden(), 403), (NotFound("对话不存在"), 404), (RunActive(), 409), (TooLarge("big"), 413)]
)
def test_a_detail_is_text(error: ChatError, status: int) -> None:
    response = error_response(error)
    assert response.status_code == status
    assert response.headers["content-type"] == "application/json"
    assert orjson.loads(response.body) == {"detail": error.message}


def test_422_has_fastapis_list() -> None:
    response = error_response(BadUserInput("email is not an e-mail address", field="email"))
    assert orjson.loads(response.body) == {
        "detail": [{"type": "bad_user_input", "loc": ["body", "email"], "msg": "email is not an e-mail address"}]
    }
    assert orjson.loads(error_response(BadUserInput("bad")).body)["detail"][0]["loc"] == ["body"]
    nested = BadUserInput("bad", field="messages.id")
    assert orjson.loads(error_response(nested).body)["detail"][0]["loc"] == ["body", "messages", "id"]


@pytest.mark.parametrize(
    ("error", "seconds"),
    [
        (RateLimited(retry_after=2.1), "3"),
        (RateLimited(retry_after=0.01), "1"),
        (RateLimited(), "5"),
        (ProviderRateLimited(), "5"),
        (Unavailable(retry_after=30), "30"),
        (Unavailable(), None),
        (NotFound(), None),
    ],
)
def test_retry_after_is_whole_seconds_and_always_there_with_429(error: ChatError, seconds: str | None) -> None:
    assert error_response(error).headers.get("Retry-After") == seconds


def test_401_names_its_scheme() -> None:
    assert error_response(TokenExpired()).headers["WWW-Authenticate"] == "Bearer"


def test_the_unforeseen_is_masked_under_an_id_that_the_log_has(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        shown = masked(ValueError("private"), "GET '/x'")
    assert isinstance(shown, InternalError)
    assert "private" not in shown.message
    (request_id,) = re.findall(r"request ([0-9a-f]{16})", shown.message)
    (record,) = caplog.records
    assert request_id in record.getMessage()
    assert record.exc_info is not None
    assert str(record.exc_info[1]) == "private"


async def test_a_handler_that_breaks_answers_500_with_the_id(caplog: pytest.LogCaptureFixture) -> None:
    """Inside CORS, or a browser would hide the answer from its page; so not by Starlette's outermost handler."""
    app = FastAPI()
    app.router.route_class = OpenRoute

    @app.get("/broken\n{name}")
    async def broken(name: str) -> str:
        raise ValueError(f"private {name}")

    errors.install(app)
    transport = httpx.ASGITransport(app, raise_app_exceptions=True)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        answer = await client.get("/broken%0Ax")
    assert answer.status_code == 500
    (request_id,) = re.findall(r"^Something went wrong \(request ([0-9a-f]{16})\)$", answer.json()["detail"])
    assert request_id in caplog.text
    # A path cannot forge a line of the log.
    assert "\n" not in caplog.records[0].getMessage()
