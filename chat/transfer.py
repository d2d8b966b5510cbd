"""The shape in which a user's conversations leave and come: one JSON object a line (docs/operations.md has it).

{"format": "ai-chat-studio/conversations", "version": 1, …}     first
{"conversation": {…}}                                           then each conversation,
{"message": {…}}                                                and behind it its messages, parents first
{"end": {"conversations": 2, "messages": 8}}                    last: without it something is missing
"""

from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from chat.inputs import MAX_ID_CHARS, MAX_MODEL_CHARS, is_text
from errors import ErrorCode, StartError
from models.columns import MAX_MILLIS
from models.message import MessageStatus
from models.run import RunStatus
from providers.base import FinishReason, Role

FORMAT, VERSION = "ai-chat-studio/conversations", 1
MOST = 2**31 - 1


class TransferError(StartError):
    """One line for the operator, with the place in the file."""


def _text(value: str) -> str:
    if not is_text(value):
        raise ValueError("has characters that are not text")
    return value


Text = Annotated[str, AfterValidator(_text)]
Name = Annotated[Text, Field(min_length=1, max_length=MAX_MODEL_CHARS)]
Id = Annotated[Text, Field(min_length=1, max_length=MAX_ID_CHARS)]
Moment = Annotated[int, Field(ge=0, le=MAX_MILLIS)]
Count = Annotated[int, Field(ge=0, le=MOST)]


class Record(BaseModel):
    """Fields in camelCase; others are for later versions, and ignored. Times in milliseconds."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="ignore", strict=True)


class ConversationRecord(Record):
    """`messages`: how many follow."""

    id: Id
    external_id: Id | None = None
    title: Text
    model: Name
    system_prompt: Text | None = None
    created_at: Moment
    updated_at: Moment
    archived: bool = False
    pinned: bool = False
    head_id: Id | None = None
    messages: Count | None = None


def _one_of(kind: type[StrEnum]) -> AfterValidator:
    def check(value: str) -> str:
        if value not in set(kind):
            raise ValueError(f"is none of {', '.join(kind)}")
        return value

    return AfterValidator(check)


class RunRecord(Record):
    """What a run used, and how it ended. `cost_nanos`: billionths of a US dollar, None when nobody knows."""

    id: Id
    status: Annotated[str, _one_of(RunStatus)]
    requested_model: Name
    model: Name
    provider: Name
    created_at: Moment
    started_at: Moment | None = None
    finished_at: Moment | None = None
    time_to_first_token_ms: Annotated[float, Field(ge=0, le=MAX_MILLIS)] | None = None
    finish_reason: Annotated[str, _one_of(FinishReason)] | None = None
    error_code: Annotated[str, _one_of(ErrorCode)] | None = None
    error_message: Annotated[Text, Field(max_length=10_000)] | None = None
    error_retryable: bool | None = None
    prompt_tokens: Count | None = None
    completion_tokens: Count | None = None
    cached_tokens: Count | None = None
    reasoning_tokens: Count | None = None
    usage_estimated: bool = False
    cost_nanos: Annotated[int, Field(ge=0, le=2**63 - 1)] | None = None
    last_seq: Annotated[int, Field(ge=-1, le=MOST)] = -1
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    max_tokens: Count | None = None


class MessageRecord(Record):
    """`by_owner`: the user wrote it, or asked for it; otherwise another member, who is not named."""

    id: Id
    external_id: Id | None = None
    parent_id: Id | None = None
    role: Annotated[str, _one_of(Role)]
    content: Text
    reasoning: Text | None = None
    status: Annotated[str, _one_of(MessageStatus)] = MessageStatus.COMPLETE
    created_at: Moment
    model: Name | None = None
    by_owner: bool = True
    run: RunRecord | None = None


class Header(Record):
    format: Literal["ai-chat-studio/conversations"]
    version: int


class End(Record):
    conversations: Count
    messages: Count


KINDS: dict[str, type[ConversationRecord | MessageRecord | End]] = {
    "conversation": ConversationRecord,
    "message": MessageRecord,
    "end": End,
}
Item = ConversationRecord | MessageRecord | End


def parse_header(value: Any) -> None:
    """
    Raises:
        ValueError: says what is wrong.
    """
    try:
        header = Header.model_validate(value)
    except ValidationError:
        raise ValueError("is not an export of this server") from None
    if header.version != VERSION:
        raise ValueError(f"is an export of version {header.version}; this server reads version {VERSION}")


def parse_item(value: Any) -> Item:
    """
    Raises:
        ValueError: names the field.
    """
    if not isinstance(value, dict) or len(value) != 1 or (kind := next(iter(value))) not in KINDS:
        raise ValueError(f"is none of {', '.join(KINDS)}")
    try:
        return KINDS[kind].model_validate(value[kind])
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join([kind, *map(str, first["loc"])])
        raise ValueError(f"{place}: {first['msg'].removeprefix('Value error, ')}") from None
