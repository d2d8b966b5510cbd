"""`python cli.py backup` and `restore`, as an operator types them, beside a server that serves."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import psutil
import pytest

from models.address import Address
from tests.conftest import Account, StartServer, register_on
from tests.databases import folder_of_binaries, look, url_of
from tests.graph.documents import CONVERSATION, create, send
from tests.graph.http_client import Graph, Json
from tests.server import ROOT, Server, environment

pytestmark = pytest.mark.on_both
ALL = f"{{ conversations(first: 20) {{ edges {{ node {{ {CONVERSATION} }} }} }} }}"
LONG = "scripted:every=0.05,words=600"


def run(*arguments: str | Path, address: Address, limit: int | None = None) -> subprocess.CompletedProcess[str]:
    """`limit`: of the bytes that any file of it may have: a disk that is full."""
    folder = ROOT / "data"
    values = environment(folder, 1, DATABASE_URL=url_of(address))
    values["PATH"] = f"{folder_of_binaries()}{os.pathsep}{values['PATH']}"

    def full() -> None:
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    command = [sys.executable, "cli.py", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, env=values, preexec_fn=full, capture_output=True, text=True, timeout=60)


def refused(*arguments: str | Path, address: Address, limit: int | None = None) -> str:
    done = run(*arguments, address=address, limit=limit)
    assert (done.returncode, done.stdout) == (1, ""), done
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr


async def ask(server: Server, account: Account, work: Callable[[Graph], object]) -> None:
    async with httpx.AsyncClient(base_url=server.url, timeout=30) as http:
        result = work(Graph(http, account.token))
        if asyncio.iscoroutine(result):
            await result


async def test_what_was_there_at_the_backup_is_there_after_the_restore(
    address: Address, start_server: StartServer, tmp_path: Path
) -> None:
    """Taken while an answer is being written: what was written of it stays, and it ends as interrupted."""
    file = tmp_path / "backup"
    found: Json = {}
    server = start_server(DATABASE_URL=url_of(address), RATE_LIMITS="off")
    account = register_on(server)

    async def before(graph: Graph) -> None:
        run_id = (await send(graph, (await create(graph, title="kept"))["id"], "hello", model=LONG))["run"]["id"]
        while not look(address, "SELECT count(*) FROM run_segment WHERE run_id = ?", run_id)[0][0]:
            await asyncio.sleep(0.05)
        done = await asyncio.to_thread(run, "backup", file, address=address)
        assert done.returncode == 0, done.stderr
        assert "read back, and in order" in done.stdout
        await create(graph, title="too late")
        line = await asyncio.to_thread(refused, "restore", file, "--force", address=address)
        assert "stop it first" in line

    await ask(server, account, before)
    assert server.stop(signal.SIGKILL) == -signal.SIGKILL
    assert "--force" in await asyncio.to_thread(refused, "restore", file, address=address)
    done = await asyncio.to_thread(run, "restore", file, "--force", address=address)
    assert (done.returncode, done.stderr) == (0, "")

    again = start_server(DATABASE_URL=url_of(address), RATE_LIMITS="off")

    async def after(graph: Graph) -> None:
        while not found or found["messages"]["edges"][-1]["node"]["status"] == "STREAMING":
            edges = (await graph.data(ALL))["conversations"]["edges"]
            found.update(edges[0]["node"])
            await asyncio.sleep(0.05)
        assert [edge["node"]["title"] for edge in edges] == ["kept"]

    await asyncio.wait_for(ask(again, account, after), 20)
    user, answer = (edge["node"] for edge in found["messages"]["edges"])
    assert (user["content"], answer["status"]) == ("hello", "INTERRUPTED")
    assert answer["content"].startswith("w0 w1")


def test_that_is_stopped_leaves_nothing(address: Address, tmp_path: Path) -> None:
    """By whoever runs the nightly jobs, when one takes too long: neither half a file nor a pg_dump at work."""
    if isinstance(address, Path):
        return  # has no other program, and is through before anybody could stop it
    tools, folder = tmp_path / "tools", tmp_path / "backups"
    for made in (tools, folder):
        made.mkdir()
    (tools / "pg_dump").write_text(
        f'#!/bin/sh\n[ "$1" = --version ] && exec echo "pg_dump (PostgreSQL) 99.0"\n'
        f"echo $$ > {tools}/pid\nexec sleep 60\n"
    )
    (tools / "pg_dump").chmod(0o755)
    values = environment(ROOT / "data", 1, DATABASE_URL=url_of(address))
    values["PATH"] = os.pathsep.join([str(tools), str(folder_of_binaries()), values["PATH"]])
    command = [sys.executable, "cli.py", "backup", str(folder / "backup")]
    process = subprocess.Popen(command, cwd=ROOT, env=values, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 30
    while not (tools / "pid").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=10)
    assert (process.returncode, said) == (130, "")
    assert list(folder.iterdir()) == []
    assert not psutil.pid_exists(int((tools / "pid").read_text()))


def test_a_full_disk_is_one_line_and_leaves_nothing(address: Address, tmp_path: Path) -> None:
    for number in range(300):
        values = f"u{number}", "x" * 2_000, 1
        look(address, "INSERT INTO change (audience, ref, kind, at) VALUES (?, ?, 'k', ?)", *values)
    (folder := tmp_path / "backups").mkdir()
    line = refused("backup", folder / "backup", address=address, limit=4_096)
    assert any(told in line for told in ("too large", "full", "I/O", "File size limit")), line
    assert list(folder.iterdir()) == []
