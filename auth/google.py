"""Google, or whoever speaks OpenID Connect at its address: discovery, PKCE, and an ID token that is checked in full."""

import time
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import urlsplit

from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet, KeySetSerialization

from auth.oauth_client import Application, Asking, Pass, Person, fetched, subject_of, text_in, translated

ADDRESS = "https://accounts.google.com"
DISCOVERY = "/.well-known/openid-configuration"
KEPT_SECONDS = 3_600
"""Google lets its own documents be kept for as long."""
KEYS_AGAIN_SECONDS = 30
"""A key that we do not know is looked for again, but not by every token that names one."""
LEEWAY_SECONDS = 60


@dataclass(frozen=True, slots=True)
class _Places:
    at: float
    authorize: str
    token: str
    keys: str


class Google:
    name = "google"
    title = "Google"

    def __init__(self, application: Application, issuer: str = ADDRESS) -> None:
        self._client_id = application.client_id
        self._issuer = issuer
        self._asking = Asking(application, "openid email profile")
        self._places: _Places | None = None
        self._keys: tuple[KeySet, float] | None = None

    async def address(self, through: Pass) -> str:
        async with translated(self.title):
            places = await self._discovered()
            async with self._asking.client(through) as client:
                url, _ = client.create_authorization_url(
                    places.authorize, state=through.state, nonce=through.nonce, code_verifier=through.verifier
                )
        return str(url)

    async def person(self, code: str, through: Pass) -> Person:
        async with translated(self.title):
            places = await self._discovered()
            async with self._asking.client(through) as client:
                token = await client.fetch_token(places.token, code=code, code_verifier=through.verifier)
            claims = await self._claims(text_in(token, "id_token"), through.nonce, places)
            return _person(claims)

    async def _discovered(self) -> _Places:
        """
        Raises:
            ValueError: the document is another issuer's, or leads nowhere.
        """
        if self._places is None or time.monotonic() - self._places.at > KEPT_SECONDS:
            async with self._asking.client() as client:
                found = await fetched(client, self._issuer + DISCOVERY)
            if text_in(found, "issuer") != self._issuer:
                raise ValueError("the discovery document names another issuer")
            names = ("authorization_endpoint", "token_endpoint", "jwks_uri")
            self._places = _Places(time.monotonic(), *(self._place(found, name) for name in names))
        return self._places

    def _place(self, found: Any, name: str) -> str:
        address = text_in(found, name)
        if not address.isascii() or not address.isprintable():
            raise ValueError(f"{name} is no address")
        if urlsplit(address).scheme != urlsplit(self._issuer).scheme:
            raise ValueError(f"{name} is not asked as its issuer is")
        return address

    async def _claims(self, token: str, nonce: str, places: _Places) -> dict[str, Any]:
        """
        Raises:
            JoseError, ValueError: the token is not for us, not for this pass, or not Google's.
        """
        try:
            claims = jwt.decode(token, await self._key_set(places, KEPT_SECONDS), algorithms=["RS256"]).claims
        except (ValueError, JoseError):
            # Its key may be newer than our set.
            claims = jwt.decode(token, await self._key_set(places, KEYS_AGAIN_SECONDS), algorithms=["RS256"]).claims
        check_claims(claims, self._issuer, self._client_id, nonce)
        return claims

    async def _key_set(self, places: _Places, seconds: float) -> KeySet:
        if self._keys is None or time.monotonic() - self._keys[1] > seconds:
            async with self._asking.client() as client:
                found = await fetched(client, places.keys)
            if not isinstance(found, dict) or not isinstance(found.get("keys"), list):
                raise ValueError("no set of keys")
            self._keys = KeySet.import_key_set(cast(KeySetSerialization, found)), time.monotonic()
        return self._keys[0]


def check_claims(claims: dict[str, Any], issuer: str, client_id: str, nonce: str) -> None:
    """OpenID Connect Core 3.1.3.7, as far as it concerns one client and RS256.

    Raises:
        JoseError, ValueError
    """
    issuers = [issuer, issuer.removeprefix("https://")]  # Google has both
    jwt.JWTClaimsRegistry(
        leeway=LEEWAY_SECONDS,
        iss={"essential": True, "values": issuers},
        aud={"essential": True, "value": client_id},
        exp={"essential": True},
        iat={"essential": True},
        nonce={"essential": True, "value": nonce},
        sub={"essential": True},
    ).validate(claims)
    if any(not isinstance(claims[name], str) for name in ("iss", "nonce")):
        raise ValueError("a claim is no text")
    if claims["aud"] not in (client_id, [client_id]) and claims.get("azp") != client_id:
        raise ValueError("the token has several audiences and names another party")
    if "azp" in claims and claims["azp"] != client_id:
        raise ValueError("the token was issued to somebody else")
    subject_of(claims["sub"])


def _person(claims: dict[str, Any]) -> Person:
    email, verified = claims.get("email"), claims.get("email_verified") is True
    email = email if isinstance(email, str) else ""
    name = next((text for text in (claims.get("name"), email.partition("@")[0]) if isinstance(text, str) and text), "")
    return Person(Google.name, claims["sub"], email if verified and email else None, name, email or name)
