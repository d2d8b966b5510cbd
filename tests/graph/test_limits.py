"""What an operation may ask for, whatever way it is written."""

from __future__ import annotations

import time

import pytest
from graphql import execute_sync, get_introspection_query, parse

from graph.execution import RequestRefused, Runner
from graph.schema import core_schema
from graph.shape import QueryLimits
from tests.graph.documents import CONVERSATION, FOLLOW
from tests.graph.http_client import Json

RUNNER = Runner(core_schema(), QueryLimits())
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
    assert _code(_nested(12)) is None
    assert _code(_nested(14)) == "QUERY_TOO_COMPLEX"


def test_introspection_is_apart_and_bounded_too() -> None:
    deep = "{ __schema { types " + "{ ofType " * 30 + "{ name }" + " }" * 30 + " } }"
    assert _code(deep.replace("types", "queryType", 1)) == "QUERY_TOO_COMPLEX"
    assert _code('{ __type(name: "Run") { fields { type { ofType { ofType { ofType { name } } } } } } }') is None


def test_introspection_that_asks_for_all_types_again_and_again_is_refused() -> None:
    """A kilobyte without a token took 1 to 7 seconds, in which the process did nothing else."""
    fields = "fields { name args { name type { kind name } } type { kind name ofType { kind name } } }"
    assert _code(f"{{ __schema {{ types {{ {fields} }} }} }}") is None
    everywhere = " ".join(f"a{n}: __schema {{ types {{ {fields} }} }}" for n in range(15))
    within = " ".join(f"a{n}: types {{ {fields} }}" for n in range(15))
    below = " ".join(f"a{n}: {fields}" for n in range(15))
    for query in (f"{{ {everywhere} }}", f"{{ __schema {{ {within} }} }}", f"{{ __schema {{ types {{ {below} }} }} }}"):
        assert _code(query) == "QUERY_TOO_COMPLEX"


def test_what_tools_ask_of_the_schema_is_answered() -> None:
    whole = get_introspection_query(
        specified_by_url=True,
        directive_is_repeatable=True,
        schema_description=True,
        input_value_deprecation=True,
        experimental_directive_deprecation=True,
        one_of=True,
    )
    assert _code(whole) is None
    result = execute_sync(core_schema(), parse(whole.replace("kind\n", "kind isOneOf\n")))
    assert result.errors is None, "asked of a list or a non-null type, isOneOf was an internal error"


@pytest.mark.parametrize(
    "query",
    [
        pytest.param("{ " + " ".join(f"a{n}: me {{ id }}" for n in range(16)) + " }", id="aliases"),
        pytest.param("{ " + "me { id } " * 240 + " }", id="the same root, again and again"),
        pytest.param("{ me { " + "id " * 900 + " } }", id="the same field, again and again"),
        pytest.param("{ me { " + "... on User { id } " * 180 + " } }", id="inline fragments"),
        pytest.param("{ me { " + "...F " * 400 + " } } fragment F on User { id }", id="spreads"),
        pytest.param("{ me { id " + "@include(if: true) " * 130 + " } }", id="directives on one field"),
        pytest.param(
            "query A @skip(if: true) { me { "
            + " ".join(f"{name} @include(if: true)" for name in ["id", "username"] * 15)
            + " @skip(if: false) } }",
            id="directives",
        ),
        pytest.param(
            "{ "
            + " ".join(f"...F{n}" for n in range(4))
            + " } "
            + " ".join(
                f"fragment F{n} on Query {{ " + " ".join(f"a{n}{k}: me {{ id }}" for k in range(5)) + " }"
                for n in range(4)
            ),
            id="aliases in fragments",
        ),
    ],
)
def test_what_costs_validation_is_refused_before_it(query: str) -> None:
    begun = time.process_time()
    assert _code(query) == "QUERY_TOO_COMPLEX"
    assert time.process_time() - begun < 0.5, "a second of validation was the danger"


@pytest.mark.parametrize(
    ("query", "variables"),
    [
        pytest.param('{ node(id: "' + "x" * 1_000_000 + '") { id } }', None, id="a long string"),
        pytest.param("#" + "x" * 1_000_000 + "\n{ me { id } }", None, id="a long comment"),
        pytest.param("," * 1_000_000 + "{ me { id } }", None, id="commas"),
        pytest.param("query ($ids: [ID!]!) { nodes(ids: $ids) { id } }", {"ids": ["a"] * 100_000}, id="many ids"),
        pytest.param("query ($ids: [ID!]!) { nodes(ids: $ids) { id } }", {"ids": [["a"] * 9_999] * 10}, id="in lists"),
        pytest.param("query ($i: ID!) { node(id: $i) { id } }", {f"k{n}": 1 for n in range(60_000)}, id="many fields"),
    ],
)
def test_what_is_long_is_refused_before_it_is_read(query: str, variables: Json | None) -> None:
    """A document of one string of a megabyte took a second to read, 60,000 fields that there are not took two."""
    begun = time.process_time()
    assert _code(query, variables) == "QUERY_TOO_COMPLEX"
    assert time.process_time() - begun < 0.1


def test_a_conversation_of_ten_thousand_messages_may_be_stored() -> None:
    message = {"role": "USER", "content": "x" * 50, "externalId": "1", "createdAt": "2026-01-01T00:00:00Z"}
    query = "mutation ($i: CreateConversationInput!) { createConversation(input: $i) { conversation { id } } }"
    assert _code(query, {"i": {"messages": [message] * 10_000}}) is None


def test_depth_counts_through_fragments() -> None:
    fragments = " ".join(f"fragment F{n} on Run {{ message {{ run {{ ...F{n + 1} }} }} }}" for n in range(20))
    assert _code(f"{{ run(id: 1) {{ ...F0 }} }} {fragments} fragment F20 on Run {{ id }}") == "QUERY_TOO_COMPLEX"


def test_what_doubles_is_counted_not_run() -> None:
    """24 levels of two spreads are 16 million fields, and the obvious walk takes as long to count as to answer them."""
    fragments = " ".join(f"fragment F{n} on Run {{ ...F{n + 1} ... on Run {{ ...F{n + 1} }} }}" for n in range(40))
    begun = time.perf_counter()
    code = _code(f"{{ run(id: 1) {{ ...F0 }} }} {fragments} fragment F40 on Run {{ id }}")
    assert code == "QUERY_TOO_COMPLEX"
    assert time.perf_counter() - begun < 5, "2⁴⁰ steps take days"


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


@pytest.mark.parametrize("given", ["first: 101", "last: 219", "first: 0", "last: -5", "first: 20, last: 20"])
def test_what_is_below_a_size_that_there_is_not_never_runs(given: str) -> None:
    """It was weighed as if it had a hundred: the client was told of a query too complex, and not of its size."""
    assert _code(PAGE.replace("(first: %s)", "(%s)", 1) % (given, 100, MESSAGE)) is None
    assert _code(PAGE.replace("(first: %s)", "(%s)", 1) % ("first: 100, last: null", 100, MESSAGE)) is not None
    below = PAGE.replace("messages(first: %s)", "messages(%s)") % (100, given, f"{MESSAGE} siblings {{ {MESSAGE} }}")
    assert _code(below) is None
