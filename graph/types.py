"""The object types. Each is made from a row by `of`, and reaches its neighbours through the context's loaders."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

import strawberry
from strawberry import ID, Private

from chat.events import RunFailure
from chat.records import failure_of_run
from chat.usage import usage_of
from errors import BadUserInput, TokenInvalid
from graph.api_keys import ApiKey
from graph.context import Context, Info, counted
from graph.enums import ErrorCode, FinishReason, MemberRole, MessageStatus, Role, RunStatus, UserRole
from graph.identity_type import Identity
from graph.node_type import Node
from graph.paging import PageInfo, encode_cursor, number_in, page_info, page_size, trim_page
from graph.sessions import Session
from models import conversation as conversations
from models import message as messages
from models import run as runs
from models import user as users
from models.columns import from_millis
from providers import base
from providers.prices import NANOS

First = Annotated[int | None, strawberry.argument(description="1 to 100; default 20")]


def dollars(nanos: int | None) -> float | None:
    return None if nanos is None else nanos / NANOS


@strawberry.type
class Usage:
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    cached_tokens: int | None
    reasoning_tokens: int | None
    cost_usd: float | None = strawberry.field(description="Null where nobody knows the model's price.")
    estimated: bool

    @classmethod
    def of(cls, usage: base.Usage | None) -> Usage | None:
        if usage is None:
            return None
        return cls(
            prompt_tokens=usage.prompt_tokens,
            completion_tokens=usage.completion_tokens,
            total_tokens=usage.total_tokens,
            cached_tokens=usage.cached_tokens,
            reasoning_tokens=usage.reasoning_tokens,
            cost_usd=dollars(usage.cost_nanos),
            estimated=usage.estimated,
        )


@strawberry.type
class RunError:
    code: ErrorCode
    message: str
    retryable: bool
    retry_after: float | None = strawberry.field(description="Seconds that the provider asked for, if it said so.")

    @classmethod
    def of(cls, failure: RunFailure | None) -> RunError | None:
        return None if failure is None else cls.known(failure)

    @classmethod
    def known(cls, failure: RunFailure) -> RunError:
        return cls(
            code=failure.code,
            message=failure.message,
            retryable=failure.retryable,
            retry_after=failure.retry_after,
        )


@strawberry.type
class RunAttempt:
    model: str
    provider: str
    started_at: datetime
    error: RunError | None

    @classmethod
    def of(cls, attempt: dict[str, Any]) -> RunAttempt:
        error = attempt.get("error")
        return cls(
            model=attempt["model"],
            provider=attempt["provider"],
            started_at=from_millis(attempt["started_at"]),
            error=None
            if error is None
            else RunError(
                code=ErrorCode(error["code"]),
                message=error["message"],
                retryable=error["retryable"],
                retry_after=error.get("retry_after"),
            ),
        )


@strawberry.type
class User(Node):
    username: str
    email: str | None = strawberry.field(description="Null unless it is the viewer, as all below.")
    created_at: datetime | None
    role: UserRole | None
    mine: Private[bool]

    @classmethod
    def of(cls, row: users.User, context: Context) -> User:
        if context.viewer is not None and context.viewer.id == row.id:
            return cls.own(row)
        return cls(id=ID(row.id), username=row.username, email=None, created_at=None, role=None, mine=False)

    @classmethod
    def own(cls, row: users.User) -> User:
        """As the user sees their own account."""
        return cls(
            id=ID(row.id),
            username=row.username,
            email=row.email,
            created_at=row.created_at,
            role=UserRole(row.role),
            mine=True,
        )

    @strawberry.field
    async def totp_enabled(self, info: Info) -> bool | None:
        return await info.context.totps.load(self.id) if self.mine else None

    @strawberry.field(description="Of the viewer who is signed in; null for who asks by an API key.")
    async def api_keys(self, info: Info) -> list[ApiKey] | None:
        if not self.mine or info.context.by_key:
            return None
        return [ApiKey.of(row) for row in counted(info, await info.context.services.api_keys.of(self.id))]

    @strawberry.field(description="Where the viewer is signed in, the last used first; null for an API key.")
    async def sessions(self, info: Info) -> list[Session] | None:
        if not self.mine or info.context.by_key:
            return None
        rows = counted(info, await info.context.services.sessions.listed(self.id))
        return [Session.of(row, info.context) for row in rows]

    @strawberry.field(description="Accounts elsewhere that open this one; as `apiKeys`.")
    async def identities(self, info: Info) -> list[Identity] | None:
        if not self.mine or info.context.by_key:
            return None
        return [Identity.of(row) for row in counted(info, await info.context.services.oauth.of(self.id))]


@strawberry.type
class Member:
    user: User
    role: MemberRole


@strawberry.type(description="One generation. It belongs to the server: a client that goes away does not stop it.")
class Run(Node):
    status: RunStatus
    requested_model: str
    model: str
    provider: str
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    time_to_first_token_ms: float | None
    usage: Usage | None
    finish_reason: FinishReason | None
    error: RunError | None
    attempts: list[RunAttempt]
    last_seq: int
    message_id: Private[str | None]
    conversation_id: Private[str | None]

    @classmethod
    def of(cls, row: runs.Run, context: Context) -> Run:
        log = context.services.engine.log_of(row.id)
        return cls(
            id=ID(row.id),
            status=RunStatus(row.status),
            requested_model=row.requested_model,
            model=row.model,
            provider=row.provider,
            created_at=row.created_at,
            started_at=row.started_at,
            finished_at=row.finished_at,
            time_to_first_token_ms=row.time_to_first_token_ms,
            usage=Usage.of(usage_of(row)),
            finish_reason=None if row.finish_reason is None else FinishReason(row.finish_reason),
            error=RunError.of(failure_of_run(row)),
            attempts=[RunAttempt.of(attempt) for attempt in row.attempts],
            last_seq=row.last_seq if log is None else log.last_seq,
            message_id=row.message_id,
            conversation_id=row.conversation_id,
        )

    @strawberry.field
    async def message(self, info: Info) -> Message | None:
        return await load_message(info.context, self.message_id)

    @strawberry.field
    async def conversation(self, info: Info) -> Conversation | None:
        return await load_conversation(info.context, self.conversation_id)


@strawberry.type
class Message(Node):
    external_id: str | None
    role: Role
    content: str = strawberry.field(description="Empty while STREAMING: the text so far is what the run's events say.")
    reasoning: str | None
    status: MessageStatus
    created_at: datetime
    model: str | None
    row: Private[messages.Message]

    @classmethod
    def of(cls, row: messages.Message) -> Message:
        return cls(
            id=ID(row.id),
            external_id=row.external_id,
            role=Role(row.role),
            content=row.content,
            reasoning=row.reasoning,
            status=MessageStatus(row.status),
            created_at=row.created_at,
            model=row.model,
            row=row,
        )

    @strawberry.field
    async def author(self, info: Info) -> User | None:
        row = None if self.row.author_id is None else await info.context.users.load(self.row.author_id)
        return None if row is None else User.of(row, info.context)

    @strawberry.field
    async def usage(self, info: Info) -> Usage | None:
        row = None if self.row.run_id is None else await info.context.runs.load(self.row.run_id)
        return None if row is None else Usage.of(usage_of(row))

    @strawberry.field
    async def run(self, info: Info) -> Run | None:
        row = None if self.row.run_id is None else await info.context.runs.load(self.row.run_id)
        return None if row is None else Run.of(row, info.context)

    @strawberry.field
    async def parent(self, info: Info) -> Message | None:
        return await load_message(info.context, self.row.parent_id)

    @strawberry.field(description="Edits and regenerations of the same place, this one included, oldest first.")
    async def siblings(self, info: Info) -> list[Message]:
        return [Message.of(row) for row in counted(info, await info.context.siblings.load(self.row))]


@strawberry.type
class MessageEdge:
    cursor: str
    node: Message


@strawberry.type
class MessageConnection:
    edges: list[MessageEdge]
    page_info: PageInfo


@strawberry.type
class Conversation(Node):
    title: str
    model: str
    system_prompt: str | None
    created_at: datetime
    updated_at: datetime
    archived: bool
    pinned: bool
    version: int
    message_count: int = strawberry.field(description="Of the active branch.")
    row: Private[conversations.Conversation]

    @classmethod
    def of(cls, row: conversations.Conversation) -> Conversation:
        return cls(
            id=ID(row.id),
            title=row.title,
            model=row.model,
            system_prompt=row.system_prompt,
            created_at=row.created_at,
            updated_at=row.updated_at,
            archived=row.archived,
            pinned=row.pinned,
            version=row.version,
            message_count=row.message_count,
            row=row,
        )

    @strawberry.field(description="The id that the owner's client chose; null for the other members.")
    async def external_id(self, info: Info) -> str | None:
        return self.row.external_id if self.row.owner_id == info.context.user_id else None

    @strawberry.field(description="The active branch, oldest first.")
    async def messages(
        self, info: Info, first: First = None, after: str | None = None, last: First = None, before: str | None = None
    ) -> MessageConnection:
        size = page_size(first, last)
        async with info.context.reading(), info.context.services.database.read() as session:
            rows = await messages.active_branch(
                session,
                self.row.id,
                limit=size.count + 1,
                after_depth=number_in(after, "after"),
                before_depth=number_in(before, "before"),
                from_end=size.from_end,
            )
            info.context.hold(rows)
        page, more, fewer = trim_page(rows, size, after=after is not None, before=before is not None)
        edges = [MessageEdge(cursor=encode_cursor(row.depth), node=Message.of(row)) for row in page]
        return MessageConnection(edges=edges, page_info=page_info([edge.cursor for edge in edges], more, fewer))

    @strawberry.field(description="The newest message of the active branch.")
    async def head(self, info: Info) -> Message | None:
        return await load_message(info.context, self.row.head_id)

    @strawberry.field
    async def active_run(self, info: Info) -> Run | None:
        row = await info.context.active_runs.load(self.row.id)
        return None if row is None else Run.of(row, info.context)

    @strawberry.field
    async def members(self, info: Info) -> list[Member]:
        others = await info.context.members.load(self.row.id) or []
        roles = {self.row.owner_id: MemberRole.OWNER} | {other.user_id: MemberRole(other.role) for other in others}
        found = await info.context.users.load_many(list(roles))
        rows = counted(info, [row for row in found if row is not None])
        return [Member(user=User.of(row, info.context), role=roles[row.id]) for row in rows]

    @strawberry.field
    async def viewer_role(self, info: Info) -> MemberRole:
        if self.row.owner_id == info.context.user_id:
            return MemberRole.OWNER
        return await info.context.roles.load(self.row.id) or MemberRole.VIEWER


async def viewer_of(context: Context) -> User:
    """The viewer's own account, as it is now.

    Raises:
        TokenMissing: anonymous.
        TokenInvalid: the account is gone.
    """
    row = await context.users.load(context.user_id)
    if row is None:
        raise TokenInvalid
    return User.own(row)


async def load_message(context: Context, message_id: str | None) -> Message | None:
    """The message, if it is the viewer's to see."""
    row = None if message_id is None or context.viewer is None else await context.messages.load(message_id)
    return None if row is None else Message.of(row)


async def load_conversation(context: Context, conversation_id: str | None) -> Conversation | None:
    """The conversation, if the viewer has a part in it."""
    if conversation_id is None or context.viewer is None:
        return None
    row = await context.conversations.load(conversation_id)
    return None if row is None else Conversation.of(row)


async def load_run(context: Context, run_id: str) -> Run | None:
    """The run, if the viewer caused it or has a part in its conversation."""
    row = None if context.viewer is None else await context.runs.load(run_id)
    return None if row is None else Run.of(row, context)


def given(value: Any, field: str) -> Any:
    """For inputs that may be absent but not null.

    Raises:
        BadUserInput: it is null.
    """
    if value is None:
        raise BadUserInput(f"{field} cannot be null", field=field)
    return value
