"""Schemathesis makes requests from our own schemas, at a real server: REST as two users, GraphQL as one for each field.

REST is checked for all that it knows: answers that are not documented, authorization that is ignored, one user's object
given to the other, use after a delete. In `make soak` with a seed of the day, and for longer.
"""

from __future__ import annotations

import json
import secrets
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from graphql import parse
from hypothesis import HealthCheck, given, settings

from errors import ErrorCode
from tests.conftest import Account, Register, StartServer, register_on
from tests.hostile.answers import seconds
from tests.hostile.operations import roots
from tests.server import ROOT, Server

NOT_CHECKED = {
    "positive_data_acceptance": "some rules stand in no JSON schema: printable names, sums of sizes, strict integers",
    "allow_header_conformance": "Starlette's 405 names the methods of one route, and ours have one each",
}
SERVER_ERRORS = {
    ErrorCode.INTERNAL_ERROR,
    ErrorCode.UNAVAILABLE,
    ErrorCode.PROVIDER_ERROR,
    ErrorCode.UNAUTHENTICATED,
    ErrorCode.QUERY_TOO_COMPLEX,
}
"""What no question that fits the schema, asked by a user, may be answered with."""
LONG = 0.3
"""Seconds that the fullest answer would take: only then may a question be too complex."""
ENDS_RIGHTS = dict.fromkeys(("logout", "revokeSession", "changePassword", "refreshSession"), ErrorCode.UNAUTHENTICATED)
"""Whoever has signed out is nobody."""


def fair(error: Any, document: str, expected: ErrorCode | None = None) -> bool:
    """Whether a question that fits the schema may be answered with this."""
    code = ErrorCode(error["extensions"]["code"])
    if code is ErrorCode.QUERY_TOO_COMPLEX:
        return seconds(parse(document)) > LONG
    return code is expected or code not in SERVER_ERRORS


def two_users(path: Path, *accounts: Account) -> Path:
    """An authentication file in the words of Web Fuzzing Commons."""
    entries = [
        {"name": account.username, "fixedHeaders": [{"name": "Authorization", "value": f"Bearer {account.token}"}]}
        for account in accounts
    ]
    path.write_text(json.dumps({"auth": entries}))
    return path


@pytest.mark.parametrize(
    ("examples", "seed"),
    [
        pytest.param("5", "1", id="some"),
        pytest.param("300", str(secrets.randbelow(10**6)), id="hundreds", marks=pytest.mark.soak),
    ],
)
def test_rest_keeps_its_word_to_two_users(start_server: StartServer, tmp_path: Path, examples: str, seed: str) -> None:
    server = start_server()
    users = two_users(tmp_path / "users.json", register_on(server), register_on(server))
    options = ["--auth-wfc", str(users), "--checks", "all", "--exclude-checks", ",".join(NOT_CHECKED)]
    options += ["--max-examples", examples, "--seed", seed, "--suppress-health-check", "all", "--no-shrink"]
    done = subprocess.run(
        [Path(sys.executable).with_name("st"), "run", f"{server.url}/openapi.json", *options],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=1_800,
    )
    assert done.returncode == 0, done.stdout[-8_000:] + done.stderr[-2_000:]
    assert "Stateful" in done.stdout
    assert "Traceback" not in server.log()


@pytest.fixture(scope="module")
def graph_schema() -> Any:
    return schemathesis.graphql.from_path(ROOT / "schema.graphql")


ASKED = [(kind, name) for kind, name in roots() if kind != "Subscription"]
QUIET = settings(deadline=None, suppress_health_check=list(HealthCheck), database=None)


def asked(schema: Any, kind: str, name: str, server: Server, account: Account, examples: settings) -> None:
    """Ask for one field in as many ways, and look at what is answered."""
    with httpx.Client(base_url=server.url, timeout=30, headers=account.headers) as client:

        @examples
        @given(case=schema[kind][name].as_strategy())
        def ask(case: Any) -> None:
            # Escaped: a lone half of a character is no UTF-8, but may be asked for.
            content = json.dumps(case.body if isinstance(case.body, dict) else {"query": case.body})
            answer = client.post("/graphql", content=content, headers={"Content-Type": "application/json"})
            assert answer.status_code in {200, 400}, answer.text
            for error in answer.json().get("errors", ()):
                assert fair(error, case.body, ENDS_RIGHTS.get(name)), (error, case.body)

        ask()


@pytest.mark.parametrize(("kind", "name"), ASKED)
def test_graphql_answers_whatever_fits_the_schema(
    graph_schema: Any, kind: str, name: str, server: Server, register: Register
) -> None:
    """A user for each field: `logout` and its like end what the others would need."""
    asked(graph_schema, kind, name, server, register(), settings(QUIET, max_examples=8, derandomize=True))


@pytest.mark.soak
@pytest.mark.parametrize(("kind", "name"), ASKED)
def test_graphql_answers_whatever_fits_the_schema_for_long(
    graph_schema: Any, kind: str, name: str, server: Server, register: Register
) -> None:
    asked(graph_schema, kind, name, server, register(), settings(QUIET, max_examples=300))


def test_nothing_of_that_left_a_traceback(server: Server) -> None:
    assert "Traceback" not in server.log()
