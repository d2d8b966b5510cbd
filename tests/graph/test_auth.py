from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta

import pytest

from tests.conftest import Account
from tests.graph.http_client import Graph

REGISTER = """mutation ($input: RegisterInput!) { register(input: $input) {
    accessToken refreshToken tokenType expiresIn user { id username email createdAt role } } }"""
LOGIN = """mutation ($input: LoginInput!) { login(input: $input) {
    accessToken refreshToken tokenType expiresIn user { id username email role } } }"""
ME = "{ me { id username email createdAt role } }"


def _input(**changes: str) -> dict[str, str]:
    name = uuid.uuid4().hex
    return {"username": name, "email": f"{name}@example.com", "password": "password123"} | changes


async def test_nobody_is_null_and_no_failure(anonymous: Graph) -> None:
    assert await anonymous.data(ME) == {"me": None}


async def test_a_new_user_is_the_viewer_of_their_token(anonymous: Graph) -> None:
    asked = _input()
    payload = (await anonymous.data(REGISTER, input=asked))["register"]
    assert payload["tokenType"] == "bearer"
    assert payload["expiresIn"] == 30 * 60
    user = payload["user"]
    assert user["id"].startswith("user_")
    assert (user["username"], user["email"], user["role"]) == (asked["username"], asked["email"], "USER")
    created = datetime.fromisoformat(user["createdAt"])
    assert created.utcoffset() == timedelta(0)
    assert abs(datetime.now(UTC) - created) < timedelta(minutes=1)

    me = (await Graph(anonymous.http, payload["accessToken"]).data(ME))["me"]
    assert me == user


async def test_log_in_gives_a_token_for_the_same_user(anonymous: Graph, viewer_account: Account) -> None:
    asked = {"username": viewer_account.username.upper(), "password": viewer_account.password}
    payload = (await anonymous.data(LOGIN, input=asked))["login"]
    assert payload["user"]["id"] == viewer_account.id
    me = (await Graph(anonymous.http, payload["accessToken"]).data(ME))["me"]
    assert me["id"] == viewer_account.id


async def test_a_wrong_name_and_a_wrong_password_look_the_same(anonymous: Graph, viewer_account: Account) -> None:
    """Otherwise log-in would tell who has an account."""
    wrong_password = await anonymous.answer(
        LOGIN, input={"username": viewer_account.username, "password": "not the password"}
    )
    for name in ("nobody of this name", "", "x" * 100_000, "a\u0000b"):
        wrong_name = await anonymous.answer(LOGIN, input={"username": name, "password": "password123"})
        assert wrong_name == wrong_password
    assert wrong_password["errors"][0]["extensions"] == {"code": "INVALID_CREDENTIALS"}


@pytest.mark.parametrize("password", ["", "x" * 100_000, "pass\u0000word123"])
async def test_a_password_that_nobody_can_have_is_just_wrong(
    anonymous: Graph, viewer_account: Account, password: str
) -> None:
    asked = {"username": viewer_account.username, "password": password}
    assert await anonymous.code(LOGIN, input=asked) == "INVALID_CREDENTIALS"


async def test_a_taken_name_is_named_in_any_spelling(anonymous: Graph, viewer_account: Account) -> None:
    error = await anonymous.error(REGISTER, input=_input(username=f" {viewer_account.username.upper()} "))
    assert error == {"code": "USERNAME_TAKEN", "field": "username"}


async def test_a_taken_address_is_named_in_any_spelling(anonymous: Graph, viewer_account: Account) -> None:
    error = await anonymous.error(REGISTER, input=_input(email=f"{viewer_account.username}@EXAMPLE.com"))
    assert error == {"code": "EMAIL_TAKEN", "field": "email"}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("username", ""),
        ("username", "   "),
        ("username", "x" * 65),
        ("username", "a\u0000b"),
        ("username", "a\nb"),
        ("username", "zero\u200bwidth"),
        ("email", ""),
        ("email", "nobody"),
        ("email", "a@b@example.com"),
        ("email", "nul\u0000@example.com"),
        ("email", f"{'x' * 250}@example.com"),
        ("password", "short12"),
        ("password", "x" * 129),
        ("password", "pass\u0000word"),
    ],
)
async def test_bad_input_is_refused_by_the_name_of_its_field(anonymous: Graph, field: str, value: str) -> None:
    error = await anonymous.error(REGISTER, input=_input(**{field: value}))
    assert error == {"code": "BAD_USER_INPUT", "field": field}


@pytest.mark.parametrize("field", ["username", "email", "password"])
@pytest.mark.parametrize("value", [None, 5, ["x"], {}])
async def test_what_is_not_text_is_refused(anonymous: Graph, field: str, value: object) -> None:
    assert await anonymous.code(REGISTER, input={**_input(), field: value}) == "BAD_USER_INPUT"
    asked = {"username": "someone", "password": "password123"}
    if field != "email":
        assert await anonymous.code(LOGIN, input={**asked, field: value}) == "BAD_USER_INPUT"


async def test_a_one_time_code_may_be_null(anonymous: Graph, viewer_account: Account) -> None:
    asked = {"username": viewer_account.username, "password": viewer_account.password, "otp": None}
    assert (await anonymous.data(LOGIN, input=asked))["login"]["user"]["id"] == viewer_account.id


async def test_names_of_every_script_are_welcome(anonymous: Graph) -> None:
    asked = _input(username=f"王小明{uuid.uuid4().hex[:8]}")
    assert (await anonymous.data(REGISTER, input=asked))["register"]["user"]["username"] == asked["username"]
