"""What a model server does, told without any vendor's words: a fake plays it in the format of its vendor."""

from dataclasses import dataclass
from enum import Enum, auto

from providers.base import FinishReason


class Failure(Enum):
    """What a vendor's server refuses with, each in that vendor's own status and words."""

    AUTH = auto()
    RATE_LIMIT = auto()
    OVERLOADED = auto()
    BROKEN = auto()
    CONTEXT_TOO_LONG = auto()
    CONTENT_FILTER = auto()
    BAD_REQUEST = auto()
    UNKNOWN_MODEL = auto()


@dataclass(frozen=True, slots=True)
class Say:
    text: str


@dataclass(frozen=True, slots=True)
class Think:
    text: str


@dataclass(frozen=True, slots=True)
class Finish:
    reason: FinishReason = FinishReason.STOP


@dataclass(frozen=True, slots=True)
class Figures:
    """The usage that the server tells; of any type, since some servers tell nonsense. None: it does not say."""

    prompt: object
    completion: object
    cached: object = None
    reasoning: object = None


@dataclass(frozen=True, slots=True)
class Refuse:
    """An error instead of an answer; after the first `Say`, an error event inside it."""

    failure: Failure
    retry_after: str | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """Any HTTP answer, instead of the vendor's."""

    status: int
    body: bytes
    content_type: str = "text/html; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Raw:
    """Bytes of the body, whatever they are."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Wait:
    seconds: float


@dataclass(frozen=True, slots=True)
class Cut:
    """The connection breaks, in the middle of the body."""


@dataclass(frozen=True, slots=True)
class Hang:
    """Nothing more comes and the connection stays. As the only step not even the head of an answer comes."""


@dataclass(frozen=True, slots=True)
class Noise:
    """These bytes come for ever."""

    data: bytes


Step = Say | Think | Finish | Figures | Refuse | Page | Raw | Wait | Cut | Hang | Noise
Sent = bytes | Wait | Cut | Hang | Noise
"""What is left of the steps on the wire: parts of the body, and what happens to it."""
