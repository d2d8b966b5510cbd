"""A compiled selection and graphql-core's executor are one: the same answer to every event, whatever is selected."""

from __future__ import annotations

from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, cast

import pytest
from graphql import (
    ExecutionResult,
    GraphQLError,
    NoUnusedFragmentsRule,
    NoUnusedVariablesRule,
    execute_subscription_event,
    parse,
    specified_rules,
    validate,
)
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from strawberry import ID

from errors import ErrorCode
from graph import events, happenings
from graph.compiled import Selection, Unusual
from graph.execution import StreamExecutor
from graph.schema import core_schema
from graph.types import Message, RunError, Usage
from models import message as rows
from models.message import MessageStatus
from models.run import RunStatus
from providers.base import FinishReason, Role

Json = dict[str, Any]
SCHEMA = core_schema()

FIELDS = {
    "RunEvent": ("runId", "seq"),
    "RunQueued": ("position", "seq"),
    "RunAttemptFailed": ("model", "provider", "error { code message retryable retryAfter }", "error { code }"),
    "RunStarted": ("requestedModel", "model", "provider", "messageId"),
    "RunTextDelta": ("text", "runId", "seq"),
    "RunReasoningDelta": ("text",),
    "RunSnapshot": ("text", "reasoning"),
    "RunFinished": (
        "status",
        "finishReason",
        "usage { promptTokens totalTokens costUsd estimated cachedTokens }",
        "usage { completionTokens }",
        "error { __typename message }",
    ),
}
"""What may be asked of each type."""
RULES = [rule for rule in specified_rules if rule not in {NoUnusedFragmentsRule, NoUnusedVariablesRule}]
DIRECTIVES = ("", " @include(if: $yes)", " @skip(if: $yes)", " @include(if: $no)", " @skip(if: false)")


def selections(kind: str, depth: int = 3) -> SearchStrategy[str]:
    """The inside of a pair of braces on this type: fields under other names, fragments in fragments, twice the same."""
    field = st.builds(
        lambda alias, name, directive: f"{_alias(alias, name)}{_with(name, directive)}",
        st.sampled_from(("", "", "a", "b")),
        st.sampled_from((*FIELDS[kind], "__typename")),
        st.sampled_from(DIRECTIVES),
    )
    parts: SearchStrategy[str] = field
    if depth:
        narrower = list(FIELDS) if kind == "RunEvent" else [kind, "RunEvent"]
        spread = st.builds(lambda name, directive: f"...{name}{directive}", _names(kind), st.sampled_from(DIRECTIVES))
        inline = st.sampled_from(narrower).flatmap(
            lambda name: st.builds(
                lambda inside, directive: f"... on {name}{directive} {{ {inside} }}",
                selections(name, depth - 1),
                st.sampled_from(DIRECTIVES),
            )
        )
        parts = st.one_of(field, inline, spread)
    return st.lists(parts, min_size=1, max_size=4).map(" ".join)


def _alias(alias: str, name: str) -> str:
    return f"{alias}_{name.partition(' ')[0]}: " if alias else ""


def _with(name: str, directive: str) -> str:
    head, brace, rest = name.partition(" {")
    return f"{head}{directive}{brace}{rest}"


def _names(kind: str) -> SearchStrategy[str]:
    return st.sampled_from(("Common", f"Of{kind}"))


def documents(root: str = "{ runEvents(runId: $id) { %s } }") -> SearchStrategy[str]:
    fragments = st.fixed_dictionaries({kind: selections(kind, 1) for kind in FIELDS})

    def write(inside: str, others: dict[str, str]) -> str:
        common = "fragment Common on RunEvent { common: seq ...on RunTextDelta { text } }"
        # None may lead to itself.
        flat = {kind: "seq" if "...Of" in text else text for kind, text in others.items()}
        of = [f"fragment Of{kind} on {kind} {{ {text} }}" for kind, text in flat.items()]
        head = "subscription ($id: ID!, $yes: Boolean!, $no: Boolean = false) "
        return " ".join((head + root % inside, common, *of))

    return st.builds(write, selections("RunEvent"), fragments)


