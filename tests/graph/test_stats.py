from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from tests.graph.documents import CANCEL, CHAT, FOLLOW, SLOW, chat, create, follow, send
from tests.graph.http_client import Graph, Json

STATS = "{ stats { totalConversations totalMessages totalTokens averageMessagesPerConversation } }"
FIGURES = """query ($days: Int) { stats {
    daily(days: $days) { date messages tokens costUsd }
    byModel { model provider runs tokens costUsd medianTimeToFirstTokenMs } } }"""
PRICED = "scripted@2.5/10:text=a,usage=1000/500"
DELETE = "mutation ($id: ID!) { deleteConversation(input: {id: $id}) { id } }"


async def _stats(graph: Graph) -> tuple[int, int, int, float]:
    stats: Json = (await graph.data(STATS))["stats"]
    return (
        stats["totalConversations"],
        stats["totalMessages"],
        stats["totalTokens"],
        stats["averageMessagesPerConversation"],
    )


async def _same_as_rest(graph: Graph) -> bool:
    rest = (await graph.http.get("/api/stats", headers=graph.headers)).json()
    return tuple(rest.values()) == await _stats(graph)


async def test_nobody_has_no_figures(anonymous: Graph) -> None:
    assert await anonymous.code(STATS) == "UNAUTHENTICATED"


async def test_a_newcomer_has_zeros(newcomer: Graph) -> None:
    assert await _stats(newcomer) == (0, 0, 0, 0.0)


async def test_figures_follow_what_is_done(newcomer: Graph, stranger: Graph) -> None:
    """Conversations and messages are what there is; tokens are what was ever used, and never go down."""
    first = await create(newcomer, messages=[{"role": "USER", "content": "x"}] * 3)
    second = (await create(newcomer))["id"]
    assert await _stats(newcomer) == (2, 3, 0, 1.5)

    run = (await send(newcomer, second, "one two"))["run"]
    await follow(newcomer, run["id"])
    assert await _stats(newcomer) == (2, 5, 4, 2.5)

    answer = (await newcomer.data(CHAT, input=chat("one two three")))["chat"]
    assert answer["tokens"] == 6
    assert await _stats(newcomer) == (2, 5, 10, 2.5)

    await newcomer.data(DELETE, id=first["id"])
    assert await _stats(newcomer) == (1, 2, 10, 2.0)
    await newcomer.data(DELETE, id=second)
    assert await _stats(newcomer) == (0, 0, 10, 0.0)
    assert await _same_as_rest(newcomer)

    before = await _stats(stranger)
    await newcomer.data(CHAT, input=chat("one"))
    assert await _stats(stranger) == before


async def test_the_average_has_one_decimal(newcomer: Graph) -> None:
    await create(newcomer, messages=[{"role": "USER", "content": "x"}] * 2)
    for _ in range(2):
        await create(newcomer)
    assert await _stats(newcomer) == (3, 2, 0, 0.7)
    assert await _same_as_rest(newcomer)


async def test_a_cancelled_answer_is_paid_for(newcomer: Graph) -> None:
    """Abandoned streams that cost nothing in the books cost the operator."""
    run = (await send(newcomer, (await create(newcomer))["id"], "hello", model=SLOW))["run"]
    events = newcomer.events(FOLLOW, id=run["id"])
    while (await anext(events))["runEvents"]["__typename"] != "RunTextDelta":
        pass
    cancelled = (await newcomer.data(CANCEL, id=run["id"]))["cancelRun"]["run"]
    await events.aclose()
    assert cancelled["usage"]["totalTokens"] > 0
    assert (await _stats(newcomer))[2] == cancelled["usage"]["totalTokens"]


async def test_a_failed_answer_is_paid_for(newcomer: Graph) -> None:
    model = "scripted:text=half,fail=PROVIDER_TIMEOUT"
    run = (await send(newcomer, (await create(newcomer))["id"], "hello", model=model))["run"]
    finished = (await follow(newcomer, run["id"]))[-1]
    assert (await _stats(newcomer))[2] == finished["usage"]["totalTokens"] > 0


async def test_a_providers_figures_are_taken_as_they_are(newcomer: Graph) -> None:
    answer = (await newcomer.data(CHAT, input=chat(model="scripted:text=a,usage=1000/234")))["chat"]
    assert answer["tokens"] == 1234
    assert (await _stats(newcomer))[2] == 1234


