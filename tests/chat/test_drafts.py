import asyncio
from datetime import timedelta

import pytest

from chat.drafts import ConversationDraft, MessageDraft, check_draft, lay_branch, same_as_stored
from errors import BadUserInput
from models.branch import BranchRow
from models.columns import EPOCH
from models.conversation import Conversation
from providers.base import Role
from tests.chat.conftest import INPUTS, said

THEN = EPOCH + timedelta(days=20_000, milliseconds=123)


def blank() -> Conversation:
    return Conversation(owner_id="user_1", title="t", model="m")


def laid(conversation: Conversation, *drafts: MessageDraft, known: list[BranchRow] | None = None) -> list[BranchRow]:
    rows = {row.id: row for row in known or []} | {row.external_id: row for row in known or [] if row.external_id}
    return asyncio.run(lay_branch(conversation, drafts, rows, "user_1"))


@pytest.mark.parametrize(
    ("draft", "field"),
    [
        (ConversationDraft(title="x" * 101), "title"),
        (ConversationDraft(title="\ud800"), "title"),
        (ConversationDraft(model=" "), "model"),
        (ConversationDraft(model="x" * 201), "model"),
        (ConversationDraft(system_prompt="x" * 501), "systemPrompt"),
        (ConversationDraft(external_id="x" * 201), "id"),
        (ConversationDraft(external_id="a\x00"), "id"),
        (ConversationDraft(messages=[said("x")] * 51), "messages"),
        (ConversationDraft(messages=[said("x" * 2_001)]), "messages.content"),
        (ConversationDraft(messages=[said("\x00")]), "messages.content"),
        (ConversationDraft(messages=[said("x", "k" * 201)]), "messages.id"),
        (ConversationDraft(messages=[said("a", "same"), said("b", "same")]), "messages.id"),
    ],
)
def test_what_cannot_be_stored_names_its_field(draft: ConversationDraft, field: str) -> None:
    with pytest.raises(BadUserInput) as caught:
        check_draft(draft, INPUTS)
    assert caught.value.field == field


def test_what_is_at_its_limit_is_taken() -> None:
    messages = [said("x" * 2_000, f"{n:0200}") for n in range(50)]
    check_draft(ConversationDraft("t" * 100, "m" * 200, "p" * 500, "i" * 200, None, None, messages), INPUTS)


def test_messages_without_an_id_may_be_alike() -> None:
    check_draft(ConversationDraft(messages=[said("x"), said("x"), said("x", " "), said("x", " ")]), INPUTS)


def test_a_branch_is_a_chain_from_the_root_to_the_head() -> None:
    conversation = blank()
    branch = laid(conversation, said("a"), said("b", role=Role.ASSISTANT), said("c"))
    assert [row.depth for row in branch] == [0, 1, 2]
    assert [row.parent_id for row in branch] == [None, branch[0].id, branch[1].id]
    assert all(row.active and row.conversation_id == conversation.id for row in branch)
    assert (conversation.head_id, conversation.message_count) == (branch[2].id, 3)
    assert [row.author_id for row in branch] == ["user_1", None, "user_1"]


def test_an_empty_branch_has_no_head() -> None:
    conversation = blank()
    laid(conversation, said("a"))
    assert laid(conversation) == []
    assert (conversation.head_id, conversation.message_count) == (None, 0)


@pytest.mark.parametrize("by", ["id", "external_id"])
def test_an_unchanged_message_keeps_its_row(by: str) -> None:
    conversation = blank()
    (row,) = laid(conversation, said("a", "mine"))
    key = getattr(row, by)
    first, second = laid(conversation, said("new"), said("a", key), known=[row])
    assert second is row
    assert (row.depth, row.parent_id) == (1, first.id)


@pytest.mark.parametrize("change", [said("b", "mine"), said("a", "mine", Role.ASSISTANT)])
def test_a_changed_message_is_another(change: MessageDraft) -> None:
    (row,) = laid(blank(), said("a", "mine"))
    (new,) = laid(blank(), change, known=[row])
    assert new.id != row.id
    assert new.external_id == "mine"


@pytest.mark.parametrize("texts", [("a", "a"), ("a", "b"), ("b", "a")])
def test_one_message_under_both_its_ids_stands_twice(texts: tuple[str, str]) -> None:
    """Ours and the client's: the second one would break the uniqueness of the client's ids in the database."""
    (row,) = laid(blank(), said("a", "mine"))
    for keys in ((row.id, "mine"), ("mine", row.id)):
        with pytest.raises(BadUserInput) as caught:
            laid(blank(), said(texts[0], keys[0]), said(texts[1], keys[1]), known=[row])
        assert caught.value.field == "messages.id"


def stored(draft: ConversationDraft) -> tuple[Conversation, list[BranchRow]]:
    conversation = Conversation(
        owner_id="user_1",
        external_id=draft.external_id,
        title=draft.title or "新对话",
        model=draft.model or "default",
        system_prompt=draft.system_prompt,
        created_at=draft.created_at or THEN,
        updated_at=draft.updated_at or THEN,
    )
    return conversation, laid(conversation, *draft.messages)


FULL = ConversationDraft(
    "t", "m", "p", "i", THEN, THEN, [MessageDraft(Role.USER, "a", "1", THEN), MessageDraft(Role.ASSISTANT, "b", "2")]
)


@pytest.mark.parametrize("draft", [FULL, ConversationDraft(), ConversationDraft(messages=[said("a")])])
def test_a_retry_is_the_same(draft: ConversationDraft) -> None:
    assert same_as_stored(draft, *stored(draft), "default")


def test_what_the_draft_leaves_open_is_the_same() -> None:
    """The first answer gave the client ids and times; its retry does not know them."""
    conversation, messages = stored(FULL)
    bare = ConversationDraft("t", "m", "p", "i", messages=[said("a"), said("b", role=Role.ASSISTANT)])
    assert same_as_stored(bare, conversation, messages, "default")


@pytest.mark.parametrize(
    "other",
    [
        ConversationDraft("other", "m", "p", "i", THEN, THEN, FULL.messages),
        ConversationDraft("t", "other", "p", "i", THEN, THEN, FULL.messages),
        ConversationDraft("t", "m", None, "i", THEN, THEN, FULL.messages),
        ConversationDraft("t", "m", "p", "i", THEN + timedelta(milliseconds=1), THEN, FULL.messages),
        ConversationDraft("t", "m", "p", "i", THEN, EPOCH, FULL.messages),
        ConversationDraft("t", "m", "p", "i", THEN, THEN, FULL.messages[:1]),
        ConversationDraft("t", "m", "p", "i", THEN, THEN, [*FULL.messages, said("c")]),
        ConversationDraft("t", "m", "p", "i", THEN, THEN, [said("a", "9"), FULL.messages[1]]),
        ConversationDraft("t", "m", "p", "i", THEN, THEN, [said("x", "1"), FULL.messages[1]]),
        ConversationDraft("t", "m", "p", "i", THEN, THEN, [FULL.messages[0], said("b", "2")]),
    ],
)
def test_anything_else_is_another(other: ConversationDraft) -> None:
    assert not same_as_stored(other, *stored(FULL), "default")
