"""GitHub's side: what it answers to a sign-in, and everything that it may answer instead."""

from collections.abc import Iterator
from urllib.parse import parse_qs, urlsplit

import pytest

from auth.github import GitHub
from auth.oauth_client import Application, Pass
from errors import BadUserInput, Unavailable
from tests.identity import CLIENT_ID, CLIENT_SECRET, GitHubFake, github_server

CALLBACK = "http://127.0.0.1:1/api/auth/oauth/github/callback"
TRIP = Pass("a state", "a verifier that is long enough, 43 characters", "", CALLBACK)


@pytest.fixture
def fake() -> Iterator[GitHubFake]:
    with github_server() as started:
        started.becomes(4711, "octocat", "cat@example.com")
        yield started


@pytest.fixture
def github(fake: GitHubFake) -> GitHub:
    return GitHub(Application(CLIENT_ID, CLIENT_SECRET), fake.address, fake.address)


async def code_for(github: GitHub, fake: GitHubFake) -> str:
    return parse_qs(urlsplit(fake.consent(await github.address(TRIP))).query)["code"][0]


async def test_a_person_is_their_number_not_their_name(github: GitHub, fake: GitHubFake) -> None:
    """Names are given up at GitHub, and taken by others."""
    person = await github.person(await code_for(github, fake), TRIP)
    assert (person.provider, person.subject, person.name) == ("github", "4711", "octocat")
    assert person.email == "cat@example.com", "the primary one, not the first of the list"


async def test_an_address_that_is_not_verified_is_none(github: GitHub, fake: GitHubFake) -> None:
    fake.becomes(4711, "octocat", "victim@example.com", verified=False)
    assert (await github.person(await code_for(github, fake), TRIP)).email is None


async def test_a_code_is_good_once_and_for_its_verifier_alone(github: GitHub, fake: GitHubFake) -> None:
    code = await code_for(github, fake)
    await github.person(code, TRIP)
    with pytest.raises(BadUserInput, match="begin again"):
        await github.person(code, TRIP)
    code = await code_for(github, fake)
    with pytest.raises(BadUserInput):
        await github.person(code, Pass(TRIP.state, "another verifier that is long enough, too....", "", CALLBACK))


async def test_a_wrong_client_secret_is_the_operator_s(
    fake: GitHubFake, github: GitHub, caplog: pytest.LogCaptureFixture
) -> None:
    wrong = GitHub(Application(CLIENT_ID, "not the secret"), fake.address, fake.address)
    with pytest.raises(Unavailable, match="tell the operator"):
        await wrong.person(await code_for(wrong, fake), TRIP)
    assert "incorrect_client_credentials" in caplog.text
    assert "not the secret" not in caplog.text


@pytest.mark.parametrize("place", ["token", "user", "emails"])
@pytest.mark.parametrize("trouble", ["page", "broken", "cut", "endless", "odd", "deep"])
async def test_whatever_else_it_answers_is_one_clear_error(
    github: GitHub, fake: GitHubFake, trouble: str, place: str, caplog: pytest.LogCaptureFixture
) -> None:
    code = await code_for(github, fake)
    fake.trouble = f"{trouble} {place}"
    with pytest.raises(Unavailable, match="GitHub does not answer as it should"):
        await github.person(code, TRIP)
    assert code not in caplog.text
    assert not any(token in caplog.text for token in fake.tokens)


async def test_a_server_that_is_away_is_said(github: GitHub, fake: GitHubFake) -> None:
    code = await code_for(github, fake)
    gone = GitHub(Application(CLIENT_ID, CLIENT_SECRET), "http://127.0.0.1:1", "http://127.0.0.1:1")
    with pytest.raises(Unavailable):
        await gone.person(code, TRIP)