async def test_a_run_that_nobody_was_asked_for_costs_nothing(newcomer: Graph) -> None:
    assert await newcomer.code(CHAT, input=chat("")) == "BAD_USER_INPUT"
    assert (await _stats(newcomer))[2] == 0


@pytest.mark.parametrize("replacement", [[], [{"role": "USER", "content": "y"}] * 4])
async def test_replacing_counts_the_new_messages(newcomer: Graph, replacement: list[Json]) -> None:
    made = await create(newcomer, messages=[{"role": "USER", "content": "x"}] * 2)
    query = (
        "mutation ($input: ReplaceConversationInput!) { replaceConversation(input: $input) { conversation { id } } }"
    )
    await newcomer.data(query, input={"id": made["id"], "title": "t", "model": "m", "messages": replacement})
    assert (await _stats(newcomer))[:2] == (1, len(replacement))
    assert await _same_as_rest(newcomer)


async def test_days_and_models_of_nobody(anonymous: Graph) -> None:
    answer = await anonymous.answer(FIGURES, days=1)
    assert {error["extensions"]["code"] for error in answer["errors"]} == {"UNAUTHENTICATED"}


async def test_days_and_models_are_counted_as_runs_end(newcomer: Graph, stranger: Graph) -> None:
    before = (await stranger.data(FIGURES, days=1))["stats"]
    place = (await create(newcomer))["id"]
    await follow(newcomer, (await send(newcomer, place, "hello", model=PRICED))["run"]["id"])
    await newcomer.data(CHAT, input=chat(model=PRICED))
    await newcomer.data(CHAT, input=chat(model="scripted:text=a,usage=7/5"))
    figures = (await newcomer.data(FIGURES, days=3))["stats"]
    *earlier, today = figures["daily"]
    now = datetime.now(UTC)
    assert today["date"] in {(now - timedelta(hours=hours)).date().isoformat() for hours in (0, 1)}
    assert (today["messages"], today["tokens"], today["costUsd"]) == (3, 3_012, 0.015)
    assert [(day["messages"], day["tokens"], day["costUsd"]) for day in earlier] == [(0, 0, 0.0)] * 2
    medians = [model.pop("medianTimeToFirstTokenMs") for model in figures["byModel"]]
    assert all(median > 0 for median in medians)
    assert figures["byModel"] == [
        {"model": PRICED, "provider": "scripted", "runs": 2, "tokens": 3_000, "costUsd": 0.015},
        {"model": "scripted:text=a,usage=7/5", "provider": "scripted", "runs": 1, "tokens": 12, "costUsd": None},
    ]
    assert (await newcomer.data(STATS))["stats"]["totalTokens"] == 3_012
    assert (await stranger.data(FIGURES, days=1))["stats"] == before


async def test_thirty_days_are_told_unless_one_says_how_many(newcomer: Graph) -> None:
    assert len((await newcomer.data("{ stats { daily { date } } }"))["stats"]["daily"]) == 30
    assert len((await newcomer.data(FIGURES, days=None))["stats"]["daily"]) == 30
    days = [day["date"] for day in (await newcomer.data(FIGURES, days=366))["stats"]["daily"]]
    assert (len(days), days) == (366, sorted(set(days)))


@pytest.mark.parametrize("days", [0, -5, 367, 2**31 - 1, 2**40, 1.5, "7", True])
async def test_how_many_days_is_bounded(newcomer: Graph, days: object) -> None:
    assert await newcomer.code(FIGURES, days=days) == "BAD_USER_INPUT"


async def test_many_years_at_once_are_too_much(newcomer: Graph) -> None:
    fields = " ".join(f"d{number}: daily(days: 366) {{ date messages tokens costUsd }}" for number in range(40))
    assert await newcomer.code(f"{{ stats {{ {fields} }} }}") == "QUERY_TOO_COMPLEX"


async def test_more_tokens_than_an_int_holds_are_as_many_as_it_holds(newcomer: Graph) -> None:
    """GraphQL's Int has 32 bits; an error in its place would take the whole answer with it."""
    for _ in range(150):
        await newcomer.data(CHAT, input=chat(model="scripted:text=a,usage=10000000/10000000"))
    figures = (await newcomer.data(FIGURES, days=1))["stats"]
    assert figures["daily"][0]["tokens"] == figures["byModel"][0]["tokens"] == 2**31 - 1
    assert (await newcomer.data(STATS))["stats"]["totalTokens"] == 2**31 - 1
    rest = (await newcomer.http.get("/api/stats", headers=newcomer.headers)).json()
    assert rest["total_tokens"] == 150 * 20_000_000
