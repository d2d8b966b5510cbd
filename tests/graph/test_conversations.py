from __future__ import annotations

import uuid
from datetime import UTC, datetime

import pytest

from tests.graph.documents import CREATE, DELETE, NEVER, ONE, REPLACE, UPDATE, create
from tests.graph.http_client import Graph, Json

SURROUNDINGS = {"id", "externalId", "version", "createdAt", "updatedAt", "viewerRole", "messages", "messageCount"}


def _messages(conversation: Json) -> list[Json]:
    return [edge["node"] for edge in conversation["messages"]["edges"]]


def _texts(conversation: Json) -> list[tuple[str, str]]:
    return [(message["role"], message["content"]) for message in _messages(conversation)]


async def test_nobody_has_no_conversations(anonymous: Graph, viewer: Graph) -> None:
    mine = await create(viewer)
    assert await anonymous.data(ONE, id=mine["id"]) == {"conversation": None}
    assert await anonymous.code("{ conversations { edges { cursor } } }") == "UNAUTHENTICATED"
    assert await anonymous.code(CREATE, input={}) == "UNAUTHENTICATED"
    assert await anonymous.code(UPDATE, input={"id": mine["id"], "title": "x"}) == "UNAUTHENTICATED"
    replacement = {"id": mine["id"], "title": "x", "model": "y", "messages": []}
    assert await anonymous.code(REPLACE, input=replacement) == "UNAUTHENTICATED"
    assert await anonymous.code(DELETE, input={"id": mine["id"]}) == "UNAUTHENTICATED"


async def test_someone_elses_conversation_is_like_one_that_never_was(viewer: Graph, stranger: Graph) -> None:
    """Another answer would tell that it exists."""
    mine = await create(viewer, title="private", externalId=uuid.uuid4().hex)
    changes: list[tuple[str, Json]] = [
        (UPDATE, {"title": "x"}),
        (UPDATE, {"title": "x", "expectedVersion": 99}),
        (REPLACE, {"title": "x", "model": "y", "messages": []}),
        (DELETE, {}),
    ]
    for key in (mine["id"], mine["externalId"]):
        assert await stranger.data(ONE, id=key) == await stranger.data(ONE, id=NEVER) == {"conversation": None}
        for document, values in changes:
            theirs = await stranger.answer(document, input={**values, "id": key})
            never = await stranger.answer(document, input={**values, "id": NEVER})
            assert theirs == never
            assert theirs["errors"][0]["extensions"]["code"] == "NOT_FOUND"
    assert (await viewer.data(ONE, id=mine["id"]))["conversation"] == mine


async def test_an_empty_input_makes_a_conversation_with_defaults(viewer: Graph) -> None:
    made = await create(viewer)
    assert made["id"].startswith("conv_")
    assert {key: value for key, value in made.items() if key not in SURROUNDINGS} == {
        "title": "新对话",
        "model": "scripted",
        "systemPrompt": None,
        "archived": False,
        "pinned": False,
    }
    assert (made["externalId"], made["version"], made["messageCount"], made["viewerRole"]) == (None, 1, 0, "OWNER")
    assert made["createdAt"] == made["updatedAt"]
    assert (await viewer.data(ONE, id=made["id"]))["conversation"] == made


async def test_messages_come_along_and_keep_ids_order_and_times(viewer: Graph) -> None:
    messages: list[Json] = [
        {"role": "SYSTEM", "content": "be brief"},
        {"role": "USER", "content": "你好 \U0001f600", "externalId": "m1", "createdAt": "2020-01-02T03:04:05.678Z"},
        {"role": "ASSISTANT", "content": ""},
    ]
    made = await create(viewer, messages=messages)
    assert _texts(made) == [(message["role"], message["content"]) for message in messages]
    assert made["messageCount"] == 3
    second = _messages(made)[1]
    assert second["externalId"] == "m1"
    assert datetime.fromisoformat(second["createdAt"]) == datetime(2020, 1, 2, 3, 4, 5, 678_000, tzinfo=UTC)


async def test_two_users_may_choose_the_same_id(viewer: Graph, stranger: Graph) -> None:
    key = uuid.uuid4().hex
    mine = await create(viewer, externalId=key, title="mine")
    theirs = await create(stranger, externalId=key, title="theirs")
    assert mine["id"] != theirs["id"]
    assert (await viewer.data(ONE, id=key))["conversation"] == mine
    assert (await stranger.data(ONE, id=key))["conversation"] == theirs
    await viewer.data(DELETE, input={"id": key})
    assert (await stranger.data(ONE, id=key))["conversation"] == theirs


