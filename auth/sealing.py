"""What is kept or handed out so that only this server can read it: AES-256-GCM under keys derived from SECRET_KEY."""

import os
from base64 import urlsafe_b64decode, urlsafe_b64encode

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

KEY_BYTES, NONCE_BYTES = 32, 12
MAX_SEALED_CHARS = 4096
"""A browser keeps no longer cookie."""


class NotOurs(Exception):
    """Sealed under another SECRET_KEY or for something else, or changed on its way."""


class Seal:
    """`purpose` separates keys: what was sealed for one purpose does not open for another."""

    def __init__(self, secret: str, purpose: str) -> None:
        derived = HKDF(SHA256(), KEY_BYTES, salt=None, info=f"ai-chat-studio {purpose}".encode())
        self._cipher = AESGCM(derived.derive(secret.encode()))

    def close(self, content: bytes, owner: str) -> str:
        """As text that fits a column, a cookie and an address. It opens for this owner only."""
        nonce = os.urandom(NONCE_BYTES)
        return urlsafe_b64encode(nonce + self._cipher.encrypt(nonce, content, owner.encode())).decode()

    def open(self, sealed: str, owner: str) -> bytes:
        """
        Raises:
            NotOurs
        """
        try:
            if len(sealed) > MAX_SEALED_CHARS:
                raise NotOurs
            raw = urlsafe_b64decode(sealed.encode("ascii"))
            if urlsafe_b64encode(raw).decode() != sealed:
                raise NotOurs  # the decoder passes over letters that are none, and over spare bits
            return self._cipher.decrypt(raw[:NONCE_BYTES], raw[NONCE_BYTES:], owner.encode())
        except (InvalidTag, ValueError):
            raise NotOurs from None
