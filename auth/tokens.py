"""Access tokens: JWT, HS256 and nothing else."""

import hmac
import secrets
import time
from dataclasses import dataclass
from typing import TypeGuard

from jose import JWTError, jwt
from jose.exceptions import ExpiredSignatureError

from errors import TokenExpired, TokenInvalid

ALGORITHM = "HS256"
MAX_TOKEN_CHARS = 4096
KIND = "access"


@dataclass(frozen=True, slots=True)
class Claims:
    """`expires_at` is in seconds since the epoch."""

    user_id: str
    session_id: str
    token_id: str
    expires_at: int


class Tokens:
    def __init__(self, secret: str, minutes: int) -> None:
        self._secret = secret
        self.lifetime = minutes * 60

    def derived_key(self, purpose: str) -> bytes:
        """A key for something else than tokens, which nobody can compute who does not know the secret."""
        return hmac.digest(self._secret.encode(), purpose.encode(), "sha256")

    def issue(self, user_id: str, session_id: str, lifetime: int | None = None) -> str:
        """`lifetime` in seconds, if it is not the usual one. There is no `nbf`: a worker whose clock is a millisecond
        behind would refuse a token that was given this moment."""
        now = int(time.time())
        claims = {
            "sub": user_id,
            "sid": session_id,
            "typ": KIND,
            "jti": secrets.token_hex(8),
            "iat": now,
            "exp": now + (self.lifetime if lifetime is None else lifetime),
        }
        token: str = jwt.encode(claims, self._secret, algorithm=ALGORITHM)
        return token

    def verify(self, token: str) -> Claims:
        """
        Raises:
            TokenExpired: ours, but too old.
            TokenInvalid: anything else.
        """
        if len(token) > MAX_TOKEN_CHARS or not token.isascii():
            raise TokenInvalid
        try:
            header = jwt.get_unverified_header(token)
            # python-jose ignores `crit`; RFC 7515 wants a token with unknown critical headers refused.
            if header.get("alg") != ALGORITHM or "crit" in header:
                raise TokenInvalid
            claims = jwt.decode(
                token,
                self._secret,
                algorithms=[ALGORITHM],
                options={"verify_aud": False, "require_exp": True, "require_sub": True, "require_iat": True},
            )
        except ExpiredSignatureError:
            raise TokenExpired from None
        except (JWTError, ValueError, TypeError, ArithmeticError, AttributeError, RecursionError):
            raise TokenInvalid from None
        session_id = claims.get("sid")
        if claims.get("typ") != KIND or not _is_id(claims["sub"]) or not _is_id(session_id):
            raise TokenInvalid
        expires_at = int(claims["exp"])
        # python-jose takes it for one second more. A client whose stream ended with its token would come back with it.
        if expires_at <= time.time():
            raise TokenExpired
        return Claims(claims["sub"], session_id, str(claims.get("jti", "")), expires_at)


def _is_id(value: object) -> TypeGuard[str]:
    """Whether it may be an id of ours. What no database can store cannot be asked for either."""
    return isinstance(value, str) and value != "" and value.isascii() and value.isprintable()


def bearer(value: str | None) -> str | None:
    """The token in an Authorization value, with or without `Bearer ` in any case; None when there is none."""
    if value is None:
        return None
    scheme, _, rest = value.strip().partition(" ")
    token = rest.strip() if scheme.lower() == "bearer" else value.strip()
    return token or None
