"""Ids: a type prefix and 26 characters that sort by time (base 32 of 48 bits of milliseconds and 80 of chance)."""

import secrets
import time

ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"


def new_id(prefix: str) -> str:
    """A fresh id such as `conv_01k9…`; `prefix` is user, conv, msg, run, sess, key and so on."""
    number = (time.time_ns() // 1_000_000 << 80) | secrets.randbits(80)
    return f"{prefix}_" + "".join(ALPHABET[number >> shift & 31] for shift in range(125, -1, -5))
