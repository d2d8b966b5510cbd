"""Two-factor authentication as a user meets it: by GraphQL and REST, on two server processes and one database."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import pytest

from models.address import Address
from tests.auth.conftest import code_of
from tests.conftest import Account, StartServer, register_on
from tests.databases import url_of
from tests.graph.http_client import Graph, Json
from tests.server import Server

BEGIN = "mutation { beginTotp { secret otpauthUri qrSvg } }"
CONFIRM = """mutation ($code: String!) { confirmTotp(input: { code: $code }) {
    recoveryCodes user { id totpEnabled } } }"""
DISABLE = "mutation ($code: String!) { disableTotp(input: { code: $code }) { user { id totpEnabled } } }"
LOGIN = "mutation ($input: LoginInput!) { login(input: $input) { accessToken user { id totpEnabled } } }"
ME = "{ me { totpEnabled } }"
OTHERS = "query ($id: ID!) { conversation(id: $id) { members { user { id totpEnabled } } } }"

pytestmark = pytest.mark.on_both


@pytest.fixture
def servers(start_server: StartServer, address: Address, tmp_path: Path) -> tuple[Server, Server]:
    one, two = (start_server(tmp_path / name, DATABASE_URL=url_of(address)) for name in ("one", "two"))
    return one, two


def rest_login(server: Server, account: Account, **more: object) -> httpx.Response:
    body = {"username": account.username, "password": account.password, **more}
    return httpx.post(f"{server.url}/api/auth/login", json=body, timeout=30)


async def test_the_whole_way(servers: tuple[Server, Server]) -> None:
    one, two = servers
    account = register_on(one)
    given = {"username": account.username, "password": account.password}
    async with httpx.AsyncClient(base_url=one.url, timeout=30) as here, httpx.AsyncClient(base_url=two.url) as there:
        for document in (BEGIN, 'mutation { disableTotp(input: { code: "1" }) { user { id } } }'):
            assert await Graph(here).code(document) == "UNAUTHENTICATED"
        me = Graph(here, account.token)
        assert (await me.data(ME))["me"] == {"totpEnabled": False}
        assert await me.code(CONFIRM, code="000000") == "CONFLICT"
        offer = (await me.data(BEGIN))["beginTotp"]
        assert offer["secret"] in offer["otpauthUri"]
        assert account.username in offer["otpauthUri"]
        assert offer["qrSvg"].startswith("<svg")
        assert await me.code(CONFIRM, code="what") == "INVALID_OTP"
        confirmed = (await me.data(CONFIRM, code=code_of(offer["secret"], -1)))["confirmTotp"]
        assert confirmed["user"] == {"id": account.id, "totpEnabled": True}
        codes: list[str] = confirmed["recoveryCodes"]
        assert await Graph(there, account.token).data(ME) == {"me": {"totpEnabled": True}}, "who is in stays in"

        assert await Graph(there).code(LOGIN, input=given) == "OTP_REQUIRED"
        assert await Graph(there).code(LOGIN, input={**given, "otp": "000000"}) == "INVALID_OTP"
        _the_rest_of_rest(one, account, codes)

        await _once(here, there, {**given, "otp": code_of(offer["secret"])})
        await _once(here, there, {**given, "otp": codes[1]})

        assert await me.code(DISABLE, code=codes[1]) == "INVALID_OTP"
        assert (await me.data(DISABLE, code=codes[2]))["disableTotp"]["user"]["totpEnabled"] is False
        assert (await Graph(there).data(LOGIN, input=given))["login"]["user"]["totpEnabled"] is False
    for server in servers:
        log = server.log()
        assert not [text for text in (offer["secret"], *codes, account.password) if text in log]


def _the_rest_of_rest(server: Server, account: Account, codes: list[str]) -> None:
    """The guide knows no second factor: whoever has one is told what is missing, in the guide's form."""
    missing = rest_login(server, account)
    assert missing.status_code == 401
    assert missing.json() == {"detail": "This account needs a one-time code too: send it as `otp`"}
    wrong = rest_login(server, account, otp="000000")
    assert (wrong.status_code, "wrong" in wrong.json()["detail"]) == (401, True)
    assert rest_login(server, account, otp=5).status_code == 422
    right = rest_login(server, account, otp=codes[0])
    assert right.status_code == 200
    me = httpx.get(f"{server.url}/api/auth/me", headers={"Authorization": f"Bearer {right.json()['access_token']}"})
    assert me.json()["id"] == account.id


async def _once(here: httpx.AsyncClient, there: httpx.AsyncClient, given: Json) -> None:
    """Eight times at once on both servers: one gets in."""
    answers = await asyncio.gather(*(Graph(client).answer(LOGIN, input=given) for client in (here, there) * 4))
    codes = [answer["errors"][0]["extensions"]["code"] for answer in answers if "errors" in answer]
    assert codes == ["INVALID_OTP"] * 7


async def test_nobody_sees_whether_somebody_else_has_one(servers: tuple[Server, Server]) -> None:
    server = servers[0]
    owner, member = register_on(server), register_on(server)
    async with httpx.AsyncClient(base_url=server.url, timeout=30) as client:
        graph = Graph(client, owner.token)
        create = 'mutation { createConversation(input: { title: "t" }) { conversation { id } } }'
        key = (await graph.data(create))["createConversation"]["conversation"]["id"]
        add = """mutation ($id: ID!, $name: String!) { addMember(
            input: { conversationId: $id, username: $name, role: VIEWER }) { conversation { id } } }"""
        await graph.data(add, id=key, name=member.username)
        seen = (await Graph(client, member.token).data(OTHERS, id=key))["conversation"]["members"]
    assert {item["user"]["id"]: item["user"]["totpEnabled"] for item in seen} == {owner.id: None, member.id: False}
