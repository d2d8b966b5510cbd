"""Who is at the other end of a connection."""

import unicodedata

from starlette.requests import HTTPConnection

from auth.device import Device

MAX_USER_AGENT_CHARS = 256


def device_of(connection: HTTPConnection) -> Device:
    """Its address (a proxy that is trusted has had its say before) and what it calls itself, cut to 256 characters."""
    agent = connection.headers.get("user-agent", "")[:MAX_USER_AGENT_CHARS]
    shown = "".join(letter for letter in agent if unicodedata.category(letter)[0] != "C").strip()
    return Device(None if connection.client is None else connection.client.host, shown or None)
