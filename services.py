"""What the transports are given: everything long-lived, built once by assembly.py, in one typed object."""

import asyncio
from dataclasses import dataclass, field
from typing import Literal

from auth.accounts import Accounts
from auth.api_keys import ApiKeys
from auth.credentials import Credentials
from auth.factors import Factors
from auth.oauth import OAuth
from auth.sessions import Sessions
from auth.visits import Visits
from chat.chats import Chats
from chat.conversations import Conversations
from chat.engine import Engine
from chat.erasures import Erasures
from chat.happenings import Happenings
from chat.members import Members
from chat.search import Searches
from chat.sending import Sendings
from chat.totals import Totals
from chat.typing import Typing
from models.database import Database
from models.usage import Limits
from providers.catalog import Catalog
from traffic import Operations, Presence


@dataclass(frozen=True, slots=True)
class WebLimits:
    """Sizes in bytes, times in seconds; frames are those of one socket, without limit where None. `json_values`: keys
    and values of one request or frame. `counted`: whether operations on a socket are."""

    frame: int
    json_values: int
    send_timeout: float
    init_timeout: float
    operations_per_socket: int
    frames_per_minute: int | None
    graph_frames_per_minute: int | None
    guest_max_tokens: int
    counted: bool


@dataclass(frozen=True, slots=True)
class WebSettings:
    """What the transports need to know of the configuration. `origins`: browsers' origins, lower case. `public_url`:
    the server's address as browsers know it, None: as it is asked. `frontend`: the page that a sign-in elsewhere leads
    to."""

    origins: tuple[str, ...]
    legacy_socket: Literal["guests", "token", "open"]
    public_url: str | None = None
    frontend: str = "/"


@dataclass(frozen=True, kw_only=True)
class AuthServices:
    """Who is asking, and for how long they may."""

    accounts: Accounts
    api_keys: ApiKeys
    credentials: Credentials
    factors: Factors
    oauth: OAuth
    sessions: Sessions
    visits: Visits


@dataclass(frozen=True, kw_only=True)
class ChatServices:
    """What the product does."""

    conversations: Conversations
    members: Members
    sendings: Sendings
    searches: Searches
    totals: Totals
    happenings: Happenings
    chats: Chats
    engine: Engine
    erasures: Erasures
    typing: Typing
    budget: Limits


@dataclass(frozen=True, kw_only=True)
class Services(AuthServices, ChatServices):
    database: Database
    catalog: Catalog
    presence: Presence
    operations: Operations
    limits: WebLimits
    settings: WebSettings
    closing: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the server begins to stop: streams that have no end of their own close."""
