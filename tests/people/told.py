"""What a reader of happenings has been told, so that two streams can be compared."""

from __future__ import annotations

from collections.abc import Sequence

from chat.events import RunEvent, text_of
from chat.happenings import Happening
from models.change import Change


def names(happenings: Sequence[Happening]) -> list[tuple[object, ...]]:
    """What was told, so that two streams can be compared."""
    found: list[tuple[object, ...]] = []
    for what in (happening.what for happening in happenings):
        if isinstance(what, Change):
            found.append((what.id, what.kind, what.ref))
        elif isinstance(what, RunEvent):
            found.append((what.run_id, what.seq, type(what).__name__))
        else:
            found.append((type(what).__name__,))
    return found


def texts(happenings: Sequence[Happening]) -> dict[str, str]:
    """What a reader has on the screen of each answer."""
    events: dict[str, list[RunEvent]] = {}
    for what in (happening.what for happening in happenings):
        if isinstance(what, RunEvent):
            events.setdefault(what.run_id, []).append(what)
    return {run_id: text_of(found) for run_id, found in events.items()}
