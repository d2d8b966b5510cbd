import asyncio
from contextlib import aclosing
from datetime import timedelta

import pytest

from chat.chats import StatelessChat
from chat.events import RunFinished, RunTextDelta, text_of
from chat.sending import Asking
from errors import (
    BadUserInput,
    ChatError,
    Conflict,
    ContextTooLong,
    ModelUnavailable,
    NotFound,
    ProviderAuth,
    ProviderTimeout,
    RunActive,
)
from models.address import Address
from models.message import MessageStatus
from models.run import RunStatus
from models.user import user_by_id
from providers.base import Role, Turn
from tests.chat.conftest import INPUTS, SECONDS, Core, OddProvider, open_core
from tests.databases import everything

pytestmark = pytest.mark.on_both


def asking(text: str = "hello", model: str | None = None, key: str | None = None) -> StatelessChat:
    return StatelessChat([Turn(Role.USER, text)], model=model, idempotency_key=key)


class TestSendMessage:
    async def test_stores_the_question_and_the_place_of_the_answer_at_once(self, core: Core, user: str) -> None:
        conversation = await core.conversation(user)
        question, run = await core.sendings.send(user, conversation.id, "hi", Asking("scripted:wait=30"))
        found, (first, answer) = await core.conversations.get(user, conversation.id)
        assert first == question
        assert (first.role, first.content, first.author_id, first.status) == ("USER", "hi", user, "COMPLETE")
        assert (answer.role, answer.content, answer.status, answer.parent_id, answer.run_id) == (
            "ASSISTANT",
            "",
            MessageStatus.STREAMING,
            question.id,
            run.id,
        )
        assert (run.message_id, found.head_id, found.message_count) == (answer.id, answer.id, 2)
        assert found.updated_at >= conversation.updated_at
        await core.chats.cancel(user, run.id)

    async def test_the_answer_and_its_model_are_stored(self, core: Core, user: str) -> None:
        run = await core.send(user, "think=why,text=because,usage=3/4")
        await core.events(user, run)
        _, messages = await core.conversations.get(user, run.conversation_id or "")
        answer = messages[1]
        assert (answer.content, answer.reasoning, answer.status) == ("because", "why", MessageStatus.COMPLETE)
        assert answer.model == "scripted:think=why,text=because,usage=3/4"

    async def test_one_answer_at_a_time(self, core: Core, user: str) -> None:
        conversation = await core.conversation(user)
        run = await core.send(user, "wait=30", conversation)
        with pytest.raises(RunActive):
            await core.send(user, "text=a", conversation)
        await core.chats.cancel(user, run.id)
        assert text_of(await core.events(user, await core.send(user, "text=a", conversation))) == "a"

    async def test_many_at_once_start_one(self, address: Address) -> None:
        """In two processes: the look and the insert are one transaction."""
        async with open_core(address) as mine, open_core(address) as theirs:
            user = await mine.user()
            conversation = await mine.conversation(user)
            sent = await asyncio.gather(
                *(core.send(user, "wait=30", conversation) for core in (mine, theirs) for _ in range(4)),
                return_exceptions=True,
            )
            runs = [run for run in sent if not isinstance(run, BaseException)]
            assert len(runs) == 1
            assert all(isinstance(error, RunActive) for error in sent if error is not runs[0])
            await mine.chats.cancel(user, runs[0].id)

    async def test_the_model_is_told_the_system_prompt_and_the_branch(self, address: Address) -> None:
        odd = OddProvider("answer")
        async with open_core(address, providers=[odd]) as core:
            user = await core.user()
            conversation = await core.conversation(user, "odd")
            conversation.system_prompt = "be brief"
            async with core.database.write() as session:
                await session.merge(conversation)
            for text in ("one", "two"):
                _, run = await core.sendings.send(user, conversation.id, text, Asking(None, 0.1, 9))
                await core.events(user, run)
            told = [(turn.role, turn.content) for turn in odd.asked[1].turns]
            assert told == [
                (Role.SYSTEM, "be brief"),
                (Role.USER, "one"),
                (Role.ASSISTANT, "answer"),
                (Role.USER, "two"),
            ]
            assert (odd.asked[1].temperature, odd.asked[1].max_tokens) == (0.1, 9)

    async def test_answers_that_never_came_to_a_word_are_left_out(self, address: Address) -> None:
        odd = OddProvider("answer")
        async with open_core(address, providers=[odd]) as core:
            user = await core.user()
            conversation = await core.conversation(user, "odd")
            await core.events(user, await core.send(user, "fail=PROVIDER_ERROR", conversation))
            _, run = await core.sendings.send(user, conversation.id, "again", Asking())
            await core.events(user, run)
            assert [turn.content for turn in odd.asked[0].turns] == ["hello", "again"]

    @pytest.mark.parametrize(
        ("change", "error"),
        [
            ({"content": " "}, BadUserInput),
            ({"content": "x" * (INPUTS.message + 1)}, BadUserInput),
            ({"content": "\ud800"}, BadUserInput),
            ({"temperature": 3.0}, BadUserInput),
            ({"max_tokens": 0}, BadUserInput),
            ({"idempotency_key": "k" * 201}, BadUserInput),
            ({"model": ""}, BadUserInput),
            ({"model": "nowhere"}, ModelUnavailable),
            ({"conversation_id": "conv_1"}, NotFound),
        ],
    )
    async def test_what_is_refused_stores_nothing(
        self, core: Core, user: str, change: dict[str, object], error: type[ChatError]
    ) -> None:
        conversation = await core.conversation(user)
        where = str(change.get("conversation_id", conversation.id))
        content = str(change.get("content", "hi"))
        wishes = {name: value for name, value in change.items() if name not in {"conversation_id", "content"}}
        with pytest.raises(error):
            await core.sendings.send(user, where, content, Asking(**wishes))  # type: ignore[arg-type]
        assert (await core.conversations.get(user, conversation.id))[1] == []
        assert core.engine.active == 0
        await core.events(user, await core.send(user, "text=a", conversation))


