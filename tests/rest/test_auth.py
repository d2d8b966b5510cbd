"""/api/auth: every status and message of the guide."""

from __future__ import annotations

import re
import sqlite3
import uuid

import httpx
import pytest

from tests.conftest import Account, Register
from tests.rest.talk import Json, forged
from tests.server import Server


def registration(**fields: object) -> Json:
    name = f"u{uuid.uuid4().hex}"
    return {"username": name, "email": f"{name}@example.com", "password": "securepassword123", **fields}


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


async def test_register_answers_with_a_token_that_works(client: httpx.AsyncClient) -> None:
    body = registration()
    answer = await client.post("/api/auth/register", json=body)
    assert answer.status_code == 200
    assert set(answer.json()) == {"access_token", "token_type"}
    assert answer.json()["token_type"] == "bearer"
    headers = {"Authorization": f"Bearer {answer.json()['access_token']}"}
    me = await client.get("/api/auth/me", headers=headers)
    assert me.status_code == 200
    assert set(me.json()) == {"id", "username", "email", "created_at"}
    assert (me.json()["username"], me.json()["email"]) == (body["username"], body["email"])
    assert me.json()["id"].startswith("user_")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", me.json()["created_at"])


@pytest.mark.parametrize("spell", [str, str.upper, str.title], ids=["same", "upper case", "title case"])
async def test_a_taken_name_is_400(client: httpx.AsyncClient, spell: type[str]) -> None:
    """Names are compared in NFC, case-folded."""
    body = registration()
    await client.post("/api/auth/register", json=body)
    again = await client.post("/api/auth/register", json=registration(username=spell(body["username"])))
    assert (again.status_code, again.json()) == (400, {"detail": "用户名已存在"})


async def test_a_name_composed_otherwise_is_the_same_name(client: httpx.AsyncClient) -> None:
    unique = uuid.uuid4().hex
    first = await client.post("/api/auth/register", json=registration(username=f"caf\u00e9{unique}"))
    second = await client.post("/api/auth/register", json=registration(username=f"cafe\u0301{unique}"))
    assert (first.status_code, second.status_code) == (200, 400)


async def test_chinese_names_are_welcome(client: httpx.AsyncClient) -> None:
    answer = await client.post("/api/auth/register", json=registration(username=f"小明{uuid.uuid4().hex}"))
    assert answer.status_code == 200


async def test_a_taken_address_is_400(client: httpx.AsyncClient) -> None:
    body = registration()
    await client.post("/api/auth/register", json=body)
    again = await client.post("/api/auth/register", json=registration(email=body["email"]))
    assert again.status_code == 400
    assert isinstance(again.json()["detail"], str)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("username", ""),
        ("username", "a\u0000b"),
        ("username", "a" * 65),
        ("username", 5),
        ("username", None),
        ("email", "not an address"),
        ("email", ["a@b.co"]),
        ("password", "1234567"),
        ("password", "x" * 129),
        ("password", True),
    ],
)
async def test_bad_fields_are_422_with_a_list_that_names_them(
    client: httpx.AsyncClient, field: str, value: object
) -> None:
    answer = await client.post("/api/auth/register", json=registration(**{field: value}))
    assert answer.status_code == 422
    (item,) = answer.json()["detail"]
    assert set(item) == {"type", "loc", "msg"}
    assert item["loc"] == ["body", field]


async def test_a_refused_password_is_not_repeated(client: httpx.AsyncClient) -> None:
    """Answers are logged in many places."""
    answer = await client.post("/api/auth/register", json={"username": "secret-name", "password": "secret-pass"})
    assert answer.status_code == 422
    assert "secret" not in answer.text


async def test_passwords_of_8_and_of_128_characters_are_good(client: httpx.AsyncClient) -> None:
    for password in ("12345678", "密" * 128):
        answer = await client.post("/api/auth/register", json=registration(password=password))
        assert answer.status_code == 200, answer.text


