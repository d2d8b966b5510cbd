import base64
import hashlib
import hmac
import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jose import jwt

from auth.tokens import MAX_TOKEN_CHARS, Tokens, bearer
from errors import TokenExpired, TokenInvalid
from tests.auth.conftest import MINUTES, SECRET

TOKENS = Tokens(SECRET, MINUTES)
NOW = int(time.time())
GOOD: dict[str, Any] = {
    "sub": "user_1",
    "sid": "sess_1",
    "typ": "access",
    "jti": "1",
    "iat": NOW,
    "nbf": NOW,
    "exp": NOW + 600,
}


def raw(header: object, claims: object, secret: str = SECRET, algorithm: str = "sha256") -> str:
    """A token made by hand: what no library would sign."""
    head, body = (
        base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in (header, claims)
    )
    signature = hmac.new(secret.encode(), f"{head}.{body}".encode(), algorithm).digest()
    return f"{head}.{body}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"


def signed(**changes: Any) -> str:
    """One of ours but for these claims; None leaves one out."""
    claims = {name: value for name, value in {**GOOD, **changes}.items() if value is not None}
    return raw({"alg": "HS256", "typ": "JWT"}, claims)


def unsigned(algorithm: str) -> str:
    head, body, _ = raw({"alg": algorithm, "typ": "JWT"}, GOOD).split(".")
    return f"{head}.{body}."


INVALID = {
    "empty": "",
    "no token": "hello",
    "two parts": "a.b",
    "four parts": signed() + ".x",
    "no base64": "!!!.???.***",
    "forged": raw({"alg": "HS256"}, GOOD, "another secret, another secret, another"),
    "signed with nothing": raw({"alg": "HS256"}, GOOD, ""),
    "claims changed": ".".join((signed().split(".")[0], signed(sub="user_2").split(".")[1], signed().split(".")[2])),
    "alg none": unsigned("none"),
    "alg None": unsigned("None"),
    "alg nOnE": unsigned("nOnE"),
    "alg empty": unsigned(""),
    "HS512 with our secret": raw({"alg": "HS512"}, GOOD, SECRET, "sha512"),
    "HS384 with our secret": jwt.encode(GOOD, SECRET, algorithm="HS384"),
    "said to be RS256": raw({"alg": "RS256"}, GOOD),
    "said to be ES256": raw({"alg": "ES256"}, GOOD),
    "alg a list": raw({"alg": ["HS256"]}, GOOD),
    "alg missing": raw({"typ": "JWT"}, GOOD),
    "header a list": raw(["HS256"], GOOD),
    "header null": raw(None, GOOD),
    "unknown critical header": raw({"alg": "HS256", "crit": ["exp2"], "exp2": 1}, GOOD),
    "empty crit": raw({"alg": "HS256", "crit": []}, GOOD),
    "claims a list": raw({"alg": "HS256"}, [GOOD]),
    "claims text": raw({"alg": "HS256"}, "user_1"),
    "claims null": raw({"alg": "HS256"}, None),
    "not yet valid": signed(nbf=NOW + 3_600),
    "wrong typ": signed(typ="refresh"),
    "no typ": signed(typ=None),
    "no sub": signed(sub=None),
    "sub a number": signed(sub=1),
    "sub empty": signed(sub=""),
    "sub a list": signed(sub=["user_1"]),
    "no sid: from before there were sessions": signed(sid=None),
    "sid empty": signed(sid=""),
    "sid a list": signed(sid=["sess_1"]),
    "no exp": signed(exp=None),
    "exp text": signed(exp="tomorrow"),
    "exp a list": signed(exp=[1]),
    "exp infinite": signed(exp=float("inf")),
    "exp no number": signed(exp=float("nan")),
    "no iat": signed(iat=None),
    "iat text": signed(iat="now"),
    "not ASCII": signed() + "é",
    "Chinese": "令牌",
    "surrogate": "\ud800.a.b",
    "NUL": signed() + "\x00",
    "huge": signed(jti="x" * MAX_TOKEN_CHARS),
    "deep": "e" * 100 + "." + base64.urlsafe_b64encode(b"[" * 2_000).decode() + ".x",
}


