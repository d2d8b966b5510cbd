"""Every failure that a user can meet, as one tree. A leaf has a stable `code`; only the edges know a status number.

ChatError
├── Unauthenticated            UNAUTHENTICATED
│   ├── TokenMissing, TokenInvalid
│   └── TokenExpired           TOKEN_EXPIRED
├── InvalidCredentials         INVALID_CREDENTIALS
├── Forbidden                  FORBIDDEN
├── NotFound                   NOT_FOUND
├── Conflict                   CONFLICT
│   ├── UsernameTaken          USERNAME_TAKEN
│   ├── EmailTaken             EMAIL_TAKEN
│   └── RunActive              RUN_ACTIVE
├── BadUserInput               BAD_USER_INPUT
│   ├── TooLarge
│   └── QueryTooComplex        QUERY_TOO_COMPLEX
├── RateLimited                RATE_LIMITED
├── Unavailable                UNAVAILABLE
├── ProviderError              PROVIDER_ERROR
│   ├── ModelUnavailable       MODEL_UNAVAILABLE
│   ├── ProviderAuth           PROVIDER_AUTH
│   ├── ProviderRateLimited    PROVIDER_RATE_LIMITED
│   ├── ProviderTimeout        PROVIDER_TIMEOUT
│   ├── ContentFiltered        CONTENT_FILTERED
│   └── ContextTooLong         CONTEXT_TOO_LONG
└── InternalError              INTERNAL_ERROR

StartError                     not a user's: one line for whoever starts the server, exit code 1
"""

from enum import StrEnum
from typing import ClassVar


class ErrorCode(StrEnum):
    """What went wrong, for programs. Shared by GraphQL's `extensions.code`, stored runs and the legacy socket."""

    UNAUTHENTICATED = "UNAUTHENTICATED"
    TOKEN_EXPIRED = "TOKEN_EXPIRED"  # noqa: S105
    UNAVAILABLE = "UNAVAILABLE"
    INVALID_CREDENTIALS = "INVALID_CREDENTIALS"
    OTP_REQUIRED = "OTP_REQUIRED"
    INVALID_OTP = "INVALID_OTP"
    FORBIDDEN = "FORBIDDEN"
    NOT_FOUND = "NOT_FOUND"
    CONFLICT = "CONFLICT"
    USERNAME_TAKEN = "USERNAME_TAKEN"
    EMAIL_TAKEN = "EMAIL_TAKEN"
    BAD_USER_INPUT = "BAD_USER_INPUT"
    RATE_LIMITED = "RATE_LIMITED"
    QUOTA_EXCEEDED = "QUOTA_EXCEEDED"
    QUERY_TOO_COMPLEX = "QUERY_TOO_COMPLEX"
    RUN_ACTIVE = "RUN_ACTIVE"
    MODEL_UNAVAILABLE = "MODEL_UNAVAILABLE"
    PROVIDER_AUTH = "PROVIDER_AUTH"
    PROVIDER_RATE_LIMITED = "PROVIDER_RATE_LIMITED"
    PROVIDER_TIMEOUT = "PROVIDER_TIMEOUT"
    PROVIDER_ERROR = "PROVIDER_ERROR"
    CONTENT_FILTERED = "CONTENT_FILTERED"
    CONTEXT_TOO_LONG = "CONTEXT_TOO_LONG"
    INTERNAL_ERROR = "INTERNAL_ERROR"


class ChatError(Exception):
    """The root. `message` is safe to show to the client as it is; `field` names the input at fault;
    `retry_after` is in seconds."""

    code: ClassVar[ErrorCode] = ErrorCode.INTERNAL_ERROR
    default_message: ClassVar[str] = "Something went wrong"

    def __init__(
        self, message: str | None = None, *, field: str | None = None, retry_after: float | None = None
    ) -> None:
        self.message = message or self.default_message
        self.field = field
        self.retry_after = retry_after
        super().__init__(self.message)


