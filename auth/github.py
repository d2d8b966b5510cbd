"""GitHub: OAuth 2 with PKCE; who it is say its API's /user and /user/emails."""

from typing import Any

from auth.oauth_client import Application, Asking, Pass, Person, fetched, subject_of, text_in, translated

ADDRESS = "https://github.com"
API = "https://api.github.com"
API_VERSION = "2022-11-28"


class GitHub:
    name = "github"
    title = "GitHub"

    def __init__(self, application: Application, address: str = ADDRESS, api: str = API) -> None:
        self._address = address
        self._api = api
        self._asking = Asking(application, "read:user user:email")

    async def address(self, through: Pass) -> str:
        async with translated(self.title), self._asking.client(through) as client:
            url, _ = client.create_authorization_url(
                f"{self._address}/login/oauth/authorize", state=through.state, code_verifier=through.verifier
            )
        return str(url)

    async def person(self, code: str, through: Pass) -> Person:
        async with translated(self.title):
            async with self._asking.client(through) as client:
                endpoint = f"{self._address}/login/oauth/access_token"
                await client.fetch_token(endpoint, code=code, code_verifier=through.verifier)
                user = await fetched(client, f"{self._api}/user", **{"X-GitHub-Api-Version": API_VERSION})
                emails = await fetched(client, f"{self._api}/user/emails?per_page=100")
            return _person(user, emails)


def _person(user: Any, emails: Any) -> Person:
    """
    Raises:
        ValueError: the answers are not GitHub's.
    """
    login, number = text_in(user, "login"), user.get("id")
    if not isinstance(number, int) or isinstance(number, bool) or not isinstance(emails, list):
        raise ValueError("a user without a number or without a list of addresses")
    return Person(GitHub.name, subject_of(str(number)), next(filter(None, map(_address, emails)), None), login, login)


def _address(item: Any) -> str | None:
    """The address, if it is the primary one and verified."""
    if not isinstance(item, dict) or item.get("verified") is not True or item.get("primary") is not True:
        return None
    return text_in(item, "email")
