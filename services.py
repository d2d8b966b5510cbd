"""What the transports are given: everything long-lived, built once by app.py, in one typed object."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from auth.accounts import Accounts
from auth.sessions import Sessions
from chat.chats import Chats
from chat.conversations import Conversations
from chat.engine import Engine
from chat.happenings import Happenings
from chat.members import Members
from chat.sending import Sendings
from chat.typing import Typing
from errors import Unavailable
from models.database import Database
from models.usage import Limits
from providers.catalog import Catalog


@dataclass(frozen=True, slots=True)
class WebLimits:
    """Sizes in bytes, times in seconds; counts are off when `counted` is False."""

    body: int
    conversation_body: int
    frame: int
    send_timeout: float
    init_timeout: float
    operations_per_socket: int
    sockets: int
    guest_sockets: int
    frames_per_minute: int
    guest_chats_per_minute: int
    guest_max_tokens: int
    counted: bool


@dataclass(frozen=True, slots=True)
class WebSettings:
    """What the transports need to know of the configuration. `origins`: browsers' origins, lower case."""

    origins: tuple[str, ...]
    legacy_socket: Literal["guests", "token", "open"]
    graphiql: Path


class Presence:
    """The open sockets of this process, counted for /health and bounded."""

    def __init__(self, limit: int, guests: int, counted: bool) -> None:
        self._limit = limit if counted else None
        self._guest_limit = guests if counted else None
        self.open = 0
        self.guests = 0

    @contextmanager
    def socket(self, *, guest: bool = False) -> Iterator[None]:
        """Count a socket for as long as the block lasts.

        Raises:
            Unavailable: there are too many.
        """
        full = self._limit is not None and self.open >= self._limit
        full = full or (guest and self._guest_limit is not None and self.guests >= self._guest_limit)
        if full:
            raise Unavailable("Too many open connections; try again later", retry_after=5)
        self.open += 1
        self.guests += guest
        try:
            yield
        finally:
            self.open -= 1
            self.guests -= guest


@dataclass(frozen=True, slots=True)
class Services:
    database: Database
    accounts: Accounts
    sessions: Sessions
    conversations: Conversations
    members: Members
    sendings: Sendings
    happenings: Happenings
    chats: Chats
    engine: Engine
    typing: Typing
    catalog: Catalog
    budget: Limits
    presence: Presence
    limits: WebLimits
    settings: WebSettings
    closing: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the server begins to stop: streams that have no end of their own close."""
