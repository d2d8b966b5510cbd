"""Titles: whose they are, what becomes of a model's words, and what nobody must lose for them."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest
from sqlmodel import col, select

from chat.conversations import ConversationChanges
from chat.drafts import DEFAULT_TITLE, ConversationDraft, MessageDraft
from chat.titles import ENGLISH, EXCERPT, INSTRUCTION, LONGEST, Titles, own_words, tidy, title_turns
from errors import ProviderAuth
from models.address import Address
from models.change import Change, ChangeKind
from models.conversation import Conversation
from models.database import Database
from models.run import Run, RunPurpose
from providers.base import Chunk, Role, Usage, UsageChunk
from tests.chat.conftest import SECONDS, Core, OddProvider, open_core
from tests.chat.spending import chat, limited, today

QUESTION = "How do I boil eggs for a picnic with all of my seventeen cousins?"
BEGINNING = "How do I boil eggs for a picnic with all of my seventeen…"


def figures(prompt: int, completion: int) -> Chunk:
    return UsageChunk(Usage(prompt, completion))


@asynccontextmanager
async def naming(core: Core, model: str | None = "odd") -> AsyncIterator[Titles]:
    """Titles that are asked of the odd provider, while answers are the scripted one's."""
    titles = Titles(core.database, core.chats, model, 100)
    core.engine.ended = titles.ended
    yield titles
    await titles.aclose()


async def title_of(core: Core, conversation: Conversation) -> str:
    async with core.database.read() as session:
        found = await session.get(Conversation, conversation.id)
    assert found is not None
    return found.title


async def title_run(database: Database) -> Run | None:
    async with database.read() as session:
        return (await session.exec(select(Run).where(col(Run.purpose) == RunPurpose.TITLE))).first()


async def exchange(
    core: Core, titles: Titles, user: str, script: str = "text=Boil_them.", place: Conversation | None = None
) -> Conversation:
    """A question and its answer, with all that follows from them."""
    place = place or await core.conversation(user)
    run = await core.ask(user, place, f"scripted:{script}", QUESTION)
    await core.events(user, run)
    await titles.idle()
    return place


@pytest.mark.on_both
async def test_the_first_exchange_names_a_conversation(address: Address) -> None:
    model = OddProvider(figures(40, 4), "**Title: Boiling ", 'Eggs"**')
    async with open_core(address, providers=[model]) as core, naming(core) as titles:
        user = await core.user()
        place = await exchange(core, titles, user)
        assert await title_of(core, place) == "Boiling Eggs"
        (asked,) = model.asked
        assert asked.turns[0].content == INSTRUCTION
        assert QUESTION in asked.turns[-1].content
        assert "Boil them." in asked.turns[-1].content
        await exchange(core, titles, user, place=place)
        assert len(model.asked) == 1, "once"


async def test_everyone_who_has_it_open_is_told_and_nothing_else_changes(address: Address) -> None:
    async with open_core(address, providers=[OddProvider("Eggs")]) as core, naming(core) as titles:
        user = await core.user()
        place = await exchange(core, titles, user)
        run = await title_run(core.database)
        assert run is not None
        async with core.database.read() as session:
            changes = (await session.exec(select(Change).order_by(col(Change.id)))).all()
            now = await session.get(Conversation, place.id)
        last = [(change.audience, change.kind, change.ref) for change in changes[-2:]]
        assert last == [(place.id, ChangeKind.CHANGED, place.id), (user, ChangeKind.CHANGED, place.id)]
        assert run.id not in {change.ref for change in changes}, "the title's run is nobody's answer"
        assert now is not None
        assert now.version == place.version, "a rename with expectedVersion is not refused for it"


@pytest.mark.on_both
async def test_it_is_paid_for_and_is_no_message(address: Address) -> None:
    model = OddProvider("Eggs", figures(40, 4))
    async with open_core(address, providers=[model]) as core, naming(core) as titles:
        user = await core.user()
        await exchange(core, titles, user, "text=a,usage=7/3")
        day = await today(core, user)
        assert (day.messages, day.tokens, day.unpriced) == (1, 54, 1)


