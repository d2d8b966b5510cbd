"""A process that is killed between two portions of a big deletion: it was gone at once, and is erased to the end."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from tests.conftest import register_on
from tests.server import running

MESSAGES = 5_000
PATIENCE = 180
"""What nobody has worked on for a minute is taken up by a look every minute."""


def left(folder: Path) -> tuple[int, int, int]:
    """Messages, words of the search index, and deletions that are under way."""
    with closing(sqlite3.connect(folder / "chat.db", timeout=10)) as file:
        counts = ", ".join(f"(SELECT count(*) FROM {table})" for table in ("message", "message_search", "erasure"))
        found: tuple[int, int, int] = file.execute(f"SELECT {counts}").fetchone()
    return found


@pytest.mark.soak
def test_what_a_killed_process_left_of_a_deletion_is_erased_by_the_next(tmp_path: Path) -> None:
    with running(tmp_path) as server:
        account = register_on(server)
        messages = [{"id": str(n), "role": "user", "content": f"needle {n}"} for n in range(MESSAGES)]
        with httpx.Client(base_url=server.url, headers=account.headers, timeout=60) as client:
            client.post(
                "/api/conversations", json={"id": "big", "title": "big", "messages": messages}
            ).raise_for_status()
            client.delete("/api/conversations/big").raise_for_status()
        before = left(tmp_path)[0]
        server.process.kill()
        server.process.wait()
    assert 0 < left(tmp_path)[0] <= before < MESSAGES, "it was not killed between two portions: that proves nothing"
    with running(tmp_path) as again, httpx.Client(base_url=again.url, headers=account.headers, timeout=30) as client:
        assert client.get("/api/conversations").json() == []
        assert client.get("/api/conversations/big").status_code == 404
        give_up = time.monotonic() + PATIENCE
        while any(left(tmp_path)) and time.monotonic() < give_up:
            time.sleep(0.5)
        assert left(tmp_path) == (0, 0, 0)
        assert "Traceback" not in again.log()
