"""Names, addresses and passwords as people give them: what is let in, and in which form."""

import unicodedata

from email_validator import EmailNotValidError, validate_email

from auth.passwords import MAX_CHARS, MIN_CHARS
from errors import BadUserInput

MAX_NAME_CHARS = 64
UNSEEN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
"""Unicode's categories of controls, of what is invisible or turns the direction, of half characters, of line ends."""


def encodable(text: str) -> bool:
    return "\x00" not in text and not any("\ud800" <= character <= "\udfff" for character in text)


def printable(text: str) -> bool:
    return all(unicodedata.category(character) not in UNSEEN for character in text)


def clean_username(value: str) -> str:
    """The name in NFC without outer space.

    Raises:
        BadUserInput
    """
    name = unicodedata.normalize("NFC", value.strip()) if encodable(value) else ""
    if not name or len(name) > MAX_NAME_CHARS or not printable(name):
        raise BadUserInput(f"username must be 1 to {MAX_NAME_CHARS} printable characters", field="username")
    return name


def clean_email(value: str) -> str:
    """
    Raises:
        BadUserInput
    """
    try:
        if not encodable(value) or len(value) > 254:
            raise EmailNotValidError
        return validate_email(value.strip(), check_deliverability=False, test_environment=True).normalized
    except (EmailNotValidError, ValueError, UnicodeError):
        raise BadUserInput("email is not an e-mail address", field="email") from None


def clean_password(value: str, field: str = "password") -> str:
    """
    Raises:
        BadUserInput: names the field.
    """
    if not MIN_CHARS <= len(value) <= MAX_CHARS or not encodable(value):
        raise BadUserInput(f"password must be {MIN_CHARS} to {MAX_CHARS} characters", field=field)
    return value
