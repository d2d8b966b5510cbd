"""Messages found by their words, on both databases."""

import asyncio
from collections.abc import Sequence

import pytest

from chat.drafts import ConversationDraft, MessageDraft
from chat.search import MAX_QUERY_CHARS, Searches
from chat.sending import Asking
from errors import BadUserInput
from models.conversation import Conversation
from models.member import Member, MemberRole, remove_members
from models.message import finish_message
from models.search import search_messages
from models.words import Term
from providers.base import Role
from tests.chat.conftest import Core

pytestmark = pytest.mark.on_both


async def store(core: Core, user: str, *texts: str) -> Conversation:
    """A conversation of these messages."""
    drafts = [MessageDraft(Role.USER, text) for text in texts]
    made, _ = await core.conversations.create(user, ConversationDraft(messages=drafts, model="scripted"))
    return made


async def find(core: Core, user: str, query: str, limit: int = 50) -> list[str]:
    return [hit.message.content for hit in await Searches(core.database).messages(user, query, limit=limit)]


TEXTS = (
    "The quick brown fox jumps over the lazy dog",
    "我们今天讨论了如何在数据库里搜索中文",
    "日本語の検索もできます",
    "한국어 검색도 됩니다",
    "Straße und Ärger, café",
    "use snake_case in foo.bar(), C++ and don't",
    "GPT模型很好",
)


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("quick", [0]),
        ("QUICK fox", [0]),
        ("fox quick", [0]),
        ('"quick brown"', [0]),
        ('"brown quick"', []),
        ("quick absent", []),
        ("qui", [0]),
        ("qui fox", []),
        ("qui* fox", [0]),
        ('"qui"', []),
        ("数据", [1]),
        ("搜索", [1]),
        ("数据库", [1]),
        ("数库", []),
        ("数", [1]),
        ("文", [1]),
        ("好", [6]),
        ("今天 中文", [1]),
        ("「讨论」", [1]),
        ("検索", [2]),
        ("できます", [2]),
        ("검색", [3]),
        ("한국어", [3]),
        ("strasse", [4]),
        ("CAFÉ", [4]),
        ("cafe\u0301", [4]),
        ("snake_case", [5]),
        ("foo.bar", [5]),
        ("don't", [5]),
        ("gpt模型", [6]),
        ("ＧＰＴ", [6]),
        ("型很", [6]),
        ("OR", []),
        ("quick OR 数据", []),
        ("owner_id : x", []),
        ("quick) OR (lazy", []),
        ("^quick", [0]),
        ("-quick", [0]),
        ("quick & lazy | ! <->", [0]),
        ("NEAR(quick fox)", []),
        ("!!! … —", []),
        ('"', []),
        ('quick"', [0]),
        ('"quick brown', [0]),
        ("'; DROP TABLE message; --", []),
        ("🙂", []),
    ],
)
async def test_what_is_found(core: Core, user: str, query: str, found: list[int]) -> None:
    await store(core, user, *TEXTS)
    assert sorted(await find(core, user, query)) == sorted(TEXTS[number] for number in found)


async def test_the_operators_are_words_where_they_stand(core: Core, user: str) -> None:
    await store(core, user, "this AND that OR NOT near")
    for word in ("and", "or", "not", "near", "OR", '"that or"'):
        assert len(await find(core, user, word)) == 1


@pytest.mark.parametrize(
    "query",
    [
        "",
        "  ",
        "x" * 10_000,
        "a\x00b",
        "a\ud800",
        " ".join(f"w{n}" for n in range(17)),
        "字" * (MAX_QUERY_CHARS + 1),
        "字" * 400,
    ],
)
async def test_what_is_no_query_is_said(core: Core, user: str, query: str) -> None:
    with pytest.raises(BadUserInput) as caught:
        await find(core, user, query)
    assert caught.value.field == "query"


async def test_the_better_one_stands_first_and_of_equals_the_newest(core: Core, user: str) -> None:
    filler = " ".join(f"word{number}" for number in range(150))
    await store(core, user, "needle", f"needle {filler}", "needle needle needle needle", "needle", "nothing")
    found = await find(core, user, "needle")
    assert found[0] == "needle needle needle needle"
    assert found[-1].endswith("word149")
    hits = await Searches(core.database).messages(user, "needle", limit=10)
    equal = [hit.place for hit in hits if hit.message.content == "needle"]
    assert equal[0][0] == equal[1][0]
    assert equal[0][1] > equal[1][1]


