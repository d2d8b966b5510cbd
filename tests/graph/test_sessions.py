"""Sessions through GraphQL: anonymous, somebody else's, one's own."""

from __future__ import annotations

import httpx
import pytest

from tests.conftest import Account, StartServer, register_on
from tests.graph.documents import CREATE
from tests.graph.http_client import Graph, Json
from tests.graph.test_auth import ME, REGISTER, _input
from tests.server import Server

LOGIN = """mutation ($input: LoginInput!) { login(input: $input) {
    accessToken refreshToken user { id sessions { id } } } }"""
REFRESH = """mutation ($token: String!) { refreshSession(input: {refreshToken: $token}) {
    accessToken refreshToken expiresIn user { id username email } } }"""
LOGOUT = "mutation ($input: LogoutInput) { logout(input: $input) { sessionsEnded } }"
REVOKE = "mutation ($id: ID!) { revokeSession(input: {id: $id}) { sessionsEnded } }"
CHANGE = """mutation ($current: String!, $new: String!) {
    changePassword(input: {currentPassword: $current, newPassword: $new}) { accessToken refreshToken user { id } } }"""
DELETE = "mutation ($password: String!) { deleteAccount(input: {password: $password}) { id } }"
SESSIONS = "{ me { sessions { id createdAt lastSeenAt userAgent ip current } } }"


@pytest.fixture
async def newcomer_signed(anonymous: Graph) -> tuple[Json, Json]:
    """What a new user was registered with, and the answer."""
    asked = _input()
    payload: Json = (await anonymous.data(REGISTER, input=asked))["register"]
    return asked, payload


async def sign_in(anonymous: Graph, asked: Json) -> Json:
    known = {"username": asked["username"], "password": asked["password"]}
    payload: Json = (await anonymous.data(LOGIN, input=known))["login"]
    return payload


async def test_a_session_is_refreshed_without_an_access_token(
    anonymous: Graph, newcomer_signed: tuple[Json, Json]
) -> None:
    asked, signed = newcomer_signed
    fresh = (await anonymous.data(REFRESH, token=signed["refreshToken"]))["refreshSession"]
    assert fresh["refreshToken"] != signed["refreshToken"]
    assert fresh["expiresIn"] == 30 * 60
    assert (fresh["user"]["username"], fresh["user"]["email"]) == (asked["username"], asked["email"])
    me = await Graph(anonymous.http, fresh["accessToken"]).data(ME)
    assert me["me"]["id"] == signed["user"]["id"]


@pytest.mark.parametrize("token", ["", "nonsense", "acsr_" + "A" * 64, "x" * 100_000, "a\u0000b"])
async def test_what_is_no_refresh_token_is_refused(anonymous: Graph, token: str) -> None:
    assert await anonymous.error(REFRESH, token=token) == {"code": "UNAUTHENTICATED"}


async def test_an_access_token_does_not_refresh_and_a_refresh_token_gives_no_access(
    anonymous: Graph, newcomer_signed: tuple[Json, Json]
) -> None:
    _, signed = newcomer_signed
    assert await anonymous.code(REFRESH, token=signed["accessToken"]) == "UNAUTHENTICATED"
    assert await Graph(anonymous.http, signed["refreshToken"]).code(ME) == "UNAUTHENTICATED"


async def test_a_used_token_ends_the_session(start_server: StartServer) -> None:
    server = start_server(REFRESH_GRACE_SECONDS="0")
    async with httpx.AsyncClient(base_url=server.url, timeout=30) as client:
        graph = Graph(client)
        signed = (await graph.data(REGISTER, input=_input()))["register"]
        fresh = (await graph.data(REFRESH, token=signed["refreshToken"]))["refreshSession"]
        for token in (signed["refreshToken"], fresh["refreshToken"]):
            assert await graph.code(REFRESH, token=token) == "UNAUTHENTICATED"
        for access in (signed["accessToken"], fresh["accessToken"]):
            answer = await client.get("/api/stats", headers={"Authorization": f"Bearer {access}"})
            assert (answer.status_code, answer.json()) == (401, {"detail": "Token无效"})


