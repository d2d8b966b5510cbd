"""Where a reader is in all that happens. Opaque to clients: they hand back what they were given."""

import base64
import binascii
from dataclasses import dataclass

from chat.sending import MAX_WRITING
from errors import BadUserInput

MAX_RUNS = 2 * MAX_WRITING
"""Answers that a reader is in the middle of: those that are written, and as many that have ended and were not read to
their end. What comes behind them waits until they were."""


@dataclass(slots=True)
class Cursor:
    """The last change that was seen and, for each answer under way, the last event of it: -1 before the first."""

    change: int
    runs: dict[str, int]

    def encode(self) -> str:
        parts = [str(self.change), *(f"{run_id}.{seq + 1}" for run_id, seq in self.runs.items())]
        return base64.urlsafe_b64encode("~".join(parts).encode()).decode().rstrip("=")

    @classmethod
    def decode(cls, text: str) -> "Cursor":
        """
        Raises:
            BadUserInput: not a cursor of ours.
        """
        try:
            raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True).decode("ascii")
            change, *runs = raw.split("~")
            if len(runs) > MAX_RUNS:
                raise ValueError(text)
            pairs = [pair.rsplit(".", 1) for pair in runs]
            return cls(_number(change), {run_id: _number(seq) - 1 for run_id, seq in pairs})
        except (binascii.Error, ValueError):
            raise BadUserInput("after is not a cursor", field="after") from None


def _number(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 15:
        raise ValueError(text)
    return int(text)
