"""What an operation may ask for, whatever way it is written."""

from __future__ import annotations

import time

import pytest
from graphql import get_introspection_query

from graph.execution import RequestRefused, Runner
from graph.limits import MAX_DEPTH
from graph.schema import core_schema
from tests.graph.documents import CONVERSATION, FOLLOW
from tests.graph.http_client import Json

RUNNER = Runner(core_schema(), 1000)
PAGE = "{ conversations(first: %s) { edges { cursor node { id messages(first: %s) { edges { node { %s } } } } } } }"
MESSAGE = "id role content createdAt status model externalId"


def _code(query: str, variables: Json | None = None) -> str | None:
    """What the query is refused with, before it runs."""
    try:
        RUNNER.prepare({"query": query, "variables": variables})
    except RequestRefused as refused:
        return str(refused.errors[0]["extensions"]["code"])
    return None


def _nested(levels: int) -> str:
    """`levels` fields below each other."""
    return "{ run(id: 1) " + "{ message { run " * ((levels - 2) // 2) + "{ id }" + " } }" * ((levels - 2) // 2) + " }"


def test_what_clients_ask_for_is_answered() -> None:
    assert _code(get_introspection_query()) is None
    assert _code(f"{{ conversations(first: 20) {{ edges {{ cursor node {{ {CONVERSATION} }} }} }} }}") is None
    assert _code(PAGE % (100, 20, MESSAGE)) is None
    assert _code(FOLLOW) is None
    everything = (
        f"{MESSAGE} reasoning author {{ username }} usage {{ totalTokens }} run {{ id status }} siblings {{ id }}"
    )
    whole = f"{{ conversation(id: 1) {{ messages(first: 100) {{ edges {{ node {{ {everything} }} }} }} }} }}"
    assert _code(whole) is None
    assert _code(PAGE % (20, 10, everything)) is None


def test_what_has_to_be_looked_up_weighs_more() -> None:
    """2,000 lists of siblings, each by a read of its own, kept every other request waiting for 5 seconds."""
    assert _code(PAGE % (100, 20, "siblings { id }")) == "QUERY_TOO_COMPLEX"
    assert _code(PAGE % (100, 20, "author { username } run { id } usage { totalTokens }")) == "QUERY_TOO_COMPLEX"


def test_depth_is_bounded() -> None:
    """The executor calls itself for each level."""
    assert _code(_nested(MAX_DEPTH)) is None
    assert _code(_nested(MAX_DEPTH + 2)) == "QUERY_TOO_COMPLEX"


def test_depth_counts_through_fragments() -> None:
    fragments = " ".join(f"fragment F{n} on Run {{ message {{ run {{ ...F{n + 1} }} }} }}" for n in range(20))
    assert _code(f"{{ run(id: 1) {{ ...F0 }} }} {fragments} fragment F20 on Run {{ id }}") == "QUERY_TOO_COMPLEX"


@pytest.mark.parametrize("levels", [8, 13])
def test_what_doubles_is_counted_not_run(levels: int) -> None:
    """24 levels of two spreads are 16 million fields, and the obvious walk takes as long to count as to answer them."""
    fragments = " ".join(
        f"fragment F{n} on Run {{ a: message {{ run {{ ...F{n + 1} }} }} b: message {{ run {{ ...F{n + 1} }} }} }}"
        for n in range(levels)
    )
    begun = time.perf_counter()
    code = _code(f"{{ run(id: 1) {{ ...F0 }} }} {fragments} fragment F{levels} on Run {{ id }}")
    assert time.perf_counter() - begun < 0.5
    assert (levels, code) in {(8, None), (13, "QUERY_TOO_COMPLEX")}


@pytest.mark.parametrize(
    ("query", "variables"),
    [
        (PAGE % (100, 100, MESSAGE), None),
        (PAGE.replace("{ conv", "query ($n: Int) { conv", 1) % ("$n", "$n", MESSAGE), {"n": 100}),
        (PAGE.replace("{ conv", "query ($n: Int = 100) { conv", 1) % ("$n", "$n", MESSAGE), None),
        (PAGE.replace("first", "last") % (100, 100, MESSAGE), None),
        (PAGE % (100, 60, f"... on Node {{ ... on Message {{ {MESSAGE} }} }}"), None),
        (
            "query ($ids: [ID!]!) { nodes(ids: $ids) { ... on Conversation { messages(first: 100) { edges { node {"
            f" {MESSAGE} }} }} }} }} }} }}",
            {"ids": ["x"] * 100},
        ),
    ],
)
def test_lists_multiply_however_their_size_is_said(query: str, variables: Json | None) -> None:
    assert _code(query, variables) == "QUERY_TOO_COMPLEX"


@pytest.mark.parametrize("size", [None, "x", 10**30, -5, [1, 2]])
def test_a_size_that_is_none_is_left_to_its_own_check(size: object) -> None:
    query = "query ($n: Int) { conversations(first: $n) { edges { cursor } } }"
    assert _code(query, {"n": size}) is None