async def test_our_id_wins_over_one_that_a_client_chose(viewer: Graph, stranger: Graph) -> None:
    """A client may choose what is someone else's id of ours; it reaches its own conversation by it, and only that."""
    first = await create(stranger, title="first")
    copy = await create(viewer, externalId=first["id"], title="copy")
    assert (await viewer.data(ONE, id=first["id"]))["conversation"] == copy
    assert (await stranger.data(ONE, id=first["id"]))["conversation"] == first


async def test_creating_again_under_the_same_id_is_a_retry_or_a_conflict(viewer: Graph) -> None:
    draft: Json = {"externalId": uuid.uuid4().hex, "title": "t", "messages": [{"role": "USER", "content": "hi"}]}
    assert await create(viewer, **draft) == await create(viewer, **draft)
    error = await viewer.error(CREATE, input={**draft, "title": "another"})
    assert error == {"code": "CONFLICT", "field": "externalId"}


@pytest.mark.parametrize(
    ("value", "field"),
    [
        ({"title": "x" * 201}, "title"),
        ({"title": "a\u0000b"}, "title"),
        ({"model": ""}, "model"),
        ({"model": "x" * 201}, "model"),
        ({"model": "a\u0000b"}, "model"),
        ({"systemPrompt": "x" * 32_001}, "systemPrompt"),
        ({"systemPrompt": "a\u0000b"}, "systemPrompt"),
        ({"externalId": "x" * 201}, "externalId"),
        ({"externalId": "a\u0000b"}, "externalId"),
        ({"messages": [{"role": "USER", "content": "x" * 100_001}]}, "messages.content"),
        ({"messages": [{"role": "USER", "content": "a\u0000b"}]}, "messages.content"),
        ({"messages": [{"role": "USER", "content": "", "externalId": "x" * 201}]}, "messages.externalId"),
        ({"messages": [{"role": "USER", "content": "", "externalId": "m"}] * 2}, "messages.externalId"),
        ({"messages": [{"role": "USER", "content": "", "createdAt": "1969-12-31T23:59:59Z"}]}, "messages.createdAt"),
        (
            {"messages": [{"role": "USER", "content": "", "createdAt": "0001-01-01T00:00:00+10:00"}]},
            "messages.createdAt",
        ),
    ],
)
async def test_bad_values_are_refused_by_the_name_of_their_field(viewer: Graph, value: Json, field: str) -> None:
    assert await viewer.error(CREATE, input=value) == {"code": "BAD_USER_INPUT", "field": field}


@pytest.mark.parametrize(
    "value",
    [
        {"title": 5},
        {"model": ["scripted"]},
        {"systemPrompt": {}},
        {"externalId": 1.5},
        {"messages": [None]},
        {"messages": [{"content": "no role"}]},
        {"messages": [{"role": "ROBOT", "content": ""}]},
        {"messages": [{"role": "USER", "content": None}]},
        {"messages": [{"role": "USER", "content": "", "createdAt": "yesterday"}]},
        {"messages": [{"role": "USER", "content": "", "createdAt": 1697467200000}]},
        {"messages": [{"role": "USER", "content": "", "createdAt": "2020-01-01T00:00:00+99:99"}]},
        {"unknown": 1},
        None,
        [],
    ],
)
async def test_values_of_the_wrong_type_are_refused(viewer: Graph, value: object) -> None:
    assert await viewer.code(CREATE, input=value) == "BAD_USER_INPUT"


async def test_absent_leaves_and_null_clears(viewer: Graph) -> None:
    made = await create(viewer, title="t", systemPrompt="be brief")
    titled = (await viewer.data(UPDATE, input={"id": made["id"], "title": "u"}))["updateConversation"]["conversation"]
    assert (titled["title"], titled["systemPrompt"], titled["version"]) == ("u", "be brief", 2)
    assert titled["updatedAt"] >= made["updatedAt"]
    asked: Json = {"id": made["id"], "systemPrompt": None, "archived": True, "pinned": True, "model": "other"}
    cleared = (await viewer.data(UPDATE, input=asked))["updateConversation"]["conversation"]
    assert (cleared["title"], cleared["systemPrompt"], cleared["model"]) == ("u", None, "other")
    assert (cleared["archived"], cleared["pinned"], cleared["version"]) == (True, True, 3)