async def test_sessions_are_listed_to_their_user_alone(
    anonymous: Graph, viewer: Graph, newcomer_signed: tuple[Json, Json]
) -> None:
    asked, signed = newcomer_signed
    phone = Graph(
        httpx.AsyncClient(base_url=anonymous.http.base_url, headers={"User-Agent": "A phone"}),
    )
    payload = await sign_in(phone, asked)
    assert len(payload["user"]["sessions"]) == 2
    await phone.http.aclose()
    listed = (await Graph(anonymous.http, signed["accessToken"]).data(SESSIONS))["me"]["sessions"]
    assert [(row["userAgent"], row["current"]) for row in listed if row["userAgent"] == "A phone"] == [
        ("A phone", False)
    ]
    assert sum(row["current"] for row in listed) == 1
    assert {row["ip"] for row in listed} == {"127.0.0.1"}
    made = (await viewer.data("mutation { createConversation(input: {}) { conversation { id } } }"))[
        "createConversation"
    ]
    add = """mutation ($input: AddMemberInput!) { addMember(input: $input) {
        conversation { members { user { username sessions { id } } } } } }"""
    added = await viewer.data(
        add, input={"conversationId": made["conversation"]["id"], "username": asked["username"], "role": "VIEWER"}
    )
    members = added["addMember"]["conversation"]["members"]
    assert {member["user"]["username"]: member["user"]["sessions"] is None for member in members}[asked["username"]]


async def test_logging_out_takes_a_viewer(anonymous: Graph) -> None:
    assert await anonymous.code(LOGOUT) == "UNAUTHENTICATED"
    assert await anonymous.code(REVOKE, id="sess_x") == "UNAUTHENTICATED"
    assert await anonymous.code(CHANGE, current="password123", new="password124") == "UNAUTHENTICATED"
    assert await anonymous.code(DELETE, password="password123") == "UNAUTHENTICATED"


async def test_log_out_here_then_everywhere(anonymous: Graph, newcomer_signed: tuple[Json, Json]) -> None:
    asked, first = newcomer_signed
    others = [await sign_in(anonymous, asked) for _ in range(2)]
    here, there = Graph(anonymous.http, first["accessToken"]), Graph(anonymous.http, others[0]["accessToken"])
    assert (await here.data(LOGOUT, input={}))["logout"] == {"sessionsEnded": 1}
    assert await here.code(ME) == "UNAUTHENTICATED"
    assert await anonymous.code(REFRESH, token=first["refreshToken"]) == "UNAUTHENTICATED"
    assert (await there.data(LOGOUT, input={"everywhere": True}))["logout"] == {"sessionsEnded": 2}
    assert await Graph(anonymous.http, others[1]["accessToken"]).code(ME) == "UNAUTHENTICATED"


async def test_somebody_else_s_session_does_not_exist(
    anonymous: Graph, stranger: Graph, newcomer_signed: tuple[Json, Json]
) -> None:
    asked, signed = newcomer_signed
    mine = Graph(anonymous.http, signed["accessToken"])
    (session,) = (await mine.data(SESSIONS))["me"]["sessions"]
    refused = [await stranger.answer(REVOKE, id=key) for key in (session["id"], "sess_unknown")]
    assert refused[0] == refused[1]
    assert refused[0]["errors"][0]["extensions"]["code"] == "NOT_FOUND"
    other = await sign_in(anonymous, asked)
    assert (await Graph(anonymous.http, other["accessToken"]).data(REVOKE, id=session["id"]))["revokeSession"] == {
        "sessionsEnded": 1
    }
    assert await mine.code(ME) == "UNAUTHENTICATED"


