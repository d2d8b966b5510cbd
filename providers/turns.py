"""Conversations as Anthropic and Google take them: the instructions apart; then user and assistant in turn, from the
user to the user, none of them blank."""

from collections.abc import Iterable

from providers.base import Role, Turn

OPENING = "Hello."
"""What the user is made to say where the assistant spoke first."""
GO_ON = "Please continue."
"""And where it spoke last: newer models refuse to go on with a turn of theirs."""


def dialogue(turns: Iterable[Turn]) -> tuple[str, list[Turn]]:
    """All system turns as one text, empty if there are none, and the others."""
    spoken = [turn for turn in turns if turn.content.strip()]
    system = "\n\n".join(turn.content for turn in spoken if turn.role is Role.SYSTEM)
    said: list[Turn] = []
    for turn in (turn for turn in spoken if turn.role is not Role.SYSTEM):
        if said and said[-1].role is turn.role:
            said[-1] = Turn(turn.role, f"{said[-1].content}\n\n{turn.content}")
        else:
            said.append(turn)
    if said and said[0].role is Role.ASSISTANT:
        said.insert(0, Turn(Role.USER, OPENING))
    if not said or said[-1].role is Role.ASSISTANT:
        said.append(Turn(Role.USER, GO_ON))
    return system, said


def room_to_think(max_tokens: int) -> int:
    """Tokens beside the answer's own `max_tokens`, for models that take their thoughts out of the same allowance:
    of the default of 2,048 nothing would be left to answer a hard question."""
    return min(max(4 * max_tokens, 2_048), 8_192)