@pytest.mark.parametrize("token", INVALID.values(), ids=INVALID.keys())
def test_is_invalid(token: str) -> None:
    with pytest.raises(TokenInvalid) as caught:
        TOKENS.verify(token)
    assert caught.value.message == "Token无效"


@pytest.mark.parametrize("exp", [NOW - 1, NOW - 10**9, 0, -1], ids=["just now", "long ago", "1970", "1969"])
def test_ours_but_too_old_is_expired(exp: int) -> None:
    with pytest.raises(TokenExpired) as caught:
        TOKENS.verify(signed(exp=exp))
    assert caught.value.message == "Token已过期"


def test_forged_and_too_old_is_forged() -> None:
    with pytest.raises(TokenInvalid):
        TOKENS.verify(raw({"alg": "HS256"}, {**GOOD, "exp": 1}, "another secret, another secret, another"))


def test_what_was_issued_is_accepted_and_lives_as_long_as_set() -> None:
    claims = TOKENS.verify(TOKENS.issue("user_1", "sess_1"))
    assert (claims.user_id, claims.session_id) == ("user_1", "sess_1")
    assert claims.expires_at == pytest.approx(time.time() + MINUTES * 60, abs=2)
    assert TOKENS.lifetime == MINUTES * 60


def test_one_of_a_worker_whose_clock_is_ahead_is_good_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever has just logged in asks another worker next: a millisecond between their clocks would be enough."""
    real = time.time
    monkeypatch.setattr("auth.tokens.time.time", lambda: real() + 3_600)
    token = TOKENS.issue("user_1", "sess_1")
    monkeypatch.undo()
    assert TOKENS.verify(token).user_id == "user_1"


def test_two_tokens_are_never_the_same() -> None:
    first, second = (TOKENS.verify(TOKENS.issue("user_1", "sess_1")) for _ in range(2))
    assert first.token_id != second.token_id


@given(st.text(st.characters(exclude_categories=()), max_size=300))
def test_whatever_comes_is_refused_in_words_of_ours(text: str) -> None:
    with pytest.raises(TokenInvalid):
        TOKENS.verify(text)


@given(st.integers(0, 400), st.integers(1, 255))
def test_a_changed_letter_is_noticed(position: int, shift: int) -> None:
    token = signed()
    position %= len(token)
    letter = chr((ord(token[position]) + shift) % 128)
    changed = token[:position] + letter + token[position + 1 :]
    if _bytes(changed) == _bytes(token):
        return  # the last letter of a part has spare bits
    with pytest.raises(TokenInvalid):
        TOKENS.verify(changed)


def _bytes(token: str) -> list[bytes] | None:
    try:
        return [base64.urlsafe_b64decode(part + "==") for part in token.split(".")]
    except ValueError:
        return None


@pytest.mark.parametrize(
    ("value", "token"),
    [
        (None, None),
        ("", None),
        ("  ", None),
        ("Bearer", None),
        ("Bearer  ", None),
        ("Bearer a.b.c", "a.b.c"),
        ("bearer a.b.c", "a.b.c"),
        ("BEARER   a.b.c  ", "a.b.c"),
        ("a.b.c", "a.b.c"),
        ("Basic abc", "Basic abc"),
    ],
)
def test_a_header_s_token(value: str | None, token: str | None) -> None:
    assert bearer(value) == token


def test_the_signature_is_plain_hmac() -> None:
    """Any library that knows JWT can check our tokens."""
    head, body, signature = TOKENS.issue("user_1", "sess_1").split(".")
    digest = hmac.new(SECRET.encode(), f"{head}.{body}".encode(), hashlib.sha256).digest()
    assert base64.urlsafe_b64decode(signature + "==") == digest
