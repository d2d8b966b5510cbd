"""Signing in with Google and GitHub, from the page's first link to its tokens: a server, a browser's cookies, and
providers that are processes or servers of their own on this machine."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit, urlunsplit

import httpx
import pytest

from auth.round_trip import challenge_of
from models.address import Address
from tests.auth.conftest import code_of
from tests.chat.test_erasures import traces
from tests.conftest import register_on
from tests.databases import KINDS, everything, look, url_of
from tests.graph.http_client import Graph, Json
from tests.graph.test_sessions import CHANGE, DELETE
from tests.identity import CLIENT_ID, CLIENT_SECRET, GitHubFake, consent, github_server, identity_server, know
from tests.rest.talk import conversation, message
from tests.server import Server, running
from tests.test_second_factor import BEGIN as BEGIN_TOTP
from tests.test_second_factor import CONFIRM

PAGE = "http://localhost:3000/welcome"
LOGIN = """mutation ($input: OAuthLoginInput!) { oauthLogin(input: $input) {
    accessToken refreshToken user { id username email identities { id provider label } } } }"""
BEGIN_LINK = "mutation ($provider: String!) { beginIdentityLink(input: { provider: $provider }) { path } }"
LINK = "mutation ($code: String!) { linkIdentity(input: { code: $code }) { user { identities { id provider } } } }"
UNLINK = "mutation ($id: ID!) { unlinkIdentity(input: { id: $id }) { user { identities { id } } } }"

pytestmark = pytest.mark.on_both


@dataclass
class Place:
    """A server, and the two providers that it knows."""

    server: Server
    google: str
    github: GitHubFake
    address: Address

    @asynccontextmanager
    async def browser(self) -> AsyncIterator[Browser]:
        async with httpx.AsyncClient(base_url=self.server.url, timeout=30) as http:
            yield Browser(http, self)


@dataclass
class Browser:
    """Keeps cookies, follows nothing by itself."""

    http: httpx.AsyncClient
    place: Place

    async def leave(self, path: str) -> str:
        """Follow a link of the page's to the provider."""
        answer = await self.http.get(path)
        assert answer.status_code == 303, answer.text
        return answer.headers["location"]

    async def agree(self, url: str, subject: str | None = None) -> str:
        """At the provider's page: the callback's address, as this server is reached here."""
        if url.startswith(self.place.google):
            return await asyncio.to_thread(consent, url, subject)
        return await asyncio.to_thread(self.place.github.consent, url)

    async def land(self, callback: str) -> dict[str, str]:
        """Come back from the provider: the fragment of the page's address."""
        answer = await self.http.get(urlunsplit(("", "", *urlsplit(callback)[2:])))
        assert answer.status_code == 303, answer.text
        page, _, fragment = answer.headers["location"].partition("#")
        assert page == PAGE, "wherever it came from"
        return {name: values[0] for name, values in parse_qs(fragment).items()}

    async def trip(self, path: str, subject: str | None = None) -> dict[str, str]:
        return await self.land(await self.agree(await self.leave(path), subject))

    def graph(self, token: str | None = None) -> Graph:
        return Graph(self.http, token)

    async def login(self, code: str, **more: str) -> Json:
        found: Json = (await self.graph().data(LOGIN, input={"code": code, **more}))["oauthLogin"]
        return found


GOOGLE, GITHUB = "/api/auth/oauth/google", "/api/auth/oauth/github"
Places = Callable[[str], Place]


@pytest.fixture(scope="module")
def google() -> Iterator[str]:
    with identity_server() as address:
        yield address