async def test_pages_are_the_list(core: Core, user: str) -> None:
    await store(core, user, *["needle " * (1 + number % 5) for number in range(23)])
    searches = Searches(core.database)
    whole = [hit.message.id for hit in await searches.messages(user, "needle", limit=50)]
    paged: list[str] = []
    after = None
    while hits := await searches.messages(user, "needle", limit=4, after=after):
        paged += [hit.message.id for hit in hits]
        after = hits[-1].place
    assert paged == whole
    assert len(set(whole)) == 23


async def test_others_find_nothing_members_do_until_they_are_put_out(core: Core, user: str) -> None:
    shared, _ = await store(core, user, "needle shared"), await store(core, user, "needle private")
    other = await core.user()
    await store(core, other, "needle theirs")
    assert await find(core, other, "needle") == ["needle theirs"]
    async with core.database.write() as session:
        session.add(Member(conversation_id=shared.id, user_id=other, role=MemberRole.VIEWER))
    assert sorted(await find(core, other, "needle")) == ["needle shared", "needle theirs"]
    async with core.database.write() as session:
        await remove_members(session, shared.id, other)
    assert await find(core, other, "needle") == ["needle theirs"]
    assert len(await find(core, user, "needle")) == 2


async def test_as_many_shared_conversations_as_may_be(core: Core, user: str) -> None:
    """FTS5 refuses an expression that is too deep."""
    other = await core.user()
    made = [Conversation(owner_id=user, title="t", model="m") for _ in range(1_100)]
    async with core.database.write() as session:
        session.add_all(made)
        await session.flush()
        session.add_all(Member(conversation_id=row.id, user_id=other, role=MemberRole.VIEWER) for row in made)
    shared = await store(core, user, "needle")
    async with core.database.write() as session:
        session.add(Member(conversation_id=shared.id, user_id=other, role=MemberRole.VIEWER))
    assert await find(core, other, "needle") == ["needle"]


async def test_an_answer_is_found_when_it_is_whole(core: Core, user: str) -> None:
    conversation = await core.conversation(user)
    run = await core.ask(user, conversation, "scripted", "please say elephant and giraffe")
    assert await find(core, user, '"say elephant"') == ["please say elephant and giraffe"]
    await core.events(user, run)
    found = await find(core, user, "giraffe")
    assert len(found) == 2, found


async def test_what_is_edited_is_found_on_the_active_branch_alone(core: Core, user: str) -> None:
    """What a client opens behind a hit has to show it."""
    conversation = await core.conversation(user)
    message, run = await core.sendings.send(user, conversation.id, "first zebra", Asking(model="scripted"))
    await core.events(user, run)
    _, again = await core.sendings.edit(user, message.id, "second zebra", Asking(model="scripted"))
    await core.events(user, again)
    assert "first zebra" not in await find(core, user, "zebra")
    assert await find(core, user, '"second zebra"')


async def test_what_is_replaced_or_deleted_is_gone(core: Core, user: str) -> None:
    kept = await store(core, user, "needle one", "needle two")
    gone = await store(core, user, "needle three")
    draft = ConversationDraft(messages=[MessageDraft(Role.USER, "needle four")])
    await core.conversations.replace(user, kept.id, draft)
    await core.conversations.delete(user, gone.id)
    assert await find(core, user, "needle") == ["needle four"]
    assert await find(core, user, "three") == []
    async with core.database.read() as session:
        assert [found.message_id for found in await search_messages(session, user, [Term(("two",))])] == []


async def test_of_very_many_the_newest_are_ranked(core: Core, user: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("models.search.CANDIDATES", 5)
    await store(core, user, "needle " * 9, *[f"needle {number}" for number in range(20)])
    found = await find(core, user, "needle")
    assert sorted(found) == sorted(f"needle {number}" for number in range(15, 20))


async def test_a_huge_text_is_stored_and_found_by_its_beginning(core: Core, user: str) -> None:
    texts = ["needle " + "数据库里搜索中文" * 50_000, "needle " + "".join(map(chr, range(0x4E00, 0x9000)))]
    for text in texts:
        run = await core.send(user, "words=1")
        await core.events(user, run)
        assert run.message_id is not None
        async with core.database.write() as session:
            await finish_message(session, run.message_id, status="COMPLETE", content=text, reasoning=None, model="m")
    assert len(await find(core, user, "needle")) == 2


async def test_many_search_while_others_write(core: Core, user: str) -> None:
    async def write() -> None:
        for number in range(10):
            await store(core, user, f"needle {number}")

    async def read() -> Sequence[str]:
        return [found for _ in range(10) for found in await find(core, user, "needle")]

    await asyncio.gather(write(), read(), write(), read())
    assert len(await find(core, user, "needle")) == 20