class TestIdempotency:
    async def test_the_same_key_gives_the_first_result(self, core: Core, user: str) -> None:
        conversation = await core.conversation(user)
        asking = Asking("scripted:text=a", idempotency_key="k")
        question, run = await core.sendings.send(user, conversation.id, "hi", asking)
        for _ in range(2):
            again, same = await core.sendings.send(user, conversation.id, "hi", asking)
            assert (again.id, same.id) == (question.id, run.id)
            await core.events(user, run)
        assert (await core.conversations.get(user, conversation.id))[0].message_count == 2

    async def test_a_key_of_another_conversation_is_refused(self, core: Core, user: str) -> None:
        """Handing out the first result would lose what is asked now without a word."""
        one, two = await core.conversation(user), await core.conversation(user)
        asking = Asking("scripted:text=a", idempotency_key="k")
        question, run = await core.sendings.send(user, one.id, "hi", asking)
        await core.events(user, run)
        with pytest.raises(Conflict):
            await core.sendings.send(user, two.id, "hi", asking)
        assert (await core.sendings.send(user, one.id, "hi", asking))[0].id == question.id
        assert (await core.conversations.get(user, two.id))[1] == []

    async def test_at_once_too(self, core: Core, user: str) -> None:
        conversation = await core.conversation(user)
        asking = Asking("scripted:text=a", idempotency_key="k")
        results = await asyncio.gather(*(core.sendings.send(user, conversation.id, "hi", asking) for _ in range(6)))
        assert len({run.id for _, run in results}) == 1
        assert (await core.conversations.get(user, conversation.id))[0].message_count == 2

    async def test_keys_of_two_users_are_two(self, core: Core, user: str) -> None:
        other = await core.user()
        runs = [await core.send(each, "text=a", idempotency_key="k") for each in (user, other)]
        assert runs[0].id != runs[1].id

    async def test_a_key_is_for_one_kind_of_thing(self, core: Core, user: str) -> None:
        await core.send(user, "text=a", idempotency_key="k")
        with pytest.raises(Conflict):
            await core.chats.answer(user, asking(model="scripted", key="k"))
        await core.chats.answer(user, asking(model="scripted", key="k2"))
        with pytest.raises(Conflict):
            await core.send(user, "text=a", idempotency_key="k2")

    async def test_a_stateless_key_holds_for_its_time(self, address: Address) -> None:
        async with open_core(address, chat_key=60) as core:
            user = await core.user()
            first = await core.chats.answer(user, asking("one", key="k"))
            assert (await core.chats.answer(user, asking("two", key="k"))) == first
            row = await core.row(first.run_id)
            row.created_at -= timedelta(seconds=61)
            async with core.database.write() as session:
                await session.merge(row)
            assert (await core.chats.answer(user, asking("two", key="k"))).content == "two "

    async def test_a_guest_has_no_keys(self, core: Core) -> None:
        answers = [await core.chats.answer(None, asking(text, key="k")) for text in ("one", "two")]
        assert [answer.content for answer in answers] == ["one ", "two "]


