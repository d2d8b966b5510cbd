"""Viewers of the shared server. Accounts are shared too: a password hash takes a tenth of a second of a core."""

from __future__ import annotations

import httpx
import pytest

from tests.conftest import Account, register_on
from tests.graph.http_client import Graph
from tests.server import Server


@pytest.fixture(scope="session")
def viewer_account(server: Server) -> Account:
    return register_on(server)


@pytest.fixture(scope="session")
def stranger_account(server: Server) -> Account:
    return register_on(server)


@pytest.fixture
def viewer(client: httpx.AsyncClient, viewer_account: Account) -> Graph:
    """A user who has been here before."""
    return Graph(client, viewer_account.token)


@pytest.fixture
def stranger(client: httpx.AsyncClient, stranger_account: Account) -> Graph:
    """Another user, who has no part in what is the viewer's."""
    return Graph(client, stranger_account.token)


@pytest.fixture
def anonymous(client: httpx.AsyncClient) -> Graph:
    return Graph(client)


@pytest.fixture
def newcomer(client: httpx.AsyncClient, account: Account) -> Graph:
    """A user who has nothing yet."""
    return Graph(client, account.token)
