"""Bad tokens: the whole table over every way in that takes one. Each is told the same thing everywhere.

tests/auth/test_tokens has the same and more without a server; here it is shown that no transport has a way round it.
"""

from __future__ import annotations

import base64
import json
import sqlite3
import time
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from jose import jwk, jws, jwt
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from errors import StartError
from settings import load_settings
from tests.auth import test_tokens
from tests.conftest import Account, register_on
from tests.graph.client import dial
from tests.graph.http_client import Graph, Json
from tests.rest.talk import legacy
from tests.server import SECRET, Server

Claims = dict[str, Any]
HEADER = {"alg": "HS256", "typ": "JWT"}
OTHER = "another secret, another secret, another"
INVALID, EXPIRED = "invalid", "expired"
NOW = int(time.time())

RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
PUBLIC = (
    RSA.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo).decode()
)
PRIVATE = RSA.private_bytes(
    serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
).decode()


def raw(header: object, claims: object, secret: str = SECRET, algorithm: str = "sha256") -> str:
    """A token made by hand: what no library would sign."""
    return test_tokens.raw(header, claims, secret, algorithm)


def unsigned(claims: Claims, algorithm: str) -> str:
    return raw({"alg": algorithm, "typ": "JWT"}, claims).rpartition(".")[0] + "."


def resigned(claims: Claims, **changes: Any) -> str:
    """One of ours but for these claims; None leaves one out."""
    return raw(HEADER, {name: value for name, value in {**claims, **changes}.items() if value is not None})


def with_header(claims: Claims, **header: Any) -> str:
    return raw({**HEADER, **header}, claims)


def embedded(claims: Claims) -> str:
    """Signed by a key that the token itself brings."""
    key = jwk.construct(PUBLIC, "RS256").to_dict()
    return str(jws.sign(claims, PRIVATE, headers={"jwk": key, "kid": "mine"}, algorithm="RS256"))


def encrypted(claims: Claims) -> str:
    """The five parts of a JWE."""
    return raw({"alg": "dir", "enc": "A256GCM"}, claims) + ".AAAA.AAAA"