async def test_a_changed_password_ends_all_other_sessions(anonymous: Graph, newcomer_signed: tuple[Json, Json]) -> None:
    """Whoever copied a token, or knows the old password, is out."""
    asked, signed = newcomer_signed
    other = await sign_in(anonymous, asked)
    mine = Graph(anonymous.http, signed["accessToken"])
    assert await mine.error(CHANGE, current="not the password", new="password124") == {
        "code": "INVALID_CREDENTIALS",
        "field": "currentPassword",
    }
    assert await mine.error(CHANGE, current=asked["password"], new="short") == {
        "code": "BAD_USER_INPUT",
        "field": "newPassword",
    }
    fresh = (await mine.data(CHANGE, current=asked["password"], new="password124"))["changePassword"]
    for token in (signed["accessToken"], other["accessToken"]):
        assert await Graph(anonymous.http, token).code(ME) == "UNAUTHENTICATED"
    for token in (signed["refreshToken"], other["refreshToken"]):
        assert await anonymous.code(REFRESH, token=token) == "UNAUTHENTICATED"
    assert (await Graph(anonymous.http, fresh["accessToken"]).data(ME))["me"]["id"] == signed["user"]["id"]
    await anonymous.data(REFRESH, token=fresh["refreshToken"])
    known = {"username": asked["username"], "password": asked["password"]}
    assert await anonymous.code(LOGIN, input=known) == "INVALID_CREDENTIALS"
    await sign_in(anonymous, {**asked, "password": "password124"})


async def test_whoever_holds_a_token_cannot_try_passwords(start_server: StartServer) -> None:
    """They count as attempts to log in."""
    server = start_server(RATE_LIMITS="on", LOGINS_PER_MINUTE="3")
    account = register_on(server)
    async with httpx.AsyncClient(base_url=server.url, timeout=30) as client:
        graph = Graph(client, account.token)
        for _ in range(3):
            assert await graph.code(CHANGE, current="a guess 123", new="password124") == "INVALID_CREDENTIALS"
        error = await graph.error(CHANGE, current=account.password, new="password124")
        assert error["code"] == "RATE_LIMITED"
        assert 0 < error["retryAfter"] <= 60


async def test_rest_has_sessions_that_are_not_refreshed(
    server: Server, client: httpx.AsyncClient, account: Account
) -> None:
    """They log in again, as the guide says; GraphQL shows them, and ends them."""
    graph = Graph(client, account.token)
    (session,) = (await graph.data(SESSIONS))["me"]["sessions"]
    assert session["id"] == account.session_id
    assert (await graph.data(LOGOUT))["logout"] == {"sessionsEnded": 1}
    answer = await client.get("/api/auth/me", headers=account.headers)
    assert (answer.status_code, answer.json()) == (401, {"detail": "Token无效"})


async def test_a_deleted_account_is_gone_and_its_name_free(
    anonymous: Graph, newcomer_signed: tuple[Json, Json]
) -> None:
    asked, signed = newcomer_signed
    mine = Graph(anonymous.http, signed["accessToken"])
    await mine.data(CREATE, input={"title": "mine"})
    assert await mine.error(DELETE, password="not the password") == {"code": "INVALID_CREDENTIALS", "field": "password"}
    assert (await mine.data(DELETE, password=asked["password"]))["deleteAccount"] == {"id": signed["user"]["id"]}
    assert await mine.code(ME) == "UNAUTHENTICATED"
    assert await anonymous.code(REFRESH, token=signed["refreshToken"]) == "UNAUTHENTICATED"
    headers = {"Authorization": f"Bearer {signed['accessToken']}"}
    assert (await anonymous.http.get("/api/auth/me", headers=headers)).json() == {"detail": "用户不存在"}
    known = {"username": asked["username"], "password": asked["password"]}
    assert await anonymous.code(LOGIN, input=known) == "INVALID_CREDENTIALS"
    again = (await anonymous.data(REGISTER, input=asked))["register"]
    assert again["user"]["id"] != signed["user"]["id"]
    fresh = Graph(anonymous.http, again["accessToken"])
    assert (await fresh.data("{ stats { totalConversations } }"))["stats"] == {"totalConversations": 0}
