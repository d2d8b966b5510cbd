from __future__ import annotations

import base64
from collections.abc import AsyncIterator

import httpx
import pytest

from tests.conftest import Account, register_on
from tests.graph.documents import create
from tests.graph.http_client import Graph, Json
from tests.server import Server

PAGE = """query ($first: Int, $after: String, $last: Int, $before: String, $filter: ConversationFilter) {
    conversations(first: $first, after: $after, last: $last, before: $before, filter: $filter) {
        edges { cursor node { id title } } pageInfo { hasNextPage hasPreviousPage startCursor endCursor } } }"""
MESSAGES = """query ($id: ID!, $first: Int, $after: String, $last: Int, $before: String) {
    conversation(id: $id) { messages(first: $first, after: $after, last: $last, before: $before) {
        edges { cursor node { content } } pageInfo { hasNextPage hasPreviousPage startCursor endCursor } } } }"""
COUNT = 45
SAME_TIME = 1_700_000_000_000


@pytest.fixture(scope="module")
def full_account(server: Server) -> Account:
    """Has 45 conversations in groups of nine that changed in the same millisecond.

    Only REST keeps a client's updatedAt. Equal times are what a page boundary must survive.
    """
    account = register_on(server)
    with httpx.Client(base_url=server.url, headers=account.headers, timeout=30) as rest:
        for number in range(COUNT):
            moment = SAME_TIME + number // 9
            body = {
                "title": f"number {number:02}",
                "messages": [],
                "createdAt": moment,
                "updatedAt": moment,
                "model": "odd" if number % 2 else "even",
            }
            rest.post("/api/conversations", json=body).raise_for_status()
    return account


@pytest.fixture
def full(client: httpx.AsyncClient, full_account: Account) -> Graph:
    return Graph(client, full_account.token)


async def _page(graph: Graph, **arguments: object) -> Json:
    page: Json = (await graph.data(PAGE, **arguments))["conversations"]
    return page


async def _forwards(graph: Graph, size: int) -> AsyncIterator[Json]:
    after: str | None = None
    while True:
        page = await _page(graph, first=size, after=after)
        yield page
        if not page["pageInfo"]["hasNextPage"]:
            return
        after = page["pageInfo"]["endCursor"]


async def _backwards(graph: Graph, size: int) -> AsyncIterator[Json]:
    before: str | None = None
    while True:
        page = await _page(graph, last=size, before=before)
        yield page
        if not page["pageInfo"]["hasPreviousPage"]:
            return
        before = page["pageInfo"]["startCursor"]


def _titles(page: Json) -> list[str]:
    return [edge["node"]["title"] for edge in page["edges"]]


async def _all(full: Graph) -> list[str]:
    return _titles(await _page(full, first=100))