TABLE: dict[str, tuple[Callable[[Claims], str], str]] = {
    "no token": (lambda _: "hello", INVALID),
    "an API key that nobody has": (lambda _: f"acs_{'x' * 43}", INVALID),
    "no API key": (lambda _: "acs_", INVALID),
    "an API key of half a character": (lambda _: "acs_é", INVALID),
    "two parts": (lambda claims: raw(HEADER, claims).rpartition(".")[0], INVALID),
    "four parts": (lambda claims: raw(HEADER, claims) + ".x", INVALID),
    "no base64": (lambda _: "!!!.???.***", INVALID),
    "of another secret": (lambda claims: raw(HEADER, claims, OTHER), INVALID),
    "of no secret": (lambda claims: raw(HEADER, claims, ""), INVALID),
    "of a NUL": (lambda claims: raw(HEADER, claims, "\x00"), INVALID),
    "of the guide's secret": (lambda claims: raw(HEADER, claims, "your-secret-key-change-in-production"), INVALID),
    "no signature": (lambda claims: raw(HEADER, claims).rpartition(".")[0] + ".", INVALID),
    "alg none": (lambda claims: unsigned(claims, "none"), INVALID),
    "alg nOnE": (lambda claims: unsigned(claims, "nOnE"), INVALID),
    "alg none, signed": (lambda claims: raw({"alg": "none"}, claims), INVALID),
    "alg HS512": (lambda claims: raw({"alg": "HS512"}, claims, SECRET, "sha512"), INVALID),
    "alg HS384": (lambda claims: jwt.encode(claims, SECRET, algorithm="HS384"), INVALID),
    "alg RS256, our HMAC": (lambda claims: raw({"alg": "RS256"}, claims), INVALID),
    "alg RS256": (lambda claims: jwt.encode(claims, PRIVATE, algorithm="RS256"), INVALID),
    "a public key as the secret": (lambda claims: raw(HEADER, claims, PUBLIC), INVALID),
    "its own key": (embedded, INVALID),
    "kid of a file": (lambda claims: raw({**HEADER, "kid": "../../../../dev/null"}, claims, ""), INVALID),
    "kid of a query": (lambda claims: raw({**HEADER, "kid": "x' UNION SELECT 'k"}, claims, "k"), INVALID),
    "jku": (lambda claims: raw({**HEADER, "jku": "http://127.0.0.1:1/k"}, claims, OTHER), INVALID),
    "x5u": (lambda claims: raw({**HEADER, "x5u": "http://127.0.0.1:1/k"}, claims, OTHER), INVALID),
    "crit": (lambda claims: with_header(claims, crit=["exp2"], exp2=1), INVALID),
    "empty crit": (lambda claims: with_header(claims, crit=[]), INVALID),
    "JWE": (encrypted, INVALID),
    "nested": (lambda claims: raw({**HEADER, "cty": "JWT"}, {"jwt": raw(HEADER, claims)}), INVALID),
    "nested in itself": (lambda claims: raw(HEADER, raw(HEADER, claims)), INVALID),
    "claims a list": (lambda claims: raw(HEADER, [claims]), INVALID),
    "not yet valid": (lambda claims: resigned(claims, nbf=NOW + 3_600), INVALID),
    "of tomorrow": (lambda claims: resigned(claims, iat=NOW + 86_400, nbf=NOW + 86_400, exp=NOW + 99_999), INVALID),
    "refresh as access": (lambda claims: resigned(claims, typ="refresh"), INVALID),
    "no typ": (lambda claims: resigned(claims, typ=None), INVALID),
    "no exp": (lambda claims: resigned(claims, exp=None), INVALID),
    "exp text": (lambda claims: resigned(claims, exp="never"), INVALID),
    "exp infinite": (lambda claims: resigned(claims, exp=float("inf")), INVALID),
    "no sub": (lambda claims: resigned(claims, sub=None), INVALID),
    "sub a list": (lambda claims: resigned(claims, sub=[claims["sub"]]), INVALID),
    "sub with half a character": (lambda claims: resigned(claims, sub=claims["sub"] + "\ud800"), INVALID),
    "sub of half a character": (lambda claims: resigned(claims, sub="\udc80"), INVALID),
    "sub with NUL": (lambda claims: resigned(claims, sub=claims["sub"] + "\x00"), INVALID),
    "sub of nobody": (lambda claims: resigned(claims, sub="user_00000000000000000000000000"), INVALID),
    "session of nobody": (lambda claims: resigned(claims, sid="sess_0000000000000000000000000"), INVALID),
    "no session": (lambda claims: resigned(claims, sid=None), INVALID),
    "session with half a character": (lambda claims: resigned(claims, sid=claims["sid"] + "\ud800"), INVALID),
    "session of half a character": (lambda claims: resigned(claims, sid="\udc80"), INVALID),
    "session with NUL": (lambda claims: resigned(claims, sid=claims["sid"] + "\x00"), INVALID),
    "session a list": (lambda claims: resigned(claims, sid=[claims["sid"]]), INVALID),
    "expired": (lambda claims: resigned(claims, exp=NOW - 1), EXPIRED),
    "expired long ago": (lambda claims: resigned(claims, exp=1), EXPIRED),
    "expired and of another secret": (lambda claims: raw(HEADER, {**claims, "exp": 1}, OTHER), INVALID),
    "oversized": (lambda claims: resigned(claims, jti="x" * 5_000), INVALID),
    "deep": (lambda _: "e30." + base64.urlsafe_b64encode(b"[" * 2_000).decode().rstrip("=") + ".x", INVALID),
    "not ASCII": (lambda claims: raw(HEADER, claims) + "é", INVALID),
    "Chinese": (lambda _: "令牌", INVALID),
    "NUL": (lambda claims: raw(HEADER, claims) + "\x00", INVALID),
    "a key": (lambda _: "acs_00000000000000000000000000", INVALID),
    "a refresh token's looks": (lambda _: "acsr_" + "A" * 64, INVALID),
}


def claims_of(account: Account) -> Claims:
    return dict(jwt.get_unverified_claims(account.token))


# Each way shows the token and says what became of it: INVALID, EXPIRED, or what else came.


def shown(token: str) -> dict[bytes, bytes]:
    return {b"Authorization": f"Bearer {token}".encode()}


async def by_rest(server: Server, client: httpx.AsyncClient, account: Account, token: str) -> str:
    answer = await client.get("/api/stats", headers=shown(token))
    assert answer.headers.get("www-authenticate") == "Bearer"
    words = {"Token无效": INVALID, "Token已过期": EXPIRED}
    return words[answer.json()["detail"]] if answer.status_code == 401 else answer.text


async def by_graphql(server: Server, client: httpx.AsyncClient, account: Account, token: str) -> str:
    return await _asked(client, token, "application/json")


async def by_events(server: Server, client: httpx.AsyncClient, account: Account, token: str) -> str:
    return await _asked(client, token, "text/event-stream")


async def _asked(client: httpx.AsyncClient, token: str, accept: str) -> str:
    headers = {**shown(token), b"Accept": accept.encode()}
    answer = await client.post("/graphql", json={"query": "{ models { id } }"}, headers=headers)
    return next((kind for code, kind in CODES.items() if f'"code":"{code}"' in answer.text), answer.text)


CODES = {"UNAUTHENTICATED": INVALID, "TOKEN_EXPIRED": EXPIRED}
CLOSES = {(4401, "Token无效"): INVALID, (4403, "Token已过期"): EXPIRED, (4401, "Token已过期"): EXPIRED}


