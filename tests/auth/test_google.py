"""Google's side, played by a published OpenID provider in a process of its own."""

import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from joserfc.errors import JoseError

from auth.google import Google, check_claims
from auth.oauth_client import Application, Pass
from errors import BadUserInput, Unavailable
from tests.identity import CLIENT_ID, CLIENT_SECRET, consent, github_server, identity_server, know
from tests.server import free_port

APPLICATION = Application(CLIENT_ID, CLIENT_SECRET)
CALLBACK = "http://127.0.0.1:1/api/auth/oauth/google/callback"


def through(nonce: str = "") -> Pass:
    return Pass("a state", "a verifier that is long enough, 43 characters", nonce or f"n{time.time_ns()}", CALLBACK)


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with identity_server() as found:
        yield found


@pytest.fixture
def google(address: str) -> Google:
    return Google(APPLICATION, address)


async def code_for(google: Google, trip: Pass, subject: str) -> str:
    back = consent(await google.address(trip), subject)
    assert back.startswith(CALLBACK)
    query = parse_qs(urlsplit(back).query)
    assert query["state"] == [trip.state]
    return query["code"][0]


async def test_the_browser_is_sent_with_state_nonce_and_a_challenge(google: Google, address: str) -> None:
    trip = through()
    url = await google.address(trip)
    query = {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}
    assert url.startswith(f"{address}/oauth2/authorize?")
    assert query["state"] == trip.state
    assert query["nonce"] == trip.nonce
    assert query["redirect_uri"] == CALLBACK
    assert query["response_type"] == "code"
    assert query["code_challenge_method"] == "S256"
    assert {"openid", "email"} <= set(query["scope"].split())
    assert trip.verifier not in url
    assert CLIENT_SECRET not in url


async def test_a_person_comes_back(google: Google, address: str) -> None:
    know(address, "1001", email="ann@example.com", email_verified=True, name="Ann Other")
    trip = through()
    person = await google.person(await code_for(google, trip, "1001"), trip)
    assert (person.provider, person.subject) == ("google", "1001")
    assert (person.email, person.name, person.label) == ("ann@example.com", "Ann Other", "ann@example.com")


@pytest.mark.parametrize("verified", [False, None, "true", 1])
async def test_an_address_that_is_not_verified_is_none(google: Google, address: str, verified: object) -> None:
    """Whoever enters a stranger's address at a provider does not own it."""
    know(address, "1002", email="eve@example.com", email_verified=verified)
    trip = through()
    assert (await google.person(await code_for(google, trip, "1002"), trip)).email is None


async def test_a_token_for_another_trip_is_refused(google: Google) -> None:
    """Otherwise an answer that was overheard, or made for somebody else, could be put in a browser's way."""
    begun, other = through(), through()
    code = await code_for(google, begun, "1003")
    with pytest.raises(Unavailable):
        await google.person(code, other)


async def test_a_code_is_good_once(google: Google) -> None:
    trip = through()
    code = await code_for(google, trip, "1004")
    await google.person(code, trip)
    with pytest.raises(BadUserInput, match="begin again"):
        await google.person(code, trip)


async def test_keys_that_were_changed_are_fetched_again(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Google changes its keys every few days, and not when we look."""
    monkeypatch.setattr("auth.google.KEYS_AGAIN_SECONDS", -1)
    google = Google(APPLICATION, address)
    trip = through()
    await google.person(await code_for(google, trip, "1005"), trip)
    with identity_server() as elsewhere:
        stranger = Google(APPLICATION, elsewhere)
        await stranger.person(await code_for(stranger, trip := through(), "1005"), trip)
        google._keys = stranger._keys
    trip = through()
    assert (await google.person(await code_for(google, trip, "1005"), trip)).subject == "1005"


async def test_a_provider_that_is_away_or_is_no_provider_is_said(address: str) -> None:
    with pytest.raises(Unavailable, match="Google"):
        await Google(APPLICATION, f"http://127.0.0.1:{free_port()}").address(through())
    with github_server() as other, pytest.raises(Unavailable):
        await Google(APPLICATION, other.address).address(through())
    with pytest.raises(Unavailable):
        # It answers, but says that it is somebody else.
        await Google(APPLICATION, address.replace("127.0.0.1", "localhost") + "/").address(through())


ISSUER = "https://accounts.google.com"


def claims(**changes: Any) -> dict[str, Any]:
    now = int(time.time())
    made = {"iss": ISSUER, "aud": CLIENT_ID, "sub": "1", "nonce": "n", "iat": now, "exp": now + 60} | changes
    return {name: value for name, value in made.items() if value is not None}


@pytest.mark.parametrize(
    "changes",
    [{}, {"iss": "accounts.google.com"}, {"aud": [CLIENT_ID]}, {"aud": ["x", CLIENT_ID], "azp": CLIENT_ID}],
)
def test_claims_that_are_right(changes: dict[str, Any]) -> None:
    check_claims(claims(**changes), ISSUER, CLIENT_ID, "n")


@pytest.mark.parametrize(
    "changes",
    [
        {"iss": "https://evil.example"},
        {"iss": None},
        {"iss": [ISSUER]},
        {"aud": "another-client"},
        {"aud": None},
        {"aud": ["another-client"]},
        {"aud": ["x", CLIENT_ID]},
        {"azp": "another-client"},
        {"nonce": "m"},
        {"nonce": None},
        {"nonce": ["n"]},
        {"exp": int(time.time()) - 120},
        {"exp": None},
        {"exp": "tomorrow"},
        {"exp": float("nan")},
        {"iat": None},
        {"iat": int(time.time()) + 600},
        {"nbf": int(time.time()) + 600},
        {"sub": None},
        {"sub": ""},
        {"sub": 5},
        {"sub": "x" * 256},
    ],
)
def test_claims_that_are_wrong(changes: dict[str, Any]) -> None:
    with pytest.raises((JoseError, ValueError)):
        check_claims(claims(**changes), ISSUER, CLIENT_ID, "n")