@pytest.mark.parametrize("field", ["title", "model", "archived", "pinned"])
async def test_null_for_what_cannot_be_null_is_refused(viewer: Graph, field: str) -> None:
    made = await create(viewer)
    error = await viewer.error(UPDATE, input={"id": made["id"], field: None})
    assert error == {"code": "BAD_USER_INPUT", "field": field}
    assert (await viewer.data(ONE, id=made["id"]))["conversation"] == made


@pytest.mark.parametrize(
    ("value", "field"),
    [
        ({"title": "x" * 201}, "title"),
        ({"title": "\u0000"}, "title"),
        ({"model": "  "}, "model"),
        ({"model": "x" * 201}, "model"),
        ({"systemPrompt": "x" * 32_001}, "systemPrompt"),
        ({"archived": "yes"}, None),
        ({"pinned": 1}, None),
        ({"expectedVersion": "1"}, None),
        ({"expectedVersion": 2**31}, None),
    ],
)
async def test_an_update_is_checked_like_a_new_one(viewer: Graph, value: Json, field: str | None) -> None:
    made = await create(viewer)
    error = await viewer.error(UPDATE, input={"id": made["id"], **value})
    assert (error["code"], error.get("field")) == ("BAD_USER_INPUT", field)


async def test_a_change_against_an_old_version_is_a_conflict(viewer: Graph) -> None:
    """Two devices edit one conversation: the second is told, not silently overwritten."""
    made = await create(viewer)
    await viewer.data(UPDATE, input={"id": made["id"], "title": "first", "expectedVersion": 1})
    late = {"id": made["id"], "title": "second", "expectedVersion": 1}
    assert await viewer.error(UPDATE, input=late) == {"code": "CONFLICT", "field": "expectedVersion"}
    replacement = {**late, "model": "scripted", "messages": []}
    assert await viewer.error(REPLACE, input=replacement) == {"code": "CONFLICT", "field": "expectedVersion"}
    assert (await viewer.data(ONE, id=made["id"]))["conversation"]["title"] == "first"
    assert await viewer.data(REPLACE, input={**replacement, "expectedVersion": 2})


async def test_replacing_keeps_what_is_unchanged_and_drops_the_rest(viewer: Graph) -> None:
    made = await create(
        viewer, messages=[{"role": "USER", "content": name, "externalId": name} for name in ("a", "b", "c")]
    )
    wanted = [
        {"role": "USER", "content": "a", "externalId": "a"},
        {"role": "USER", "content": "changed", "externalId": "b"},
        {"role": "ASSISTANT", "content": "new"},
    ]
    asked = {"id": made["id"], "title": "r", "model": "m", "messages": wanted}
    replaced = (await viewer.data(REPLACE, input=asked))["replaceConversation"]["conversation"]
    assert _texts(replaced) == [("USER", "a"), ("USER", "changed"), ("ASSISTANT", "new")]
    assert (replaced["title"], replaced["model"], replaced["version"]) == ("r", "m", 2)
    before, after = _messages(made), _messages(replaced)
    assert after[0] == before[0]
    assert after[1]["id"] not in {message["id"] for message in before}
    assert (await viewer.data(ONE, id=made["id"]))["conversation"] == replaced
    gone = await viewer.data("query ($id: ID!) { node(id: $id) { id } }", id=before[2]["id"])
    assert gone == {"node": None}


async def test_a_deleted_conversation_is_gone_with_its_messages(viewer: Graph) -> None:
    made = await create(viewer, externalId=uuid.uuid4().hex, messages=[{"role": "USER", "content": "x"}])
    answer = await viewer.data(DELETE, input={"id": made["externalId"]})
    assert answer == {"deleteConversation": {"id": made["id"]}}
    assert await viewer.data(ONE, id=made["id"]) == {"conversation": None}
    message = _messages(made)[0]["id"]
    assert await viewer.data("query ($id: ID!) { node(id: $id) { id } }", id=message) == {"node": None}
    assert await viewer.code(DELETE, input={"id": made["id"]}) == "NOT_FOUND"


@pytest.mark.parametrize("key", ["", " ", "\u0000", "conv_", "x" * 100_000, "'; --", "conv_%"])
async def test_any_text_may_be_asked_for_as_an_id(viewer: Graph, key: str) -> None:
    assert await viewer.data(ONE, id=key) == {"conversation": None}
    assert await viewer.code(UPDATE, input={"id": key, "title": "x"}) == "NOT_FOUND"
    assert await viewer.code(DELETE, input={"id": key}) == "NOT_FOUND"
