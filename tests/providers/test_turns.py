"""What is left of a conversation that a vendor with strict rules can take."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from providers.base import Role, Turn
from providers.turns import GO_ON, OPENING, dialogue, room_to_think

S, U, A = Role.SYSTEM, Role.USER, Role.ASSISTANT


def turns(*pairs: tuple[Role, str]) -> list[Turn]:
    return [Turn(role, content) for role, content in pairs]


@pytest.mark.parametrize(
    ("given_turns", "system", "said"),
    [
        (turns((S, "s"), (U, "a"), (A, "b"), (U, "c")), "s", turns((U, "a"), (A, "b"), (U, "c"))),
        (turns((U, "a"), (U, "b"), (A, "c"), (A, "d"), (U, "e")), "", turns((U, "a\n\nb"), (A, "c\n\nd"), (U, "e"))),
        (turns((S, "s"), (U, "a"), (S, "t")), "s\n\nt", turns((U, "a"))),
        (turns((U, "a"), (S, "s"), (U, "b")), "s", turns((U, "a\n\nb"))),
        (turns((U, "a"), (A, " \n"), (U, "b")), "", turns((U, "a\n\nb"))),
        (turns((S, " "), (U, "")), "", turns((U, GO_ON))),
        (turns((A, "hi"), (U, "a")), "", turns((U, OPENING), (A, "hi"), (U, "a"))),
        (turns((U, "a"), (A, "b")), "", turns((U, "a"), (A, "b"), (U, GO_ON))),
        ([], "", turns((U, GO_ON))),
    ],
)
def test_what_is_said(given_turns: list[Turn], system: str, said: list[Turn]) -> None:
    assert dialogue(given_turns) == (system, said)


@given(st.lists(st.builds(Turn, st.sampled_from(Role), st.text(" \na", max_size=3)), max_size=12))
def test_whatever_is_given_the_rules_hold(given_turns: list[Turn]) -> None:
    _, said = dialogue(given_turns)
    assert [turn.role for turn in said] == [U, A] * (len(said) // 2) + [U]
    assert all(turn.content.strip() for turn in said)
    text = "".join(turn.content for turn in said)
    assert all(turn.content in text for turn in given_turns if turn.role is not S and turn.content.strip())


@pytest.mark.parametrize(("asked", "room"), [(1, 2_048), (512, 2_048), (1_000, 4_000), (2_048, 8_192), (4_096, 8_192)])
def test_room_to_think(asked: int, room: int) -> None:
    assert room_to_think(asked) == room