text = st.text(max_size=20)
seq = st.one_of(st.integers(0, 1_000), st.sampled_from((2**31 - 1, 2**31, -1, True, 1.0, "7", None)))
odd_text = st.one_of(text, text, st.sampled_from((None, 7, True, RunStatus.RUNNING, b"x")))
amounts = st.one_of(st.none(), st.integers(0, 10**6), st.integers(2**31, 2**33))
errors = st.builds(
    RunError,
    code=st.sampled_from([*ErrorCode, "NO_SUCH_CODE"]),
    message=odd_text,
    retryable=st.sampled_from((True, False, None, 1)),
    retry_after=st.one_of(st.none(), st.floats(), st.integers()),
)
usages = st.builds(
    Usage,
    prompt_tokens=st.integers(0, 10**6),
    completion_tokens=amounts,
    total_tokens=st.integers(0, 10**6),
    cached_tokens=amounts,
    reasoning_tokens=amounts,
    cost_usd=st.one_of(st.none(), st.floats(), st.integers(0, 5)),
    estimated=st.booleans(),
)
head: dict[str, SearchStrategy[Any]] = {"run_id": odd_text, "seq": seq}
run_events: SearchStrategy[Any] = st.one_of(
    st.builds(events.RunTextDelta, **head, text=odd_text),
    st.builds(events.RunTextDelta, run_id=text, seq=st.integers(0, 9), text=text),
    st.builds(events.RunReasoningDelta, **head, text=text),
    st.builds(events.RunQueued, **head, position=amounts),
    st.builds(events.RunStarted, **head, requested_model=text, model=odd_text, provider=text, message_id=odd_text),
    st.builds(events.RunSnapshot, **head, text=text, reasoning=odd_text),
    st.builds(events.RunAttemptFailed, **head, model=text, provider=text, error=st.one_of(errors, st.none())),
    st.builds(
        events.RunFinished,
        **head,
        status=st.sampled_from([*RunStatus, "DONE", None]),
        finish_reason=st.sampled_from([*FinishReason, None]),
        usage=st.one_of(st.none(), usages),
        error=st.one_of(st.none(), errors),
        message_id=st.none(),
    ),
    st.sampled_from((None, "a string", 7, ValueError("an error"))),
)


def executor_of(document: str, **variables: object) -> StreamExecutor:
    made = executor_if_valid(document, **variables)
    assert made is not None
    return made


def executor_if_valid(document: str, **variables: object) -> StreamExecutor | None:
    parsed = parse(document)
    if validate(SCHEMA, parsed, RULES):
        return None
    built = StreamExecutor.build(SCHEMA, parsed, raw_variable_values=variables)
    assert not isinstance(built, list), built
    return cast(StreamExecutor, built)


def stock(executor: StreamExecutor, event: object) -> ExecutionResult:
    result = execute_subscription_event(executor.build_per_event_executor(event))
    assert isinstance(result, ExecutionResult)
    return result


@settings(max_examples=150, suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow], deadline=None)
@given(document=documents(), yes=st.booleans(), some=st.lists(run_events, min_size=1, max_size=6))
def test_it_answers_what_the_executor_answers_or_leaves_it_the_event(document: str, yes: bool, some: list[Any]) -> None:
    """Whole events: what is in them, its order, and that nothing which fails there passes here."""
    executor = executor_if_valid(document, id="run_1", yes=yes)
    assume(executor)
    assert executor is not None
    selection = Selection(executor)
    for event in some:
        expected = stock(executor, event)
        try:
            data = selection(event)
        except Unusual:
            continue
        assert expected.errors is None
        assert repr(data) == repr(expected.data)


