"""The shapes of requests and answers. Unknown fields, `userId` among them, are ignored."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, FailFast, Field

from models.columns import MAX_MILLIS

Millis = Annotated[int, Field(ge=0, le=MAX_MILLIS)]
RoleName = Literal["user", "assistant", "system"]


class Body(BaseModel):
    """Strict: a boolean is no number, a number no text."""

    model_config = ConfigDict(strict=True, extra="ignore", hide_input_in_errors=True)


class RegisterBody(Body):
    username: str
    email: str
    password: str


class LoginBody(Body):
    """`otp`: a one-time code or a recovery code, for accounts that have a second factor."""

    username: str
    password: str
    otp: str | None = None


class CodeBody(Body):
    """`code`: of the address that the browser was sent home to. `verifier`: what the page's challenge was made of."""

    code: str
    verifier: str | None = None
    otp: str | None = None


class MessageBody(Body):
    """`timestamp` in milliseconds since the epoch; now, if it is absent."""

    id: str | None = None
    content: str
    role: RoleName
    timestamp: Millis | None = None


# Fail fast: of a body with a million wrong messages the first one says enough.
Messages = Annotated[list[MessageBody], FailFast()]


class ConversationBody(Body):
    """Times in milliseconds since the epoch. No `id`: the server makes one."""

    id: str | None = None
    title: str | None = None
    messages: Messages = Field(default_factory=list)
    created_at: Millis | None = Field(None, alias="createdAt")
    updated_at: Millis | None = Field(None, alias="updatedAt")
    model: str | None = None
    system_prompt: str | None = Field(None, alias="systemPrompt")


class ChatBody(Body):
    messages: Messages
    model: str | None = None
    temperature: float | None = Field(None, ge=0, le=2)
    max_tokens: int | None = Field(None, ge=1, le=4096)
    stream: bool = False


class TokenAnswer(BaseModel):
    access_token: str
    token_type: Literal["bearer"] = "bearer"  # noqa: S105


class UserAnswer(BaseModel):
    """`created_at` in UTC as `%Y-%m-%dT%H:%M:%S`."""

    id: str
    username: str
    email: str
    created_at: str


class MessageAnswer(BaseModel):
    id: str
    content: str
    role: RoleName
    timestamp: Millis


class ConversationAnswer(BaseModel):
    """`id` is the client's own if it gave one; `messages` are the active branch."""

    id: str
    title: str
    messages: list[MessageAnswer]
    created_at: Millis = Field(alias="createdAt")
    updated_at: Millis = Field(alias="updatedAt")
    model: str
    system_prompt: str | None = Field(alias="systemPrompt")
    user_id: str = Field(alias="userId")


class Deleted(BaseModel):
    message: str


class ChatAnswer(BaseModel):
    """`tokens` of prompt and answer together; `model`: who really answered."""

    content: str
    tokens: int
    model: str


class StatsAnswer(BaseModel):
    total_conversations: int
    total_messages: int
    total_tokens: int
    average_messages_per_conversation: float


class Health(BaseModel):
    """`degraded`: reads go on, but the database takes no writes (a full disk, a lock)."""

    status: Literal["healthy", "degraded"]
    timestamp: str
    active_connections: int
    total_users: int
    total_conversations: int


class Detail(BaseModel):
    """Every error but 422, whose detail is a list of `{type, loc, msg}`."""

    detail: str