class TestStateless:
    async def test_keeps_the_run_its_usage_and_no_text(self, core: Core, user: str, address: Address) -> None:
        answer = await core.chats.answer(user, asking("a secret", "scripted:text=answer,usage=3/4"))
        assert (answer.content, answer.tokens, answer.model) == ("answer", 7, "scripted:text=answer,usage=3/4")
        run = await core.chats.run(user, answer.run_id)
        assert run is not None
        assert (run.status, run.prompt_tokens, run.message_id) == (RunStatus.COMPLETED, 3, None)
        events = await core.events(user, run)
        assert [type(event) for event in events] == [RunFinished]
        async with core.database.read() as session:
            stored = await user_by_id(session, user)
        assert stored is not None
        assert (stored.total_tokens, stored.message_count) == (7, 0)
        assert b"a secret" not in everything(address)

    async def test_without_a_model_the_default_answers(self, core: Core) -> None:
        assert (await core.chats.answer(None, asking("one two"))).content == "one two "

    @pytest.mark.parametrize(
        ("code", "error"),
        [("PROVIDER_AUTH", ProviderAuth), ("PROVIDER_TIMEOUT", ProviderTimeout), ("CONTEXT_TOO_LONG", ContextTooLong)],
    )
    async def test_a_failure_is_raised_to_who_waits(self, core: Core, code: str, error: type[ChatError]) -> None:
        with pytest.raises(error):
            await core.chats.answer(None, asking(model=f"scripted:text=a,fail={code}"))

    async def test_a_cancel_by_another_is_a_conflict_to_who_waits(self, core: Core, user: str) -> None:
        waiting = asyncio.create_task(core.chats.answer(user, asking(model="scripted:text=a,wait=30", key="k")))
        async with aclosing(core.chats.chat(user, asking(model="scripted:text=a,wait=30", key="k"))) as events:
            async with asyncio.timeout(SECONDS):
                run_id = ""
                while not run_id:
                    async for event in events:
                        run_id = event.run_id
                        if isinstance(event, RunTextDelta):
                            break
            await core.chats.cancel(user, run_id)
        with pytest.raises(Conflict):
            await waiting

    @pytest.mark.parametrize(
        "chat",
        [
            StatelessChat([]),
            StatelessChat([Turn(Role.USER, " ")]),
            StatelessChat([Turn(Role.USER, "x")] * (INPUTS.chat_messages + 1)),
            StatelessChat([Turn(Role.USER, "x" * (INPUTS.message + 1)), Turn(Role.USER, "x")]),
            StatelessChat([Turn(Role.USER, "\x00")]),
            StatelessChat([Turn(Role.USER, "x")], temperature=-1),
            StatelessChat([Turn(Role.USER, "x")], max_tokens=5_000),
            StatelessChat([Turn(Role.USER, "x")], model="x" * 201),
        ],
    )
    async def test_bad_input_starts_nothing(self, core: Core, user: str, chat: StatelessChat) -> None:
        with pytest.raises(BadUserInput):
            await core.chats.answer(user, chat)
        assert core.engine.active == 0