@pytest.fixture(scope="module")
def places(google: str, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Places]:
    """One for each kind of database, started when it is asked for: the accounts in them do not meet."""
    with ExitStack() as stack:

        @cache
        def place(kind: str) -> Place:
            folder = tmp_path_factory.mktemp("oauth")
            if kind == KINDS[0]:
                address: Address = Path(shutil.copy(request.getfixturevalue("migrated"), folder / "chat.db"))
            else:
                address = stack.enter_context(request.getfixturevalue("postgres").migrated())
            github = stack.enter_context(github_server())
            settings = {
                "DATABASE_URL": url_of(address),
                "FRONTEND_URL": PAGE,
                "GOOGLE_CLIENT_ID": CLIENT_ID,
                "GOOGLE_CLIENT_SECRET": CLIENT_SECRET,
                "GITHUB_CLIENT_ID": CLIENT_ID,
                "GITHUB_CLIENT_SECRET": CLIENT_SECRET,
                "GOOGLE_ISSUER_URL": google,
                "GITHUB_URL": github.address,
                "GITHUB_API_URL": github.address,
            }
            return Place(stack.enter_context(running(folder, None, **settings)), google, github, address)

        yield place


@pytest.fixture
def place(kind: str, places: Places) -> Place:
    return places(kind)


async def test_a_stranger_gets_an_account_and_finds_it_again(place: Place) -> None:
    know(place.google, "g-1", email="ann@example.com", email_verified=True, name="ann")
    taken = register_on(place.server)
    place.github.becomes(1, taken.username, "octo@example.com")
    async with place.browser() as browser:
        shown = await browser.graph().data("{ identityProviders { name title path } }")
        paths = {each["name"]: each["path"] for each in shown["identityProviders"]}
        assert paths == {"google": GOOGLE, "github": GITHUB}
        first = await browser.login((await browser.trip(GOOGLE, "g-1"))["code"])
        again = await browser.login((await browser.trip(GOOGLE, "g-1"))["code"])
        assert first["user"] == again["user"]
        assert (first["user"]["username"], first["user"]["email"]) == ("ann", "ann@example.com")
        me = await browser.http.get("/api/auth/me", headers={"Authorization": f"Bearer {first['accessToken']}"})
        assert me.json()["id"] == first["user"]["id"]

        fragment = await browser.trip(GITHUB)
        body = {"code": fragment["code"]}
        token = (await browser.http.post("/api/auth/oauth/token", json=body)).json()["access_token"]
        user = (await browser.graph(token).data("{ me { username identities { provider label } } }"))["me"]
        assert user["username"].startswith(f"{taken.username}-"), "a name that was taken gets a suffix"
        assert user["identities"] == [{"provider": "github", "label": taken.username}]
        assert not browser.http.cookies, "nothing stays in the browser"
        for password in ("", "None", "null"):
            asked = {"username": "ann", "password": password}
            assert (await browser.http.post("/api/auth/login", json=asked)).status_code == 401
    log = place.server.log()
    assert not [text for text in (fragment["code"], CLIENT_SECRET, first["accessToken"]) if text in log]


async def test_a_stranger_who_comes_many_times_at_once_is_one(place: Place) -> None:
    """A double click, or the tabs of yesterday: nobody is told that their own address is somebody else's."""
    place.github.becomes(8, "twin", "twin@example.com")

    async def sign_in() -> str:
        async with place.browser() as browser:
            return str((await browser.login((await browser.trip(GITHUB))["code"]))["user"]["id"])

    assert len(set(await asyncio.gather(*(sign_in() for _ in range(8))))) == 1


async def test_a_code_is_good_once_for_the_page_that_began(place: Place) -> None:
    """A link with somebody else's code would sign a victim in to the attacker's account: a page that sends a challenge
    is proof against it."""
    know(place.google, "g-2", email="bob@example.com", email_verified=True)
    async with place.browser() as browser:
        code = (await browser.trip(GOOGLE, "g-2"))["code"]
        answers = await asyncio.gather(*(browser.graph().answer(LOGIN, input={"code": code}) for _ in range(4)))
        assert sum("errors" not in answer for answer in answers) == 1
        bad = {"code": "BAD_USER_INPUT", "field": "code"}
        assert [answer["errors"][0]["extensions"] for answer in answers if "errors" in answer] == [bad] * 3

        verifier = "a verifier that the page keeps to itself, for a minute"
        code = (await browser.trip(f"{GOOGLE}?challenge={challenge_of(verifier)}", "g-2"))["code"]
        for wrong in ({}, {"verifier": ""}, {"verifier": "another"}):
            assert await browser.graph().error(LOGIN, input={"code": code, **wrong}) == bad
        assert await browser.login(code, verifier=verifier)
        code = (await browser.trip(GOOGLE, "g-2"))["code"]
        assert await browser.graph().error(LOGIN, input={"code": code, "verifier": verifier}) == bad
        look(place.address, "UPDATE oauth_code SET expires_at = 0")
        assert await browser.graph().error(LOGIN, input={"code": code}) == bad
        for wrong_code in ("", "x", "x" * 100_000, "\x00"):
            assert await browser.graph().error(LOGIN, input={"code": wrong_code}) == bad


