"""What REDIS_URL opens, seen from outside: two server processes on one database."""

from __future__ import annotations

import httpx

from tests.conftest import StartServer
from tests.server import free_port


def test_a_redis_that_is_not_there_is_said_and_no_reason_not_to_start(start_server: StartServer) -> None:
    """It is never the truth: an outage of it must not become one of everything when a machine restarts meanwhile."""
    server = start_server(REDIS_URL=f"redis://:hidden@127.0.0.1:{free_port()}/0")
    assert httpx.get(f"{server.url}/health", timeout=30).status_code == 200
    assert server.log().count("is away: going on without it") == 1
    assert "hidden" not in server.log()