async def by_init(server: Server, client: httpx.AsyncClient, account: Account, token: str) -> str:
    async with dial(server) as connection:
        payload = {"type": "connection_init", "payload": {"authorization": f"Bearer {token}"}}
        return await _closed(connection, json.dumps(payload))


async def by_handshake(server: Server, client: httpx.AsyncClient, account: Account, token: str) -> str:
    async with dial(server, additional_headers={"Authorization": f"Bearer {token}"}) as connection:
        return await _closed(connection, '{"type": "connection_init"}')


async def _closed(connection: Any, frame: str) -> str:
    try:
        await connection.send(frame)
        return str(await connection.recv())
    except ConnectionClosed as closed:
        code, reason = (closed.rcvd.code, closed.rcvd.reason) if closed.rcvd else (1006, "")
        return CLOSES.get((code, reason), f"{code} {reason}")


async def by_address(server: Server, client: httpx.AsyncClient, account: Account, token: str) -> str:
    async with legacy(server, account.id, f"?token={quote(token)}") as socket:
        closed = await socket.closed()
        return CLOSES.get(closed, str(closed))


async def by_subprotocol(server: Server, client: httpx.AsyncClient, account: Account, token: str) -> str:
    async with connect(f"{server.ws}/ws/{account.id}", subprotocols=["bearer", token], proxy=None) as connection:  # type: ignore[list-item]
        return await _closed(connection, '{"type": "ping"}')


Way = Callable[[Server, httpx.AsyncClient, Account, str], Awaitable[str]]
WAYS: dict[str, Way] = {
    "REST": by_rest,
    "GraphQL": by_graphql,
    "events": by_events,
    "connection_init": by_init,
    "handshake": by_handshake,
    "address": by_address,
    "subprotocol": by_subprotocol,
}
HEADERS = {"REST", "GraphQL", "events"}


def carried(way: str, token: str) -> bool:
    """Whether this way can carry it at all: headers are bytes without NUL, subprotocols are RFC 9110's tokens."""
    if way == "subprotocol":
        return token.isascii() and token.replace(".", "").replace("-", "").replace("_", "").isalnum()
    if way == "handshake":
        return token.isascii() and token.isprintable()  # this client writes nothing else
    return way not in HEADERS or token.isprintable()


@pytest.mark.parametrize("way", WAYS)
async def test_the_whole_table_by(way: str, server: Server, client: httpx.AsyncClient, viewer_account: Account) -> None:
    show, claims = WAYS[way], claims_of(viewer_account)
    wrong = {}
    for name, (make, expected) in TABLE.items():
        token = make(claims)
        if carried(way, token) and (told := await show(server, client, viewer_account, token)) != expected:
            wrong[name] = told
    assert wrong == {}
    good = await show(server, client, viewer_account, raw(HEADER, claims)) if way not in {"REST", "address"} else ""
    assert good not in {INVALID, EXPIRED}, "the same but for the fault is let in"


@pytest.mark.parametrize("statement", ["UPDATE user_account SET disabled = 1", "DELETE FROM user_session"])
async def test_whoever_was_disabled_or_signed_out_by(server: Server, client: httpx.AsyncClient, statement: str) -> None:
    account = register_on(server)
    column = "id" if "user_account" in statement else "user_id"
    with closing(sqlite3.connect(server.data_dir / "chat.db", timeout=10)) as database, database:
        database.execute(f"{statement} WHERE {column} = ?", (account.id,))
    for way, show in WAYS.items():
        assert await show(server, client, account, account.token) == INVALID, way


@pytest.mark.parametrize(
    "secret",
    ["seven", "x" * 31, PUBLIC, PRIVATE, "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAABgQC0 a@b", "-----BEGIN CERTIFICATE-----"],
)
def test_a_secret_that_is_none_stops_the_start(secret: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A public key as the secret would let anyone sign who has read it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SECRET_KEY", secret)
    with pytest.raises(StartError, match="SECRET_KEY") as refused:
        load_settings()
    assert secret not in str(refused.value)


def test_an_empty_secret_is_none_and_one_is_made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for value in ("", " ", "\t"):
        monkeypatch.setenv("SECRET_KEY", value)
        assert len(load_settings().signing_secret()) >= 32
    monkeypatch.setenv("APP_ENV", "production")
    with pytest.raises(StartError, match="SECRET_KEY"):
        load_settings()


async def test_a_stranger_with_a_good_token_is_still_a_stranger(viewer: Graph, stranger: Graph) -> None:
    """The table's `good` case the other way round: whose token it is decides who is asked for."""
    me: Json = (await viewer.data("{ me { id } }"))["me"]
    assert (await stranger.data("{ me { id } }"))["me"] != me
