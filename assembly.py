"""Settings → everything long-lived: opened in the order in which it is needed, closed in the opposite one."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import bounds
import identity_providers
from auth.accounts import Accounts
from auth.api_keys import ApiKeys
from auth.credentials import Credentials
from auth.factors import Factors
from auth.oauth import OAuth
from auth.passwords import Passwords
from auth.sessions import Sessions
from auth.throttle import Throttle
from auth.tokens import Tokens
from auth.visits import Visits
from bus.base import Bus
from buses import open_bus, open_counters, open_notices, open_sharing
from chat.access import Rights
from chat.chats import Chats
from chat.conversations import Conversations
from chat.engine import Engine
from chat.erasures import Erasures
from chat.feed import Feed
from chat.happenings import Happenings
from chat.members import Members
from chat.search import Searches
from chat.sending import Sendings
from chat.titles import Titles
from chat.totals import Totals
from chat.typing import Typing
from errors import StartError
from model_providers import open_catalog
from models.database import Database
from models.migrate import migrate
from models.opening import open_database
from models.usage import Limits
from providers.catalog import Catalog
from services import AuthServices, ChatServices, Services
from settings import Settings
from traffic import Operations, Presence


def prepare(settings: Settings) -> None:
    """Make the directory and the database, or find them in order.

    Raises:
        StartError: one line that names what to set.
    """
    try:
        settings.data_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StartError(f"DATA_DIR: cannot make {settings.data_dir} ({error.strerror})") from error
    migrate(settings.database)


@asynccontextmanager
async def build_services(settings: Settings) -> AsyncIterator[Services]:
    """Everything long-lived, opened and at work.

    Raises:
        StartError: one line that names what to set.
    """
    await asyncio.to_thread(prepare, settings)
    async with AsyncExitStack() as stack:
        database, bus = await _open_storage(settings, stack)
        auth = _open_auth(settings, stack, database, bus)
        catalog = await open_catalog(settings, stack)
        presence, operations = await _open_traffic(settings, stack)
        chat = await _open_chat(settings, stack, database, bus, catalog, presence)
        yield Services(
            database=database,
            catalog=catalog,
            presence=presence,
            operations=operations,
            limits=bounds.web_limits(settings),
            settings=bounds.web_settings(settings),
            **vars(auth),
            **vars(chat),
        )


async def _open_storage(settings: Settings, stack: AsyncExitStack) -> tuple[Database, Bus]:
    database = open_database(settings.database, bounds.pool_limits(settings))
    stack.push_async_callback(database.aclose)
    bus = await open_bus(settings)
    stack.push_async_callback(bus.aclose)
    return database, bus


def _open_auth(settings: Settings, stack: AsyncExitStack, database: Database, bus: Bus) -> AuthServices:
    secret = settings.signing_secret()
    sessions = Sessions(database, Tokens(secret, settings.access_token_expire_minutes), bounds.session_limits(settings))
    visits = Visits(database, bus, sessions)
    stack.push_async_callback(visits.aclose)
    passwords = Passwords()
    stack.callback(passwords.close)
    throttle = Throttle(database, bounds.throttle_limits(settings), open_counters(settings, stack))
    factors = Factors(database, secret, throttle)
    visits.start()
    return AuthServices(
        accounts=Accounts(database, passwords, sessions, throttle, factors),
        api_keys=ApiKeys(database),
        credentials=Credentials(database, passwords, sessions, throttle),
        factors=factors,
        oauth=OAuth(database, identity_providers.named(settings), secret, throttle, factors, sessions),
        sessions=sessions,
        visits=visits,
    )


async def _open_traffic(settings: Settings, stack: AsyncExitStack) -> tuple[Presence, Operations]:
    """How much anybody may ask for."""
    limits, sharing = bounds.traffic_limits(settings), open_sharing(settings, stack)
    presence, operations = Presence(limits, sharing), Operations(limits, sharing)
    await sharing.start()
    return presence, operations


async def _open_chat(
    settings: Settings, stack: AsyncExitStack, database: Database, bus: Bus, catalog: Catalog, presence: Presence
) -> ChatServices:
    engine = Engine(database, bus, bounds.engine_limits(settings))
    stack.push_async_callback(engine.aclose)
    inputs, budget = bounds.input_limits(settings), Limits(settings.tokens_per_day, settings.nanos_per_day)
    conversations, members = Conversations(database, engine, catalog, inputs), Members(database)
    chats = Chats(database, engine, catalog, inputs, budget)
    sendings = Sendings(database, engine, catalog, inputs, budget)
    notices = open_notices(database, bus)
    stack.push_async_callback(notices.aclose)
    typing = Typing(notices, conversations)
    feed = Feed(database, bus, settings.changes_keep_seconds)
    stack.push_async_callback(feed.aclose)
    rights = Rights(database, feed)
    stack.push_async_callback(rights.aclose)
    feed.start()
    if settings.title_model != "none":
        titles = Titles(database, chats, settings.title_model, inputs.title)
        stack.push_async_callback(titles.aclose)
        engine.ended = titles.ended
    engine.keeper.price_of, engine.keeper.sockets = catalog.price, lambda: presence.open
    if settings.restart_interrupted:
        engine.keeper.restart = sendings.restart
    erasures = Erasures(database, engine, conversations, members)
    stack.push_async_callback(erasures.aclose)
    await engine.start()
    erasures.start()
    return ChatServices(
        conversations=conversations,
        members=members,
        sendings=sendings,
        searches=Searches(database),
        totals=Totals(database),
        happenings=Happenings(database, feed, rights, chats, typing),
        chats=chats,
        engine=engine,
        erasures=erasures,
        typing=typing,
        budget=budget,
    )