class Unauthenticated(ChatError):
    code = ErrorCode.UNAUTHENTICATED
    default_message = "未授权"


class TokenMissing(Unauthenticated):
    """The operation needs a viewer and the request carried no token."""


class TokenInvalid(Unauthenticated):
    """A token that was refused, for whatever reason but its age."""

    default_message = "Token无效"


class TokenExpired(Unauthenticated):
    code = ErrorCode.TOKEN_EXPIRED
    default_message = "Token已过期"


class InvalidCredentials(ChatError):
    code = ErrorCode.INVALID_CREDENTIALS
    default_message = "用户名或密码错误"


class Forbidden(ChatError):
    code = ErrorCode.FORBIDDEN
    default_message = "Not allowed"


class NotFound(ChatError):
    """What is not the viewer's does not exist: the same error for both."""

    code = ErrorCode.NOT_FOUND
    default_message = "Not found"


class Conflict(ChatError):
    code = ErrorCode.CONFLICT
    default_message = "Conflict"


class UsernameTaken(Conflict):
    code = ErrorCode.USERNAME_TAKEN
    default_message = "用户名已存在"


class EmailTaken(Conflict):
    code = ErrorCode.EMAIL_TAKEN
    default_message = "This e-mail address is already registered"


class RunActive(Conflict):
    code = ErrorCode.RUN_ACTIVE
    default_message = "An answer is still being written in this conversation"


class BadUserInput(ChatError):
    code = ErrorCode.BAD_USER_INPUT
    default_message = "Bad input"


class TooLarge(BadUserInput):
    default_message = "Too large"


class QueryTooComplex(BadUserInput):
    code = ErrorCode.QUERY_TOO_COMPLEX
    default_message = "The query is too complex"


class RateLimited(ChatError):
    code = ErrorCode.RATE_LIMITED
    default_message = "Too many requests"


class Unavailable(ChatError):
    code = ErrorCode.UNAVAILABLE
    default_message = "The server cannot do this now; try again"


class ProviderError(ChatError):
    """A model's provider failed. `retryable`: the same request may succeed later."""

    code = ErrorCode.PROVIDER_ERROR
    default_message = "The model's provider failed"
    retryable: ClassVar[bool] = True


class ModelUnavailable(ProviderError):
    code = ErrorCode.MODEL_UNAVAILABLE
    default_message = "This model is not available here"


class ProviderAuth(ProviderError):
    code = ErrorCode.PROVIDER_AUTH
    default_message = "The model's provider refused the server's key"
    retryable = False


class ProviderRateLimited(ProviderError):
    code = ErrorCode.PROVIDER_RATE_LIMITED
    default_message = "The model's provider is limiting requests"


class ProviderTimeout(ProviderError):
    code = ErrorCode.PROVIDER_TIMEOUT
    default_message = "The model's provider took too long"


class ContentFiltered(ProviderError):
    code = ErrorCode.CONTENT_FILTERED
    default_message = "The model's provider refused this content"
    retryable = False


class ContextTooLong(ProviderError):
    code = ErrorCode.CONTEXT_TOO_LONG
    default_message = "The conversation is too long for this model"
    retryable = False


class InternalError(ChatError):
    """What we did not foresee, masked. The message names a request id, never what happened inside."""


def error_for(code: ErrorCode, message: str, retry_after: float | None = None) -> ChatError:
    """The error that a stored failure stands for, to be raised where a caller waits for the whole answer."""
    kind = _BY_CODE.get(code, InternalError)
    return kind(message, retry_after=retry_after)


_BY_CODE: dict[ErrorCode, type[ChatError]] = {
    kind.code: kind
    for kind in (
        RateLimited,
        Unavailable,
        ProviderError,
        ModelUnavailable,
        ProviderAuth,
        ProviderRateLimited,
        ProviderTimeout,
        ContentFiltered,
        ContextTooLong,
    )
}


class StartError(Exception):
    """The server cannot start as configured. The message is one line that names what to set."""