@settings(max_examples=50, suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow], deadline=None)
@given(
    document=documents(
        "{ conversationEvents(conversationId: $id) { cursor ...on ConversationRunEvent { event { %s } } } }"
    ),
    yes=st.booleans(),
    event=run_events,
)
def test_an_event_within_an_event_is_no_different(document: str, yes: bool, event: Any) -> None:
    executor = executor_if_valid(document, id="conv_1", yes=yes)
    assume(executor)
    assert executor is not None
    outer = happenings.ConversationRunEvent(conversation_id=ID("conv_1"), cursor="c1", event=event)
    expected = stock(executor, outer)
    try:
        data = Selection(executor)(outer)
    except Unusual:
        return
    assert expected.errors is None
    assert repr(data) == repr(expected.data)


EVERYTHING = """subscription ($id: ID!) { runEvents(runId: $id) { __typename runId seq
    ... on RunQueued { position } ... on RunAttemptFailed { model provider failure: error { code message retryAfter } }
    ... on RunStarted { requestedModel model provider messageId } ... on RunTextDelta { text }
    ... on RunReasoningDelta { text } ... on RunSnapshot { text reasoning }
    ... on RunFinished { status finishReason usage { totalTokens costUsd estimated } error { code } %s } } }"""
DELTA = events.RunTextDelta(run_id=ID("run_1"), seq=3, text="hello")
FINISHED = events.RunFinished(
    run_id=ID("run_1"), seq=4, status=RunStatus.COMPLETED, finish_reason=None, usage=None, error=None, message_id=None
)


def test_what_clients_really_ask_for_never_meets_the_executor() -> None:
    """Otherwise all this would be for nothing, and nobody would notice but the processor."""
    selection = Selection(executor_of(EVERYTHING % "", id="run_1"))
    failure = RunError(code=ErrorCode.PROVIDER_ERROR, message="m", retryable=True, retry_after=1.5)
    for event in (
        DELTA,
        FINISHED,
        events.RunQueued(run_id=ID("run_1"), seq=0, position=1),
        events.RunAttemptFailed(run_id=ID("run_1"), seq=0, model="m", provider="p", error=failure),
        events.RunStarted(run_id=ID("r"), seq=1, requested_model="a", model="m", provider="p", message_id=None),
        events.RunReasoningDelta(run_id=ID("run_1"), seq=2, text="hm"),
        events.RunSnapshot(run_id=ID("run_1"), seq=2, text="t", reasoning=None),
    ):
        assert selection(event)["runEvents"]["__typename"] == type(event).__name__


def test_an_event_that_needs_a_resolver_is_left_to_the_executor_and_its_neighbours_are_not() -> None:
    """`message` asks the database, at the end of the run alone."""
    selection = Selection(executor_of(EVERYTHING % "message { content }", id="run_1"))
    assert selection(DELTA)["runEvents"]["text"] == "hello"
    with pytest.raises(Unusual):
        selection(FINISHED)


def test_objects_with_times_and_enums_in_them() -> None:
    document = """subscription ($id: ID!) { conversationEvents(conversationId: $id) { __typename conversationId
        ... on MessageAdded { message { id role content status createdAt model %s } } } }"""
    row = cast(rows.Message, SimpleNamespace())
    message = Message(
        id=ID("msg_1"),
        external_id=None,
        role=Role.USER,
        content="hi",
        reasoning=None,
        status=MessageStatus.COMPLETE,
        created_at=datetime(2026, 1, 2, 3, 4, 5, 678000, tzinfo=UTC),
        model=None,
        row=row,
    )
    added = happenings.MessageAdded(conversation_id=ID("conv_1"), cursor="c", message=message)
    executor = executor_of(document % "", id="conv_1")
    assert Selection(executor)(added) == stock(executor, added).data
    with pytest.raises(Unusual):
        Selection(executor_of(document % "run { id }", id="conv_1"))(added)


def test_what_is_no_event_of_the_schema_is_refused() -> None:
    """Not answered by what happens to have the right attributes."""
    selection = Selection(executor_of("subscription ($id: ID!) { runEvents(runId: $id) { seq } }", id="run_1"))
    for event in (None, SimpleNamespace(seq=1), RunStatus.RUNNING, GraphQLError("x"), object.__new__(events.RunQueued)):
        with pytest.raises(Unusual):
            selection(event)