async def test_a_limit_of_the_day_holds_for_titles_too(address: Address) -> None:
    """Why: what nobody sees must not be what a limit does not see."""
    async with (
        limited(address, tokens=2_000, providers=[model := OddProvider("Eggs")]) as core,
        naming(core) as titles,
    ):
        user = await core.user()
        place = await core.conversation(user)
        run = await core.ask(user, place, "scripted:text=a,usage=1900/50", QUESTION, max_tokens=100)
        await core.events(user, run)
        await titles.idle()
        assert model.asked == []
        assert await title_of(core, place) == BEGINNING
        assert (await today(core, user)).reserved_tokens == 0


async def test_it_takes_no_place_of_the_user_s(address: Address) -> None:
    """Why: with one answer at a time, the second question would be refused because of the first one's title."""
    held = asyncio.Event()
    async with (
        open_core(address, providers=[OddProvider(held, "Eggs")], per_user=1) as core,
        naming(core) as titles,
    ):
        user = await core.user()
        place = await core.conversation(user)
        for _ in range(2):
            await core.events(user, await core.ask(user, place, "scripted:text=a", QUESTION))
        held.set()
        await titles.idle()
        assert await title_of(core, place) == "Eggs"


@pytest.mark.on_both
async def test_a_user_s_own_title_wins(address: Address) -> None:
    held = asyncio.Event()
    async with open_core(address, providers=[OddProvider(held, "Eggs")]) as core, naming(core) as titles:
        user = await core.user()
        place = await core.conversation(user)
        await core.events(user, await core.ask(user, place, "scripted:text=a", QUESTION))
        await core.conversations.update(user, place.id, ConversationChanges(title="Mine"), place.version)
        held.set()
        await titles.idle()
        assert await title_of(core, place) == "Mine"


async def test_what_is_deleted_meanwhile_stays_so(address: Address) -> None:
    held = asyncio.Event()
    async with open_core(address, providers=[OddProvider(held, "Eggs")]) as core, naming(core) as titles:
        user = await core.user()
        place = await core.conversation(user)
        await core.events(user, await core.ask(user, place, "scripted:text=a", QUESTION))
        await core.conversations.delete(user, place.id)
        held.set()
        await titles.idle()
        async with core.database.read() as session:
            assert await session.get(Conversation, place.id) is None


@pytest.mark.parametrize("steps", [("x" * 500,), (ProviderAuth(),), (" \n",), ("<think>Hm, eggs",), ("煮鸡蛋",)])
async def test_a_model_that_cannot_leaves_the_question_s_first_words(
    address: Address, steps: Sequence[str | Exception]
) -> None:
    async with open_core(address, providers=[OddProvider(*steps)]) as core, naming(core) as titles:
        place = await exchange(core, titles, await core.user())
        assert await title_of(core, place) == BEGINNING


async def test_whoever_answered_is_asked_and_the_fallback_behind(address: Address) -> None:
    async with (
        open_core(address, providers=[model := OddProvider("Eggs")], fallback=["odd"]) as core,
        naming(core, None) as titles,
    ):
        place = await exchange(core, titles, await core.user(), "flaky=9/PROVIDER_ERROR")
        assert await title_of(core, place) == "Eggs"
        assert len(model.asked) == 2
        gone = await exchange(core, titles, await core.user(), "text=Poultry")
        assert await title_of(core, gone) == "Poultry", "the scripted model says the same to everything"


@pytest.mark.parametrize("script", ["fail=PROVIDER_AUTH", "text=a,fail=PROVIDER_AUTH", "think=Hm", "stall"])
async def test_only_answers_name(address: Address, script: str) -> None:
    async with open_core(address, providers=[model := OddProvider("Eggs")]) as core, naming(core) as titles:
        user = await core.user()
        place = await core.conversation(user)
        run = await core.ask(user, place, f"scripted:{script}", QUESTION)
        if script == "stall":
            await core.chats.cancel(user, run.id)
        await core.events(user, run)
        await titles.idle()
        assert (await title_of(core, place), model.asked) == (DEFAULT_TITLE, [])
        await exchange(core, titles, user, place=place)
        assert await title_of(core, place) == "Eggs", "the next one does"


async def test_stateless_chats_and_titled_conversations_ask_for_none(address: Address) -> None:
    async with open_core(address, providers=[model := OddProvider("Eggs")]) as core, naming(core) as titles:
        user = await core.user()
        draft = ConversationDraft(title="Named", model="scripted", messages=[MessageDraft(Role.USER, "a")])
        place, _ = await core.conversations.create(user, draft)
        await exchange(core, titles, user, place=place)
        async for _ in core.chats.chat(user, chat("scripted")):
            pass
        await titles.idle()
        assert model.asked == []


