"""Fixtures that all tests share: servers as users start them, clients, accounts."""

from __future__ import annotations

import itertools
import shutil
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import httpx
import pytest
from jose import jwt
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from models.address import Address, PostgresAddress
from models.database import Database
from models.ids import new_id
from models.message import Message
from models.migrate import migrate
from models.opening import open_database
from models.user import User
from tests.databases import KINDS, NoServer, Postgres, postgres_server, skip_or_fail
from tests.redises import OwnRedis, Redis, redis_server
from tests.server import Server, running

StartServer = Callable[..., Server]
_numbers = itertools.count(1)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that is marked `on_both` and has a database has both, one after the other."""
    if "kind" in metafunc.fixturenames and metafunc.definition.get_closest_marker("on_both"):
        metafunc.parametrize("kind", KINDS, indirect=True)


@pytest.fixture(scope="session", autouse=True)
def _certificates() -> Iterator[None]:
    """Each client reads all the certificates of the system, 20 ms of one core: once is enough."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("httpx._transports.default.create_ssl_context", cache(httpx.create_ssl_context))
        yield


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """The PostgreSQL server of this run."""
    with ExitStack() as stack:
        try:
            server = stack.enter_context(postgres_server())
        except NoServer as error:
            skip_or_fail(error)
        yield server


@pytest.fixture(scope="session")
def redis() -> Iterator[Redis]:
    """The Redis server of this run."""
    with ExitStack() as stack:
        try:
            server = stack.enter_context(redis_server())
        except NoServer as error:
            skip_or_fail(error, "Redis")
        yield server


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty SQLite file to copy: migrating takes longer than most tests."""
    path = tmp_path_factory.mktemp("migrated") / "chat.db"
    migrate(path)
    return path


@pytest.fixture
def path(tmp_path: Path, migrated: Path) -> Path:
    """A new SQLite file at the newest migration, for tests of what is SQLite's own."""
    return Path(shutil.copy(migrated, tmp_path / "chat.db"))


@pytest.fixture
def kind(request: pytest.FixtureRequest) -> str:
    """The kind of database: SQLite, unless the test is marked `on_both`."""
    return str(getattr(request, "param", KINDS[0]))


@pytest.fixture
def address(kind: str, request: pytest.FixtureRequest) -> Iterator[Address]:
    """A new database at the newest migration, of this kind."""
    if kind == KINDS[0]:
        path: Path = request.getfixturevalue("path")
        yield path
        return
    server: Postgres = request.getfixturevalue("postgres")
    with server.migrated() as made:
        yield made


@pytest.fixture
def postgres_address(postgres: Postgres) -> Iterator[PostgresAddress]:
    """A new PostgreSQL database at the newest migration."""
    with postgres.migrated() as made:
        yield made


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[OwnRedis]:
    """A Redis server to be stopped. It ends with the thread that started it, which is the main one."""
    folder = tmp_path / "redis"
    folder.mkdir()
    server = OwnRedis(folder)
    yield server
    server.stop()


@pytest.fixture
async def database(address: Address) -> AsyncIterator[Database]:
    database = open_database(address)
    yield database
    await database.aclose()


async def add_user(database: Database) -> str:
    """A new user's id, which is the name too; nobody here logs in."""
    name = new_id("user")
    user = User(id=name, username=name, username_key=name, email=name, email_key=name, password_hash="-")
    async with database.write() as session:
        session.add(user)
    return name


async def all_messages(session: AsyncSession, conversation_id: str) -> Sequence[Message]:
    """Every message of a conversation's tree, by depth."""
    query = select(Message).where(Message.conversation_id == conversation_id)
    return (await session.exec(query.order_by(col(Message.depth), col(Message.id)))).all()


LONGEST = ("log", "web", "test_fleet.py", "test_scenario.py", "graph")
"""They begin first, so that no process is left alone with one of them at the end."""
ALONE = ("test_kill.py", "test_faults.py", "test_redis_faults.py", "test_worker_faults.py")
"""They promise seconds, with fifty clients on as many cores as there are: nothing else may run."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Several processes (`make test`) share the files out, a file as a whole."""
    tests = Path(__file__).parent

    def order(item: pytest.Item) -> int:
        first = item.path.relative_to(tests).parts[0]
        return LONGEST.index(first) if first in LONGEST else len(LONGEST)

    for item in items:
        if item.path.name in ALONE:
            item.add_marker(pytest.mark.alone)
    items.sort(key=order)


@dataclass(frozen=True)
class Account:
    """A registered user. `headers` carry the token."""

    username: str
    password: str
    token: str
    id: str

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}

    @property
    def session_id(self) -> str:
        return str(jwt.get_unverified_claims(self.token)["sid"])


Register = Callable[[], Account]


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The server that most tests share: the scripted model, no rates."""
    with running(tmp_path_factory.mktemp("server")) as shared:
        yield shared


@pytest.fixture(scope="session")
def model_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with the real embedded model, ready to answer."""
    with running(tmp_path_factory.mktemp("model"), EMBEDDED_MODEL="true") as shared:
        wait_for_model(shared)
        yield shared


@pytest.fixture
def start_server(tmp_path: Path) -> Iterator[StartServer]:
    """Start a server with settings of one's own; it is stopped at the end of the test."""
    with ExitStack() as stack:

        def start(data_dir: Path | None = None, command: list[str] | None = None, **settings: str) -> Server:
            folder = data_dir or tmp_path / f"server{next(_numbers)}"
            return stack.enter_context(running(folder, command, **settings))

        yield start


@pytest.fixture
async def client(server: Server) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=server.url, timeout=30) as connected:
        yield connected


def register_on(server: Server) -> Account:
    """A new user of this server."""
    name = f"user{next(_numbers)}"
    body = {"username": name, "email": f"{name}@example.com", "password": "password123"}
    answer = httpx.post(f"{server.url}/api/auth/register", json=body, timeout=30)
    answer.raise_for_status()
    token = answer.json()["access_token"]
    me = httpx.get(f"{server.url}/api/auth/me", headers={"Authorization": f"Bearer {token}"}, timeout=30)
    return Account(name, body["password"], token, me.json()["id"])


@pytest.fixture
def register(server: Server) -> Register:
    """Make a new user of the shared server."""
    return lambda: register_on(server)


@pytest.fixture
def account(register: Register) -> Account:
    return register()


@pytest.fixture
def other(register: Register) -> Account:
    """Someone else."""
    return register()


def wait_for_model(server: Server, seconds: float = 240) -> None:
    """Until the embedded model can answer: the first time its file has to be fetched."""
    deadline = httpx.Timeout(seconds)
    query = {"query": "{ models { id available unavailableReason } }"}
    with httpx.Client(base_url=server.url, timeout=deadline) as asking:
        for _ in range(int(seconds * 4)):
            models = asking.post("/graphql", json=query).json()["data"]["models"]
            if models[0]["available"]:
                return
            time.sleep(0.25)
    raise RuntimeError(f"the model is not ready: {models[0]['unavailableReason']}\n{server.log()}")