async def test_another_browser_s_answer_is_refused(place: Place) -> None:
    """Whoever is sent to the callback with an attacker's answer would be in the attacker's account."""
    know(place.google, "g-3", email="eve@example.com", email_verified=True)
    async with place.browser() as attacker, place.browser() as victim:
        callback = await attacker.agree(await attacker.leave(GOOGLE), "g-3")
        assert (await victim.land(callback))["error"] == "BAD_USER_INPUT"
        await victim.leave(GOOGLE)
        assert (await victim.land(callback))["error"] == "BAD_USER_INPUT", "its own state is another"
        victim.http.cookies.set("oauth_google", "A" * 200, path="/api/auth/oauth")
        assert (await victim.land(callback))["error"] == "BAD_USER_INPUT"
        assert "code" in await attacker.land(callback)
        assert (await attacker.land(callback))["error"] == "BAD_USER_INPUT", "the cookie went with the first answer"


async def test_the_cookie_is_for_the_way_alone(place: Place) -> None:
    async with place.browser() as browser:
        answer = await browser.http.get(GOOGLE)
        cookie = answer.headers["set-cookie"]
        for part in ("oauth_google=", "HttpOnly", "SameSite=lax", "Max-Age=600", "Path=/api/auth/oauth"):
            assert part in cookie
        assert "Secure" not in cookie, "this server is asked by http"
        state = parse_qs(urlsplit(answer.headers["location"]).query)["state"][0]
        assert state not in cookie
        assert answer.headers["cache-control"] == "no-store"


async def test_an_address_makes_nobody_the_owner(place: Place) -> None:
    """Neither does an address that the provider verified open the account that has it, nor is one that it did not
    verify taken down as anybody's."""
    know(place.google, "g-4", email="user@example.com", email_verified=False)
    async with place.browser() as browser:
        refused = await browser.trip(GOOGLE, "g-4")
        assert (refused["error"], "verify" in refused["message"]) == ("FORBIDDEN", True)
        owner = register_on(place.server)
        place.github.becomes(2, "thief", f"{owner.username}@EXAMPLE.com")
        refused = await browser.trip(GITHUB)
        assert refused == {
            "error": "EMAIL_TAKEN",
            "message": "An account with this e-mail address exists: sign in there, and link GitHub",
            "provider": "github",
        }
    assert look(place.address, "SELECT count(*) FROM identity WHERE subject IN ('g-4', '2')")[0][0] == 0


