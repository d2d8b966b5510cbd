"""Every failure that a user can meet, as one tree. A leaf has a stable `code`; only the edges know a status number.

ChatError
├── Unauthenticated            UNAUTHENTICATED
│   ├── TokenMissing, TokenInvalid
│   └── TokenExpired           TOKEN_EXPIRED
├── InvalidCredentials         INVALID_CREDENTIALS
├── OtpRequired                OTP_REQUIRED
├── InvalidOtp                 INVALID_OTP
├── Forbidden                  FORBIDDEN
├── NotFound                   NOT_FOUND
├── Conflict                   CONFLICT
│   ├── UsernameTaken          USERNAME_TAKEN
│   ├── EmailTaken             EMAIL_TAKEN
│   └── RunActive              RUN_ACTIVE
├── BadUserInput               BAD_USER_INPUT
│   ├── TooLarge, TooSlow
│   └── QueryTooComplex        QUERY_TOO_COMPLEX
├── RateLimited                RATE_LIMITED
├── QuotaExceeded              QUOTA_EXCEEDED
├── Unavailable                UNAVAILABLE
├── ProviderError              PROVIDER_ERROR
│   ├── ProviderBusy, ProviderRefused
│   ├── ModelUnavailable       MODEL_UNAVAILABLE
│   │   └── ModelUnknown
│   ├── ProviderAuth           PROVIDER_AUTH
│   │   └── ProviderUnpaid
│   ├── ProviderRateLimited    PROVIDER_RATE_LIMITED
│   ├── ProviderTimeout        PROVIDER_TIMEOUT
│   │   └── ProviderSilent
│   ├── ContentFiltered        CONTENT_FILTERED
│   └── ContextTooLong         CONTEXT_TOO_LONG
└── InternalError              INTERNAL_ERROR

StartError                     not a user's: one line for whoever starts the server, exit code 1
"""

from datetime import datetime
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


class OtpRequired(ChatError):
    """The password is right; the account wants a second factor too."""

    code = ErrorCode.OTP_REQUIRED
    default_message = "This account needs a one-time code too: send it as `otp`"


class InvalidOtp(ChatError):
    code = ErrorCode.INVALID_OTP
    default_message = "The one-time code is wrong, too old, or was used before"


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


class TooSlow(BadUserInput):
    default_message = "The request took too long to arrive"


class QueryTooComplex(BadUserInput):
    code = ErrorCode.QUERY_TOO_COMPLEX
    default_message = "The query is too complex"


class RateLimited(ChatError):
    code = ErrorCode.RATE_LIMITED
    default_message = "Too many requests"


class QuotaExceeded(ChatError):
    """A day's limit of tokens or money. `resets_at`: when the next day's begins; `retry_after` may be sooner, where
    answers under way hold what they may not need."""

    code = ErrorCode.QUOTA_EXCEEDED
    default_message = "Your limit for today is used up"

    def __init__(self, message: str | None = None, *, resets_at: datetime, retry_after: float) -> None:
        super().__init__(message, retry_after=retry_after)
        self.resets_at = resets_at


class Unavailable(ChatError):
    code = ErrorCode.UNAVAILABLE
    default_message = "The server cannot do this now; try again"


class ProviderError(ChatError):
    """A model's provider failed. docs/protocol.md has all of these as one table.

    `retryable`: the same request may succeed later. `retried`: perhaps in a moment, so that the server itself asks
    again while nothing has been said. `passed_on`: another model may answer instead.
    """

    code = ErrorCode.PROVIDER_ERROR
    default_message = "The model's provider failed; try again"
    retryable: ClassVar[bool] = True
    retried: ClassVar[bool] = True
    passed_on: ClassVar[bool] = True


class ProviderBusy(ProviderError):
    """It has more to do than it can, for everyone."""

    default_message = "The model's provider is overloaded; try again in a moment, or choose another model"


class ProviderRefused(ProviderError):
    """It understood the request and will not do it, now or later."""

    default_message = "The model's provider refused the request; choose another model"
    retryable = retried = passed_on = False


class ModelUnavailable(ProviderError):
    code = ErrorCode.MODEL_UNAVAILABLE
    default_message = "This model is not available now; try again later, or choose another one"
    retried = False


class ModelUnknown(ModelUnavailable):
    """Its provider does not have it: as good as a model without a provider."""

    default_message = "The model's provider has no such model; choose another one"
    retryable = False


class ProviderAuth(ProviderError):
    code = ErrorCode.PROVIDER_AUTH
    default_message = "The model's provider refused the server's key; choose another model, or tell the operator"
    retryable = retried = passed_on = False


class ProviderUnpaid(ProviderAuth):
    default_message = (
        "The server's account at the model's provider has no credit left; choose another model, or tell the operator"
    )


class ProviderRateLimited(ProviderError):
    code = ErrorCode.PROVIDER_RATE_LIMITED
    default_message = "The model's provider is limiting requests; try again in a moment, or choose another model"


class ProviderTimeout(ProviderError):
    code = ErrorCode.PROVIDER_TIMEOUT
    default_message = "The model's provider took too long; try again"


class ProviderSilent(ProviderTimeout):
    """Nothing came for as long as anyone would wait: once is enough."""

    default_message = "The model's provider sent nothing for too long; try again, or choose another model"
    retried = False


class ContentFiltered(ProviderError):
    code = ErrorCode.CONTENT_FILTERED
    default_message = "The model's provider refused this content; change the message"
    retryable = retried = passed_on = False


class ContextTooLong(ProviderError):
    code = ErrorCode.CONTEXT_TOO_LONG
    default_message = "The conversation is too long for this model; start a new one, or choose a model with more room"
    retryable = retried = passed_on = False


class InternalError(ChatError):
    """What we did not foresee, masked. The message names a request id, never what happened inside."""


def error_for(code: ErrorCode, message: str, retry_after: float | None = None) -> ChatError:
    """The error that a stored failure stands for, to be raised where a caller waits for the whole answer."""
    kind = BY_CODE.get(code, InternalError)
    return kind(message, retry_after=retry_after)


BY_CODE: dict[ErrorCode, type[ChatError]] = {
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
"""What a run can fail with."""


class StartError(Exception):
    """The server cannot start as configured. The message is one line that names what to set."""
