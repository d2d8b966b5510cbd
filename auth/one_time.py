"""One-time codes (RFC 6238, 30 s, 6 digits, SHA-1: what every authenticator app knows) and recovery codes."""

import base64
import re
import secrets
import time
from hashlib import sha256
from io import BytesIO

import pyotp
import segno

STEP_SECONDS, DIGITS = 30, 6
SKEW_STEPS = 1
"""A telephone's clock may be this far off, either way."""
SECRET_CHARS = 32
"""160 bits, what RFC 4226 asks for."""
RECOVERY_CODES = 10
RECOVERY_GROUPS, GROUP_CHARS = 4, 4
"""80 bits: a thief of the table cannot try them all, so that a quick hash without a salt will do."""
MAX_CODE_CHARS = 64
_ALPHABET = "abcdefghijkmnpqrstuvwxyz23456789"
_DIGITS = re.compile(r"[0-9]{6}")


def new_secret() -> str:
    return pyotp.random_base32(SECRET_CHARS)


def secret_bytes(secret: str) -> bytes:
    return base64.b32decode(secret)


def secret_of(content: bytes) -> str:
    return base64.b32encode(content).decode()


def otpauth_uri(secret: str, username: str, issuer: str) -> str:
    """What an authenticator app reads from the QR code."""
    return pyotp.TOTP(secret, digits=DIGITS, interval=STEP_SECONDS).provisioning_uri(name=username, issuer_name=issuer)


def qr_svg(uri: str) -> str:
    """The QR code as an SVG element that grows with its box: no script, no style, nothing that it loads."""
    picture = BytesIO()
    code = segno.make(uri, error="m", micro=False)
    code.save(picture, kind="svg", xmldecl=False, omitsize=True, svgclass=None, lineclass=None, border=4, light="#fff")
    return picture.getvalue().decode()


def as_code(text: str) -> str | None:
    """The six digits, however they were grouped; None: it is no such code."""
    digits = re.sub(r"[\s-]", "", text[:MAX_CODE_CHARS])
    return digits if _DIGITS.fullmatch(digits) else None


def step_of(secret: str, code: str, now: float | None = None) -> int | None:
    """The number of the 30 seconds that this code belongs to, if those are now or beside now."""
    current = int((time.time() if now is None else now) // STEP_SECONDS)
    totp, found = pyotp.TOTP(secret, digits=DIGITS, interval=STEP_SECONDS), None
    # All of them, always: the time must not tell which one it was.
    for step in range(current - SKEW_STEPS, current + SKEW_STEPS + 1):
        if secrets.compare_digest(totp.generate_otp(step), code):
            found = step
    return found


def new_recovery_codes() -> list[str]:
    def code() -> str:
        groups = ("".join(secrets.choice(_ALPHABET) for _ in range(GROUP_CHARS)) for _ in range(RECOVERY_GROUPS))
        return "-".join(groups)

    return [code() for _ in range(RECOVERY_CODES)]


def recovery_digest(text: str) -> str:
    """What is stored of a recovery code: the same for every way of writing it."""
    plain = re.sub(r"[\s-]", "", text[:MAX_CODE_CHARS]).lower()
    return sha256(plain.encode(errors="surrogatepass")).hexdigest()
