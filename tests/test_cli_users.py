"""`python cli.py user …`, beside a server that serves the same database."""

from __future__ import annotations

import asyncio
import io
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest
from websockets.exceptions import ConnectionClosed

import cli as command_line
from models.address import Address
from tests.conftest import Account, StartServer, register_on
from tests.databases import everything, look, url_of
from tests.graph.client import dial
from tests.graph.http_client import Graph
from tests.server import ROOT, Server, environment, free_port

pytestmark = pytest.mark.on_both

Typed = Callable[..., subprocess.CompletedProcess[str]]


class Done(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


Cli = Callable[..., Done]


@pytest.fixture
def settings(address: Address, tmp_path: Path) -> dict[str, str]:
    return environment(tmp_path / "data", free_port(), DATABASE_URL=url_of(address))


@pytest.fixture
def typed_cli(settings: dict[str, str]) -> Typed:
    """Run the command as an operator does; `typed` is its standard input."""

    def run(*arguments: str, typed: str = "") -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "cli.py", "user", *arguments]
        return subprocess.run(command, cwd=ROOT, env=settings, input=typed, capture_output=True, text=True, timeout=60)

    return run


@pytest.fixture
def cli(
    settings: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Cli]:
    """The same without a process of its own, most of whose time goes into importing."""
    monkeypatch.chdir(tmp_path)
    for name, value in settings.items():
        monkeypatch.setenv(name, value)

    def run(*arguments: str, typed: str = "") -> Done:
        monkeypatch.setattr("sys.stdin", io.StringIO(typed))
        capsys.readouterr()
        # On a thread without a loop: the tests have one, and the command starts its own.
        return Done(threads.submit(main, arguments).result(60), *capsys.readouterr())

    def main(arguments: Sequence[str]) -> int:
        try:
            return command_line.main(["user", *arguments])
        except SystemExit as left:  # argparse's
            return int(left.code or 0)

    with ThreadPoolExecutor(1) as threads:
        yield run


@pytest.fixture
def server(start_server: StartServer, address: Address, tmp_path: Path) -> Server:
    return start_server(tmp_path / "data", DATABASE_URL=url_of(address))


def login(server: Server, name: str, password: str) -> httpx.Response:
    body = {"username": name, "password": password}
    return httpx.post(f"{server.url}/api/auth/login", json=body, timeout=30)


async def closed(server: Server, token: str, opened: asyncio.Event) -> int | None:
    """The code that a socket is closed with."""
    async with dial(server) as connection:
        await connection.send(json.dumps({"type": "connection_init", "payload": {"authorization": token}}))
        await connection.recv()
        opened.set()
        try:
            await connection.recv()
        except ConnectionClosed:
            return connection.close_code
    raise AssertionError("it said something")


async def closes_on(server: Server, token: str, work: Callable[[], object]) -> int | None:
    opened = asyncio.Event()
    waiting = asyncio.create_task(closed(server, token, opened))
    await asyncio.wait_for(opened.wait(), 10)
    await asyncio.to_thread(work)
    return await asyncio.wait_for(waiting, 5)


async def test_an_operator_s_day(cli: Cli, typed_cli: Typed, server: Server, address: Address) -> None:
    made = typed_cli("create", "root", "root@example.com", "--admin", typed="a password for root\n")
    assert (made.returncode, made.stderr) == (0, "")
    assert "root is an administrator now: user_" in made.stdout
    assert "a password for root" not in made.stdout
    assert b"a password for root" not in everything(address)
    assert login(server, "root", "a password for root").status_code == 200

    user = register_on(server)
    assert cli("promote", user.username.upper()).returncode == 0
    async with httpx.AsyncClient(base_url=server.url, timeout=30) as client:
        assert await Graph(client, user.token).data("{ me { role } }") == {"me": {"role": "ADMIN"}}
    assert cli("demote", user.username).returncode == 0

    assert await closes_on(server, user.token, lambda: cli("disable", user.username)) == 4401
    assert login(server, user.username, user.password).status_code == 401
    listed = cli("list").stdout.splitlines()
    assert listed[0].split("\t") == ["username", "email", "role", "state", "created"]
    assert [line.split("\t")[2:4] for line in listed[1:]] == [["ADMIN", "active"], ["USER", "disabled"]]
    assert cli("enable", user.username).returncode == 0

    token = login(server, user.username, user.password).json()["access_token"]
    reset = lambda: cli("reset-password", user.username, typed="quite another\n")  # noqa: E731
    assert await closes_on(server, token, reset) == 4401
    assert login(server, user.username, user.password).status_code == 401
    assert login(server, user.username, "quite another").status_code == 200
    assert "had no second factor" in cli("disable-totp", user.username).stdout


async def test_a_revoked_key_s_socket_closes(server: Server) -> None:
    user = register_on(server)
    async with httpx.AsyncClient(base_url=server.url, timeout=30) as client:
        graph = Graph(client, user.token)
        create = 'mutation { createApiKey(input: { name: "a" }) { key apiKey { id } } }'
        made = (await graph.data(create))["createApiKey"]
        opened = asyncio.Event()
        waiting = asyncio.create_task(closed(server, made["key"], opened))
        await asyncio.wait_for(opened.wait(), 10)
        revoke = "mutation ($id: ID!) { revokeApiKey(input: { id: $id }) { id } }"
        await graph.data(revoke, id=made["apiKey"]["id"])
        assert await asyncio.wait_for(waiting, 5) == 4401
        assert await graph.data("{ me { id } }") == {"me": {"id": user.id}}


def test_what_cannot_be_is_one_line_and_code_1(cli: Cli, typed_cli: Typed, address: Address) -> None:
    assert cli("create", "ann", "ann@example.com", typed="password123\n").returncode == 0
    outside = typed_cli("create", "ANN", "b@example.com", typed="password123\n")
    assert (outside.returncode, outside.stdout) == (1, "")
    assert outside.stderr == cli("create", "ANN", "b@example.com", typed="password123\n").stderr
    for arguments, typed, told in (
        (("create", "ANN", "b@example.com"), "password123\n", "用户名已存在"),
        (("create", "bob", "ANN@example.com"), "password123\n", "already registered"),
        (("create", "bob", "nonsense"), "password123\n", "e-mail"),
        (("create", "bob", "b@example.com"), "short\n", "8 to 128"),
        (("create", "bob", "b@example.com"), "", "standard input"),
        (("promote", "nobody"), "", "nobody"),
        (("disable", "nobody"), "", "nobody"),
        (("reset-password", "nobody"), "password123\n", "nobody"),
        (("reset-password", "ann"), "short\n", "8 to 128"),
    ):
        done = cli(*arguments, typed=typed)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1), done.stderr
        assert told in done.stderr
    assert look(address, "SELECT count(*) FROM user_account")[0][0] == 1
    for wrong in ((), ("create", "bob"), ("create", "bob", "b@example.com", "--password", "password123")):
        assert cli(*wrong).returncode == 2, "a password on the command line is not even understood"


def test_somebody_s_own_account(cli: Cli, server: Server) -> None:
    """The names are found as at log-in, whatever their case."""
    account: Account = register_on(server)
    assert cli("disable", f" {account.username.title()} ").returncode == 1, "but not with spaces round them"
    assert cli("disable", account.username.title()).returncode == 0
