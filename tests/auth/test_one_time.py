"""Codes as authenticator apps make them; pyotp plays the app."""

import re
import time
from urllib.parse import parse_qs, unquote, urlsplit
from xml.etree import ElementTree

import pyotp
import pytest

from auth.one_time import (
    RECOVERY_CODES,
    STEP_SECONDS,
    as_code,
    new_recovery_codes,
    new_secret,
    otpauth_uri,
    qr_svg,
    recovery_digest,
    secret_bytes,
    secret_of,
    step_of,
)

RFC_SECRET = "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ"


@pytest.mark.parametrize(
    ("moment", "code"), [(59, "287082"), (1111111109, "081804"), (1234567890, "005924"), (20000000000, "353130")]
)
def test_the_rfc_s_own_examples(moment: int, code: str) -> None:
    """RFC 6238, appendix B, its last six digits."""
    assert step_of(RFC_SECRET, code, moment) == moment // STEP_SECONDS


def test_a_clock_may_be_one_step_off_and_no_more() -> None:
    secret, now = new_secret(), 1_800_000_000.0
    right = [step for step in range(-3, 4) if step_of(secret, pyotp.TOTP(secret).at(now + step * 30), now) is not None]
    assert right == [-1, 0, 1]


def test_the_app_s_address_has_all_that_the_app_needs() -> None:
    secret = new_secret()
    parts = urlsplit(otpauth_uri(secret, "José 张/伟:x", "AI Chat Studio"))
    assert (parts.scheme, parts.netloc) == ("otpauth", "totp")
    assert unquote(parts.path) == "/AI Chat Studio:José 张/伟:x"
    assert parse_qs(parts.query) == {"secret": [secret], "issuer": ["AI Chat Studio"]}
    parsed = pyotp.parse_uri(otpauth_uri(secret, "ann", "AI Chat Studio"))
    assert isinstance(parsed, pyotp.TOTP)
    assert step_of(secret, parsed.now()) is not None


def test_the_picture_is_an_svg_that_loads_and_runs_nothing() -> None:
    """A page puts it into itself: it must not bring a script along, whatever a username holds."""
    svg = qr_svg(otpauth_uri(new_secret(), "<script>alert(1)</script>" + "名" * 30, "AI Chat Studio"))
    root = ElementTree.fromstring(svg)
    assert root.tag.endswith("}svg")
    assert "viewBox" in root.attrib
    assert {node.tag.rpartition("}")[2] for node in root.iter()} == {"svg", "path"}
    assert not re.search(r"script|href|style|on\w+=", svg)


def test_a_secret_has_160_bits_and_survives_its_form() -> None:
    secrets = {new_secret() for _ in range(100)}
    assert len(secrets) == 100
    assert all(len(secret_bytes(secret)) == 20 and secret_of(secret_bytes(secret)) == secret for secret in secrets)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("123456", "123456"),
        (" 123 456 ", "123456"),
        ("123-456", "123456"),
        *((text, None) for text in ("12345", "1234567", "12345６", "", "abcdef", "1" * 100_000, "\ud800")),
    ],
)
def test_six_digits_however_they_are_written(text: str, code: str | None) -> None:
    assert as_code(text) == code


def test_recovery_codes_are_ten_and_none_is_like_another() -> None:
    codes = new_recovery_codes()
    assert len(set(codes)) == len(codes) == RECOVERY_CODES
    for code in codes:
        assert re.fullmatch(r"[a-km-np-z2-9]{4}(-[a-km-np-z2-9]{4}){3}", code)
        assert as_code(code) is None, "never taken for an app's"
        written = [code, code.upper(), code.replace("-", ""), code.replace("-", " "), f" {code} "]
        assert len({recovery_digest(text) for text in written}) == 1
    assert len({recovery_digest(code) for code in codes}) == RECOVERY_CODES
    assert recovery_digest("\ud800") != recovery_digest("")


def test_looking_for_the_step_takes_no_time() -> None:
    secret = new_secret()
    begin = time.perf_counter()
    for _ in range(100):
        step_of(secret, "000000")
    assert time.perf_counter() - begin < 1