async def test_an_identity_is_linked_by_who_is_signed_in(place: Place) -> None:
    owner, other = register_on(place.server), register_on(place.server)
    place.github.becomes(3, "owner-at-github", "elsewhere@example.com")
    async with place.browser() as browser:
        graph, stranger = browser.graph(owner.token), browser.graph(other.token)
        assert await browser.graph().code(BEGIN_LINK, provider="github") == "UNAUTHENTICATED"
        assert await graph.code(BEGIN_LINK, provider="nobody") == "NOT_FOUND"
        path = (await graph.data(BEGIN_LINK, provider="github"))["beginIdentityLink"]["path"]
        fragment = await browser.trip(path)
        assert "code" not in fragment
        code = fragment["link_code"]
        for graph_of_another in (browser.graph(), stranger):
            assert await graph_of_another.code(LINK, code=code) in ("UNAUTHENTICATED", "BAD_USER_INPUT")
        assert await browser.graph().code(LOGIN, input={"code": code}) == "BAD_USER_INPUT"
        linked = (await graph.data(LINK, code=code))["linkIdentity"]["user"]["identities"]
        assert [each["provider"] for each in linked] == ["github"]
        assert await graph.code(LINK, code=code) == "BAD_USER_INPUT"

        signed = await browser.login((await browser.trip(GITHUB))["code"])
        assert signed["user"]["id"] == owner.id
        path = (await stranger.data(BEGIN_LINK, provider="github"))["beginIdentityLink"]["path"]
        code = (await browser.trip(path))["link_code"]
        assert await stranger.code(LINK, code=code) == "CONFLICT", "it opens another account"

        late = (await browser.trip(GITHUB))["code"]
        assert await stranger.code(UNLINK, id=linked[0]["id"]) == "NOT_FOUND"
        assert (await graph.data(UNLINK, id=linked[0]["id"]))["unlinkIdentity"]["user"]["identities"] == []
        assert await graph.code(UNLINK, id=linked[0]["id"]) == "NOT_FOUND"
        assert await browser.graph().code(LOGIN, input={"code": late}) == "BAD_USER_INPUT", "it opens nothing any more"


async def test_the_only_way_in_stays(place: Place) -> None:
    know(place.google, "g-5", email="only@example.com", email_verified=True)
    async with place.browser() as browser:
        signed = await browser.login((await browser.trip(GOOGLE, "g-5"))["code"])
        only = signed["user"]["identities"][0]["id"]
        graph = browser.graph(signed["accessToken"])
        assert await graph.code(UNLINK, id=only) == "CONFLICT"

        # It has no password to be asked for: a sign-in of these minutes stands for it.
        look(place.address, "UPDATE user_session SET created_at = 0")
        first = {"current": "", "new": "a first password"}
        assert await graph.code(CHANGE, **first) == "FORBIDDEN"
        signed = await browser.login((await browser.trip(GOOGLE, "g-5"))["code"])
        await browser.graph(signed["accessToken"]).data(CHANGE, **first)
        body = {"username": signed["user"]["username"], "password": "a first password"}
        token = (await browser.http.post("/api/auth/login", json=body)).json()["access_token"]
        assert await browser.graph(token).code(CHANGE, **first) == "INVALID_CREDENTIALS", "now it has one"
        assert (await browser.graph(token).data(UNLINK, id=only))["unlinkIdentity"]["user"]["identities"] == []


async def test_an_account_without_a_password_is_deleted_by_who_signed_in_just_now(place: Place) -> None:
    know(place.google, "google-leaver", email="leaving@example.com", email_verified=True)
    async with place.browser() as browser:
        signed = await browser.login((await browser.trip(GOOGLE, "google-leaver"))["code"])
        user, old = signed["user"], browser.graph(signed["accessToken"])
        body = conversation(id="kept", messages=[message("what I said")])
        headers = {"Authorization": f"Bearer {signed['accessToken']}"}
        assert (await browser.http.post("/api/conversations", json=body, headers=headers)).status_code == 200
        key = (await old.data('mutation { createApiKey(input: { name: "a" }) { key } }'))["createApiKey"]["key"]

        look(place.address, "UPDATE user_session SET created_at = created_at - 11 * 60 * 1000")
        for password in ("", "password123"):
            (refused,) = (await old.answer(DELETE, password=password))["errors"]
            assert refused["extensions"]["code"] == "FORBIDDEN"
            assert refused["message"] == "This account has no password: sign in once more, and do it then"
        assert await browser.graph(key).code(DELETE, password="") == "FORBIDDEN", "a key stands for nobody"
        assert (await old.data("{ me { id } }"))["me"]["id"] == user["id"]

        young = browser.graph(
            (await browser.login((await browser.trip(GOOGLE, "google-leaver"))["code"]))["accessToken"]
        )
        look(place.address, "UPDATE user_session SET created_at = created_at - 9 * 60 * 1000")
        assert (await young.data(DELETE, password=""))["deleteAccount"]["id"] == user["id"]
        assert await young.code("{ me { id } }") == "UNAUTHENTICATED"
        assert await browser.graph(key).code("{ me { id } }") == "UNAUTHENTICATED"
        assert traces(place.address, user["id"]) == []
        if isinstance(place.address, Path):
            # What is deleted stands in the -wal file until that has come round.
            look(place.address, "PRAGMA wal_checkpoint(TRUNCATE)")
        stored = everything(place.address)
        for text in ("what I said", "leaving@example.com", "google-leaver"):
            assert text.encode() not in stored

        again = await browser.login((await browser.trip(GOOGLE, "google-leaver"))["code"])
        assert again["user"]["id"] != user["id"], "the identity is free, and begins anew"
        assert (await browser.graph(again["accessToken"]).data("{ conversations { edges { node { id } } } }")) == {
            "conversations": {"edges": []}
        }


