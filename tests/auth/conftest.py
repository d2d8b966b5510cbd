"""Accounts on a real database."""

import time
from collections.abc import Iterator

import pyotp
import pytest

from auth.accounts import Accounts
from auth.factors import Factors
from auth.passwords import Passwords
from auth.sessions import SessionLimits, Sessions
from auth.throttle import NO_LIMITS, Throttle
from auth.tokens import Tokens
from models.database import Database

SECRET = "a secret for tests only, 32 bytes or more"
MINUTES = 30


def code_of(secret: str, steps: int = 0) -> str:
    """What the app shows, or did so many steps ago (below 0)."""
    return pyotp.TOTP(secret).at(time.time() + steps * 30)


@pytest.fixture
def passwords() -> Iterator[Passwords]:
    passwords = Passwords()
    yield passwords
    passwords.close()


@pytest.fixture
def tokens() -> Tokens:
    return Tokens(SECRET, MINUTES)


@pytest.fixture
def sessions(database: Database, tokens: Tokens) -> Sessions:
    return Sessions(database, tokens, SessionLimits())


@pytest.fixture
def factors(database: Database) -> Factors:
    return Factors(database, SECRET, Throttle(database, NO_LIMITS))


@pytest.fixture
def accounts(database: Database, passwords: Passwords, sessions: Sessions, factors: Factors) -> Accounts:
    return Accounts(database, passwords, sessions, Throttle(database, NO_LIMITS), factors)
