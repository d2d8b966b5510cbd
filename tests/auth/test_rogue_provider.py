"""Providers of identities that answer what no provider should: each time one clear error, soon, and nothing learned."""

from __future__ import annotations

import gzip
import json
import logging
import threading
import time
import tracemalloc
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from joserfc.jwk import RSAKey

from auth import oauth_client
from auth.github import GitHub
from auth.google import Google
from auth.oauth_client import Application, Pass, Person
from errors import Unavailable
from tests.identity import CLIENT_ID, CLIENT_SECRET

TRIP = Pass("a state", "a verifier that is long enough, 43 characters", "a nonce", "http://127.0.0.1:1/callback")
DISCOVERY, KEYS, TOKEN = "/.well-known/openid-configuration", "/keys", "/token"
GITHUB_TOKEN, USER, EMAILS = "/login/oauth/access_token", "/user", "/user/emails"
BOMB_BYTES = 50_000_000

Answer = Callable[[BaseHTTPRequestHandler], None]


def text(body: bytes, **headers: str) -> Answer:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    return answer


def drip(handler: BaseHTTPRequestHandler) -> None:
    """Never silent for long enough to be given up."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    for _ in range(1000):
        handler.wfile.write(b" ")
        time.sleep(0.05)


@dataclass
class Rogue:
    """`answers` by path."""

    address: str
    key: RSAPrivateKey
    answers: dict[str, Answer] = field(default_factory=dict)

    def says(self, path: str, content: object) -> None:
        self.answers[path] = text(json.dumps(content).encode())

    def places(self, **changes: object) -> dict[str, object]:
        address = self.address
        return {
            "issuer": address,
            "authorization_endpoint": f"{address}/authorize",
            "token_endpoint": address + TOKEN,
            "jwks_uri": address + KEYS,
        } | changes

    def public(self, **changes: object) -> dict[str, object]:
        return {**RSAKey.import_key(self.key).as_dict(private=False), "kid": "k", **changes}

    def token(self, claims: dict[str, object] | None = None, **header: object) -> str:
        now = int(time.time())
        made = {"iss": self.address, "aud": CLIENT_ID, "sub": "1", "nonce": "a nonce", "iat": now, "exp": now + 60}
        parts = [{"alg": "RS256", "kid": "k"} | header, made | (claims or {})]
        signed = ".".join(_encoded(json.dumps(part).encode()) for part in parts)
        return f"{signed}.{_encoded(self.key.sign(signed.encode(), padding.PKCS1v15(), hashes.SHA256()))}"

    def right(self) -> None:
        self.says(DISCOVERY, self.places())
        self.says(KEYS, {"keys": [self.public()]})
        self.says(TOKEN, {"access_token": "t", "token_type": "Bearer", "id_token": self.token()})
        self.says(GITHUB_TOKEN, {"access_token": "t", "token_type": "bearer"})
        self.says(USER, {"id": 1, "login": "cat"})
        self.says(EMAILS, [])

    async def google(self) -> Person:
        google = Google(Application(CLIENT_ID, CLIENT_SECRET), self.address)
        await google.address(TRIP)
        return await google.person("a code", TRIP)

    async def github(self) -> Person:
        return await GitHub(Application(CLIENT_ID, CLIENT_SECRET), self.address, self.address).person("a code", TRIP)


def _encoded(data: bytes) -> str:
    return urlsafe_b64encode(data).decode().rstrip("=")


class _Handler(BaseHTTPRequestHandler):
    rogue: ClassVar[Rogue]

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.rogue.answers[self.path.partition("?")[0]](self)

    do_POST = do_GET  # noqa: N815


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        """Clients go away."""


@pytest.fixture(scope="module")
def key() -> RSAPrivateKey:
    return generate_private_key(65537, 2048)


@pytest.fixture
def rogue(key: RSAPrivateKey) -> Iterator[Rogue]:
    made = Rogue("", key)
    server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"rogue": made}))
    made.address = f"http://127.0.0.1:{server.server_address[1]}"
    made.right()
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield made
    server.shutdown()
    server.server_close()


async def test_what_is_right_gets_through(rogue: Rogue) -> None:
    """So that what is refused below is refused for its fault."""
    assert (await rogue.google()).subject == "1"
    assert (await rogue.github()).subject == "1"


def bad_places(rogue: Rogue) -> list[dict[str, object]]:
    endpoints = ("javascript:alert(1)", "/relative", "https://127.0.0.1/authorize", f"{rogue.address}/☃", 5, "")
    found = [rogue.places(authorization_endpoint=each) for each in (*endpoints, f"{rogue.address}/\r\nX-Evil: 1")]
    return [*found, rogue.places(jwks_uri="http://127.0.0.1:99999/"), rogue.places(issuer="http://127.0.0.1")]


async def test_a_discovery_document_that_leads_elsewhere(rogue: Rogue) -> None:
    for found in bad_places(rogue):
        rogue.says(DISCOVERY, found)
        with pytest.raises(Unavailable, match="Google does not answer as it should"):
            await rogue.google()


async def test_keys_and_tokens_of_shapes_that_nobody_foresaw(rogue: Rogue) -> None:
    bad: list[dict[str, object]] = [{"kty": []}, {"kty": "RSA"}, rogue.public(n=5), rogue.public(kty="oct", k="AA")]
    for keys in (1, {}, [1], *([each] for each in bad)):
        rogue.says(KEYS, {"keys": keys})
        with pytest.raises(Unavailable):
            await rogue.google()
    rogue.right()
    unsigned = f"{_encoded(json.dumps({'alg': 'none'}).encode())}.{rogue.token().split('.')[1]}."
    headers: list[dict[str, Any]] = [{"crit": 5}, {"crit": ["x"]}, {"alg": "HS256"}, {"alg": []}, {"kid": ["k"]}]
    tokens: list[object] = [5, "", "a.b.c", "a.b.c.d.e", unsigned, *(rogue.token(**header) for header in headers)]
    for token in tokens:
        rogue.says(TOKEN, {"access_token": "t", "id_token": token})
        with pytest.raises(Unavailable):
            await rogue.google()


@pytest.mark.parametrize("subject", ["a\x00b", "\ud800", "ä", "1\n", "x" * 256])
async def test_a_subject_that_could_not_be_stored(rogue: Rogue, subject: str) -> None:
    rogue.says(TOKEN, {"access_token": "t", "id_token": rogue.token({"sub": subject})})
    with pytest.raises(Unavailable):
        await rogue.google()
    rogue.says(USER, {"id": 10**300, "login": "cat"})
    with pytest.raises(Unavailable):
        await rogue.github()


@pytest.mark.parametrize(
    "body",
    [
        b'{"error":{"a":1}}',
        b'{"error":["invalid_grant"]}',
        b'{"access_token":"t","token_type":5}',
        b'{"access_token":"t","expires_in":1e999}',
        b'{"access_token":"a\\r\\nX-Evil: 1"}',
    ],
)
async def test_an_answer_to_the_code_of_a_shape_that_nobody_foresaw(
    rogue: Rogue, body: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    for path, asked in ((TOKEN, rogue.google), (GITHUB_TOKEN, rogue.github)):
        rogue.answers[path] = text(body)
        with pytest.raises(Unavailable, match="does not answer as it should"):
            await asked()
    assert not [record for record in caplog.records if record.levelno > logging.WARNING or record.exc_info]


async def test_what_is_packed_is_not_unpacked(rogue: Rogue) -> None:
    """200 KB that become 200 MB are within every bound that counts what comes."""
    bomb = gzip.compress(b" " * BOMB_BYTES)
    assert len(bomb) < oauth_client.MAX_ANSWER_BYTES
    rogue.answers[USER] = text(bomb, Content_Encoding="gzip")
    tracemalloc.start()
    try:
        with pytest.raises(Unavailable):
            await rogue.github()
        assert tracemalloc.get_traced_memory()[1] < BOMB_BYTES / 5
    finally:
        tracemalloc.stop()


async def test_an_answer_that_drips_is_given_up(rogue: Rogue, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each byte in time, the last one never: nobody but us ends the callback that waits for it."""
    monkeypatch.setattr(oauth_client, "WHOLE_SECONDS", 0.3, raising=False)
    for path, asked in ((DISCOVERY, rogue.google), (EMAILS, rogue.github)):
        rogue.answers[path] = drip
        begun = time.monotonic()
        with pytest.raises(Unavailable):
            await asked()
        assert time.monotonic() - begun < 2