async def test_a_second_factor_is_asked_for_all_the_same(place: Place) -> None:
    know(place.google, "g-6", email="careful@example.com", email_verified=True)
    async with place.browser() as browser:
        signed = await browser.login((await browser.trip(GOOGLE, "g-6"))["code"])
        graph = browser.graph(signed["accessToken"])
        secret = (await graph.data(BEGIN_TOTP))["beginTotp"]["secret"]
        await graph.data(CONFIRM, code=code_of(secret, -1))
        code = (await browser.trip(GOOGLE, "g-6"))["code"]
        assert await browser.graph().code(LOGIN, input={"code": code}) == "OTP_REQUIRED"
        assert await browser.graph().code(LOGIN, input={"code": code, "otp": "000000"}) == "INVALID_OTP"
        assert await browser.login(code, otp=code_of(secret))


async def test_whatever_goes_wrong_the_browser_comes_home(place: Place) -> None:
    know(place.google, "g-7", email="gone@example.com", email_verified=True)
    async with place.browser() as browser:
        denied = await browser.land(await browser.agree(await browser.leave(GOOGLE)))
        assert (denied["error"], denied["message"]) == ("FORBIDDEN", "Google did not let you in")
        place.github.trouble = "denied"
        assert (await browser.trip(GITHUB))["error"] == "FORBIDDEN"
        for trouble in ("page token", "cut user", "broken emails"):
            place.github.trouble = trouble
            place.github.becomes(9, "cat", "cat@example.com")
            assert (await browser.trip(GITHUB))["error"] == "UNAVAILABLE"
        place.github.trouble = ""
        assert (await browser.land(f"{GITHUB}/callback"))["error"] == "BAD_USER_INPUT"
        assert (await browser.land(f"{GITHUB}/callback?code=x&state=%00"))["error"] == "BAD_USER_INPUT"
        for ticket in ("x", "A" * 100):
            answer = await browser.http.get(f"{GITHUB}?ticket={ticket}")
            assert "error=BAD_USER_INPUT" in answer.headers["location"]

        signed = await browser.login((await browser.trip(GOOGLE, "g-7"))["code"])
        code = (await browser.trip(GOOGLE, "g-7"))["code"]
        look(place.address, "UPDATE user_account SET disabled = TRUE WHERE id = ?", signed["user"]["id"])
        assert await browser.graph().code(LOGIN, input={"code": code}) == "INVALID_CREDENTIALS"
        assert (await browser.trip(GOOGLE, "g-7"))["message"] == "This account is disabled"
        for unknown in ("/api/auth/oauth/gitlab", "/api/auth/oauth/gitlab/callback"):
            answer = await browser.http.get(unknown)
            assert (answer.status_code, answer.json()) == (404, {"detail": "Not found"})
    assert "Traceback" not in place.server.log()


async def test_without_a_provider_there_is_nothing(client: httpx.AsyncClient, kind: str) -> None:
    assert (await client.get(GOOGLE)).status_code == 404
    found: Any = await Graph(client).data("{ identityProviders { name } }")
    assert found == {"identityProviders": []}