async def test_login(client: httpx.AsyncClient, account: Account) -> None:
    body = {"username": account.username, "password": account.password}
    answer = await client.post("/api/auth/login", json=body)
    assert answer.status_code == 200
    assert set(answer.json()) == {"access_token", "token_type"}
    headers = {"Authorization": f"Bearer {answer.json()['access_token']}"}
    assert (await client.get("/api/auth/me", headers=headers)).json()["id"] == account.id


@pytest.mark.parametrize("name", ["nobody-of-this-name", "", "a\u0000b", "x" * 100_000])
async def test_a_wrong_name_and_a_wrong_password_are_the_same_401(
    client: httpx.AsyncClient, account: Account, name: str
) -> None:
    """Otherwise log-in would tell who has an account."""
    wrong_name = await client.post("/api/auth/login", json={"username": name, "password": "password123"})
    wrong_password = await client.post("/api/auth/login", json={"username": account.username, "password": "x"})
    assert (wrong_name.status_code, wrong_name.json()) == (401, {"detail": "用户名或密码错误"})
    assert (wrong_password.status_code, wrong_password.content) == (401, wrong_name.content)
    assert wrong_name.headers["WWW-Authenticate"] == "Bearer"


PROTECTED = [
    ("GET", "/api/auth/me"),
    ("GET", "/api/conversations"),
    ("POST", "/api/conversations"),
    ("GET", "/api/conversations/x"),
    ("PUT", "/api/conversations/x"),
    ("DELETE", "/api/conversations/x"),
    ("POST", "/api/chat"),
    ("GET", "/api/stats"),
]


@pytest.mark.parametrize(("method", "path"), PROTECTED)
async def test_what_a_token_that_is_none_is_told(
    client: httpx.AsyncClient, account: Account, method: str, path: str
) -> None:
    """401 on every route, whatever the body: a stranger's body is not even read."""
    expired = bearer(forged(account, iat=1, nbf=1, exp=2))
    cases: list[tuple[dict[str, str], str]] = [
        ({}, "未授权"),
        ({"Authorization": "Bearer"}, "未授权"),
        ({"Authorization": "Bearer nonsense"}, "Token无效"),
        ({"Authorization": "Basic dXNlcjpwYXNz"}, "Token无效"),
        (bearer(forged(account, secret="another secret of 32 bytes or more")), "Token无效"),
        (bearer(forged(account, typ="refresh")), "Token无效"),
        (expired, "Token已过期"),
    ]
    for headers, detail in cases:
        answer = await client.request(method, path, headers=headers, content=b"{")
        assert (answer.status_code, answer.json()) == (401, {"detail": detail})
        assert answer.headers["WWW-Authenticate"] == "Bearer"


async def test_a_token_that_is_not_ascii_is_refused(client: httpx.AsyncClient) -> None:
    headers = [(b"Authorization", "Bearer 令牌".encode())]
    answer = await client.get("/api/auth/me", headers=headers)
    assert (answer.status_code, answer.json()) == (401, {"detail": "Token无效"})


@pytest.mark.parametrize("scheme", ["Bearer ", "bearer ", "BEARER   ", ""])
async def test_the_scheme_may_be_spelt_otherwise_or_left_out(
    client: httpx.AsyncClient, account: Account, scheme: str
) -> None:
    answer = await client.get("/api/auth/me", headers={"Authorization": f"{scheme}{account.token}"})
    assert answer.status_code == 200


@pytest.mark.parametrize(("method", "path"), PROTECTED)
async def test_a_user_who_is_gone_is_404_for_me_and_401_everywhere_else(
    server: Server, client: httpx.AsyncClient, register: Register, method: str, path: str
) -> None:
    gone = register()
    with sqlite3.connect(server.data_dir / "chat.db", timeout=10) as database:
        database.execute("DELETE FROM user_account WHERE id = ?", [gone.id])
    database.close()
    answer = await client.request(method, path, headers=gone.headers)
    if path == "/api/auth/me":
        assert (answer.status_code, answer.json()) == (404, {"detail": "用户不存在"})
    else:
        assert (answer.status_code, answer.json()) == (401, {"detail": "Token无效"})
