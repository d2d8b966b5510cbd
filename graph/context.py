"""What a resolver is given: the services, who is asking, and loaders that batch what one selection asks for."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TypeVar

import strawberry
from strawberry.dataloader import DataLoader

from auth.device import UNKNOWN, Device
from auth.sessions import Viewer
from errors import Forbidden, QueryTooComplex, TokenMissing
from graph import sizes
from graph.limits import MAX_COST, surplus
from models.batches import batched
from models.conversation import Conversation
from models.member import Member, MemberRole, members_of, readable_conversations, roles_in
from models.message import READ_AT_ONCE, Message, messages_of, siblings_of
from models.run import Run, active_runs, runs_of
from models.totp import confirmed_totps
from models.user import User, users_by_ids
from services import Services

T = TypeVar("T")
MOST_SIBLINGS = 5_000
"""Read at once, 20 µs each. A place may have been answered any number of times."""


@dataclass(slots=True)
class Context:
    """Made for one operation. Loaders batch but do not remember: a subscription's next event must see what is new."""

    services: Services
    viewer: Viewer | None
    device: Device = UNKNOWN
    spent: int = field(default=0, init=False)
    """On lists that are longer than was counted before the operation, or the event of a subscription, ran."""
    held: int = field(default=0, init=False)
    """Bytes of the texts that were read for this answer, or event."""
    _reading: asyncio.Lock = field(default_factory=asyncio.Lock, init=False)
    conversations: DataLoader[str, Conversation | None] = field(init=False)
    members: DataLoader[str, list[Member] | None] = field(init=False)
    roles: DataLoader[str, MemberRole | None] = field(init=False)
    messages: DataLoader[str, Message | None] = field(init=False)
    siblings: DataLoader[Message, list[Message]] = field(init=False)
    runs: DataLoader[str, Run | None] = field(init=False)
    active_runs: DataLoader[str, Run | None] = field(init=False)
    users: DataLoader[str, User | None] = field(init=False)
    totps: DataLoader[str, bool] = field(init=False)

    def __post_init__(self) -> None:
        database = self.services.database

        async def load_conversations(ids: list[str]) -> list[Conversation | None]:
            async with database.read() as session:
                return _in_order(ids, await readable_conversations(session, self.user_id, ids))

        async def load_members(ids: list[str]) -> list[list[Member] | None]:
            async with database.read() as session:
                return _in_order(ids, await members_of(session, ids))

        async def load_roles(ids: list[str]) -> list[MemberRole | None]:
            async with database.read() as session:
                return _in_order(ids, await roles_in(session, self.user_id, ids))

        async def load_messages(ids: list[str]) -> list[Message | None]:
            found: dict[str, Message] = {}
            async with self.reading(), database.read() as session:
                for batch in batched(dict.fromkeys(ids), READ_AT_ONCE):
                    some = await messages_of(session, self.user_id, batch)
                    self.hold(list(some.values()))
                    found |= some
            return _in_order(ids, found)

        async def load_siblings(rows: list[Message]) -> list[list[Message]]:
            async with self.reading(), database.read() as session:
                found = await siblings_of(session, rows, MOST_SIBLINGS + 1, self.hold)
            if sum({id(family): len(family) for family in found.values()}.values()) > MOST_SIBLINGS:
                raise QueryTooComplex(f"These messages have more than {MOST_SIBLINGS} siblings; ask for fewer of them")
            return [found[row.id] for row in rows]

        async def load_runs(ids: list[str]) -> list[Run | None]:
            async with database.read() as session:
                found = await runs_of(session, self.user_id, ids)
            return _in_order(ids, {key: self.services.engine.live(run) for key, run in found.items()})

        async def load_active_runs(conversation_ids: list[str]) -> list[Run | None]:
            async with database.read() as session:
                found = await active_runs(session, conversation_ids)
            live = {key: self.services.engine.live(run) for key, run in found.items()}
            return _in_order(conversation_ids, {key: run for key, run in live.items() if run.active})

        async def load_users(ids: list[str]) -> list[User | None]:
            async with database.read() as session:
                return _in_order(ids, await users_by_ids(session, ids))

        async def load_totps(ids: list[str]) -> list[bool]:
            async with database.read() as session:
                found = await confirmed_totps(session, ids)
            return [key in found for key in ids]

        self.conversations = _loader(load_conversations)
        self.members = _loader(load_members)
        self.roles = _loader(load_roles)
        self.messages = _loader(load_messages)
        self.siblings = DataLoader(load_siblings, cache=False)
        self.runs = _loader(load_runs)
        self.active_runs = _loader(load_active_runs)
        self.users = _loader(load_users)
        self.totps = DataLoader(load_totps, cache=False)

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[None]:
        """Messages are read in here, for one field after the other: together they would hold more than they may.

        Raises:
            QueryTooComplex: what was read before is too much already.
        """
        async with self._reading:
            self.hold([])
            yield

    def hold(self, rows: Sequence[Message]) -> None:
        """
        Raises:
            QueryTooComplex: with these, too much text is read for one answer.
        """
        self.held += sizes.bytes_of(rows)
        if self.held > sizes.MAX_READ_BYTES:
            raise QueryTooComplex("These messages are too long to be read at once; ask for smaller pages")

    def let_go(self) -> None:
        """Of what the last batches read: loaders and context refer to each other, and are found late."""
        for loader in (self.conversations, self.messages, self.siblings, self.runs, self.active_runs):
            loader.batch = None

    def require(self) -> Viewer:
        """
        Raises:
            TokenMissing: anonymous.
        """
        if self.viewer is None:
            raise TokenMissing
        return self.viewer

    @property
    def by_key(self) -> bool:
        """Whether it is an API key that says who the viewer is."""
        return self.viewer is not None and self.viewer.session_id is None

    def require_session(self) -> Viewer:
        """Who is signed in, for what manages the account.

        Raises:
            TokenMissing: anonymous.
            Forbidden: the token is an API key, which anybody may hold whom the user gave it to.
        """
        viewer = self.require()
        if self.by_key:
            raise Forbidden("An API key cannot manage the account; sign in")
        return viewer

    @property
    def user_id(self) -> str:
        return self.require().id


def _loader(load: Callable[[list[str]], Awaitable[list[T | None]]]) -> DataLoader[str, T | None]:
    return DataLoader(load, cache=False)


def _in_order(ids: list[str], found: dict[str, T]) -> list[T | None]:
    return [found.get(key) for key in ids]


Info = strawberry.Info[Context, None]


def counted(info: Info, items: Sequence[T]) -> Sequence[T]:
    """A list whose length nobody asked for, before what is below it is answered.

    Raises:
        QueryTooComplex: with what such lists of this answer had beyond what was counted before, it would take too long.
    """
    info.context.spent += surplus(info._raw_info, len(items))
    if info.context.spent > MAX_COST:
        raise QueryTooComplex("There is too much to answer at once; ask for fewer fields, or for smaller pages")
    return items