async def test_a_stop_waits_for_no_title(address: Address) -> None:
    async with open_core(address, providers=[OddProvider(asyncio.Event(), "Eggs")]) as core:
        async with naming(core):
            user = await core.user()
            place = await core.conversation(user)
            await core.events(user, await core.ask(user, place, "scripted:text=a", QUESTION))
            await asyncio.sleep(0.05)
        async with asyncio.timeout(SECONDS):
            while (run := await title_run(core.database)) is not None and run.active:
                await asyncio.sleep(0.01)
        assert run is not None
        assert run.status == "CANCELLED"
        assert await title_of(core, place) == DEFAULT_TITLE
        assert (await today(core, user)).tokens > 0, "what was asked is counted"


def test_a_title_is_asked_for_in_the_question_s_language_and_with_little() -> None:
    turns = title_turns("x" * EXCERPT, "y" * EXCERPT)
    assert [turn.role for turn in turns] == [Role.SYSTEM, *[Role.USER, Role.ASSISTANT] * len(ENGLISH), Role.USER]
    assert sum(len(turn.content) for turn in turns) < 2_000
    assert "鸡蛋" in title_turns("你好，请介绍一下React", "React是…")[1].content


@pytest.mark.parametrize(
    ("said", "title"),
    [
        ("Boiling Eggs", "Boiling Eggs"),
        ('Title: "Boiling Eggs".', "Boiling Eggs"),
        ("# Boiling Eggs\n\nHere they are", "Boiling Eggs"),
        ("Sure! Here is a title:\n\n- **Boiling Eggs**", "Boiling Eggs"),
        ("The title of this conversation:", None),
        ("<think>They want\neggs</think>\nBoiling Eggs", "Boiling Eggs"),
        ("(Draft) C++ or C?", "(Draft) C++ or C?"),
        ("a\u202eb\x00c\u200b", "a b c"),
        ("👨\u200d👩\u200d👧 family", "👨\u200d👩\u200d👧 family"),
        ("🎈🎈", None),
        ("\ufffd eggs", None),
        ("标题", None),
        ("Give this conversation a title.", None),
        ("x" * (LONGEST + 1), None),
        ("", None),
    ],
)
def test_what_a_model_says_is_tidied(said: str, title: str | None) -> None:
    assert tidy(said, "how do I boil eggs") == title


@pytest.mark.parametrize(
    ("question", "title", "kept"),
    [
        ("Tell me a short fact about the sea. 北京", "看到看看！！你好！", None),
        ("Tell me a short fact about the sea. 北京", "The Sea and 北京", "The Sea and 北京"),
        ("如何用 React 写一个 hook？", "React 入门", "React 入门"),
    ],
)
def test_a_word_of_another_language_does_not_make_it_the_conversation_s(
    question: str, title: str, kept: str | None
) -> None:
    """The embedded model answered the first one so."""
    assert tidy(title, question) == kept
    shown = title_turns(question, "")[2].content
    assert (shown == ENGLISH[0][2]) == question.startswith("Tell")


def test_chinese_is_titled_in_chinese_and_in_half_as_many_letters() -> None:
    assert tidy("标题：煮鸡蛋", "鸡蛋要煮多久？") == "煮鸡蛋"
    assert tidy("鸡" * (LONGEST // 2), "鸡") == "鸡" * (LONGEST // 2)
    assert tidy("鸡" * (LONGEST // 2 + 1), "鸡") is None
    assert own_words("鸡" * 99) == "鸡" * 29 + "…"


@pytest.mark.parametrize(
    ("question", "title"),
    [("hi", "hi"), (" a\n b ", "a b"), (QUESTION, BEGINNING), ("x" * 99, "x" * 59 + "…"), ("?!", None)],
)
def test_a_question_names_itself(question: str, title: str | None) -> None:
    assert own_words(question) == title


def test_a_title_keeps_to_the_operator_s_limit() -> None:
    assert tidy("Boiling Eggs", "", 5) is None
    assert own_words("Boiling Eggs", 9) == "Boiling…"