async def test_the_whole_list_is_newest_first(full: Graph) -> None:
    titles = await _all(full)
    assert len(titles) == COUNT
    groups = [int(title.split()[1]) // 9 for title in titles]
    assert groups == sorted(groups, reverse=True)


@pytest.mark.parametrize("size", [1, 7, 20, 44, 45, 46])
async def test_forwards_every_one_is_seen_once(full: Graph, size: int) -> None:
    pages = [page async for page in _forwards(full, size)]
    assert [title for page in pages for title in _titles(page)] == await _all(full)
    assert len(pages) == -(-COUNT // size)
    assert [page["pageInfo"]["hasPreviousPage"] for page in pages] == [False] + [True] * (len(pages) - 1)


@pytest.mark.parametrize("size", [1, 7, 20, 44, 45, 46])
async def test_backwards_every_one_is_seen_once_and_pages_stay_in_order(full: Graph, size: int) -> None:
    pages = [page async for page in _backwards(full, size)]
    assert [title for page in reversed(pages) for title in _titles(page)] == await _all(full)
    assert [page["pageInfo"]["hasNextPage"] for page in pages] == [False] + [True] * (len(pages) - 1)


async def test_a_window_between_two_cursors(full: Graph) -> None:
    titles = await _all(full)
    cursors = [edge["cursor"] for edge in (await _page(full, first=100))["edges"]]
    window = await _page(full, after=cursors[4], before=cursors[10])
    assert _titles(window) == titles[5:10]
    assert _titles(await _page(full, last=2, after=cursors[4], before=cursors[10])) == titles[8:10]


async def test_twenty_unless_asked_otherwise(full: Graph) -> None:
    page = await _page(full)
    assert len(page["edges"]) == 20
    ends = page["edges"][0]["cursor"], page["edges"][-1]["cursor"]
    assert (page["pageInfo"]["startCursor"], page["pageInfo"]["endCursor"]) == ends


async def test_a_list_of_nothing_has_no_cursors(newcomer: Graph) -> None:
    page = await _page(newcomer)
    assert page["edges"] == []
    assert page["pageInfo"] == {
        "hasNextPage": False,
        "hasPreviousPage": False,
        "startCursor": None,
        "endCursor": None,
    }


async def test_a_cursor_survives_its_conversation(newcomer: Graph) -> None:
    """A keyset cursor is a place, not a row: deleting what it stood on loses and repeats nothing."""
    for number in range(3):
        await create(newcomer, title=str(number))
    first = await _page(newcomer, first=1)
    delete = "mutation ($id: ID!) { deleteConversation(input: {id: $id}) { id } }"
    await newcomer.data(delete, id=first["edges"][0]["node"]["id"])
    assert _titles(await _page(newcomer, after=first["pageInfo"]["endCursor"])) == ["1", "0"]


async def test_filters_narrow_the_list(newcomer: Graph) -> None:
    made = {
        name: await create(newcomer, title=name, model=model)
        for name, model in (("100% sure", "a"), ("100 sure", "b"), ("under_score", "a"))
    }
    update = "mutation ($input: UpdateConversationInput!) { updateConversation(input: $input) { conversation { id } } }"
    await newcomer.data(update, input={"id": made["100 sure"]["id"], "archived": True})
    await newcomer.data(update, input={"id": made["under_score"]["id"], "pinned": True})

    async def titles(**values: object) -> set[str]:
        return set(_titles(await _page(newcomer, filter=values)))

    everything = set(made)
    assert await titles() == everything
    assert await titles(archived=True) == {"100 sure"}
    assert await titles(archived=False) == everything - {"100 sure"}
    assert await titles(pinned=True) == {"under_score"}
    assert await titles(model="a") == {"100% sure", "under_score"}
    assert await titles(model="a", pinned=False) == {"100% sure"}
    assert await titles(titleContains="%") == {"100% sure"}
    assert await titles(titleContains="_") == {"under_score"}
    assert await titles(titleContains="SURE") == {"100% sure", "100 sure"}
    assert await titles(titleContains="") == await titles(titleContains=None, archived=None) == everything


@pytest.mark.parametrize(
    "filter_", [{"titleContains": "x" * 60_000}, {"titleContains": "a\u0000b"}, {"model": "x" * 100_000}]
)
async def test_a_filter_that_nothing_can_match_is_refused_not_run(full: Graph, filter_: Json) -> None:
    """SQLite fails on a LIKE pattern over 50,000 bytes, PostgreSQL on NUL."""
    error = await full.error(PAGE, filter=filter_)
    assert error == {"code": "BAD_USER_INPUT", "field": f"filter.{next(iter(filter_))}"}


BAD_PAGES: list[tuple[Json, str | None]] = [
    ({"first": 0}, "first"),
    ({"first": 101}, "first"),
    ({"first": -1}, "first"),
    ({"last": 0}, "last"),
    ({"last": 101}, "last"),
    ({"last": -1}, "last"),
    ({"first": 5, "last": 5}, "last"),
    ({"first": "5"}, None),
    ({"first": 1.5}, None),
    ({"first": 2**31}, None),
    ({"after": 5}, None),
    ({"after": "!"}, "after"),
    ({"after": ""}, "after"),
    ({"after": "é"}, "after"),
    ({"after": "\u0000"}, "after"),
    ({"before": "bm90IGEgY3Vyc29y"}, "before"),
    ({"after": "x" * 10_000}, "after"),
    ({"before": base64.urlsafe_b64encode(b"\xff\xfe").decode()}, "before"),
]


@pytest.mark.parametrize(("arguments", "field"), BAD_PAGES)
async def test_bad_pages_are_refused(full: Graph, arguments: Json, field: str | None) -> None:
    error = await full.error(PAGE, **arguments)
    assert (error["code"], error.get("field")) == ("BAD_USER_INPUT", field)


@pytest.mark.parametrize(("arguments", "field"), BAD_PAGES)
async def test_bad_pages_of_messages_are_refused(viewer: Graph, arguments: Json, field: str | None) -> None:
    made = await create(viewer)
    error = await viewer.error(MESSAGES, id=made["id"], **arguments)
    assert (error["code"], error.get("field")) == ("BAD_USER_INPUT", field)


async def test_a_cursor_of_another_list_is_refused(full: Graph) -> None:
    message_list = await create(full, messages=[{"role": "USER", "content": "x"}])
    of_message = message_list["messages"]["edges"][0]["cursor"]
    of_conversation = (await _page(full, first=1))["pageInfo"]["endCursor"]
    for name in ("after", "before"):
        assert await full.error(PAGE, **{name: of_message}) == {"code": "BAD_USER_INPUT", "field": name}
        error = await full.error(MESSAGES, id=message_list["id"], **{name: of_conversation})
        assert error == {"code": "BAD_USER_INPUT", "field": name}
    await full.data("mutation ($id: ID!) { deleteConversation(input: {id: $id}) { id } }", id=message_list["id"])


async def test_a_forged_time_in_a_cursor_is_refused(full: Graph) -> None:
    for moment in ("253402300800000", "-1", "٣", "1e3", "9" * 40):
        forged = base64.urlsafe_b64encode(f"{moment}:conv_x".encode()).decode().rstrip("=")
        assert await full.error(PAGE, after=forged) == {"code": "BAD_USER_INPUT", "field": "after"}


async def test_messages_page_both_ways(viewer: Graph) -> None:
    contents = [f"m{number:02}" for number in range(45)]
    made = await create(viewer, messages=[{"role": "USER", "content": content} for content in contents])

    async def page(**arguments: object) -> tuple[list[str], Json]:
        answer = await viewer.data(MESSAGES, id=made["id"], **arguments)
        found = answer["conversation"]["messages"]
        return [edge["node"]["content"] for edge in found["edges"]], found["pageInfo"]

    shown, info = await page()
    assert shown == contents[:20]
    assert (info["hasNextPage"], info["hasPreviousPage"]) == (True, False)
    shown, info = await page(first=30, after=info["endCursor"])
    assert shown == contents[20:]
    assert (info["hasNextPage"], info["hasPreviousPage"]) == (False, True)
    shown, info = await page(last=10)
    assert shown == contents[-10:]
    assert (info["hasNextPage"], info["hasPreviousPage"]) == (False, True)
    shown, info = await page(last=40, before=info["startCursor"])
    assert shown == contents[:35]
    assert (info["hasNextPage"], info["hasPreviousPage"]) == (True, False)
