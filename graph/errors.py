"""How failures look in an answer: a stable `extensions.code`, and nothing from inside."""

import logging
import re
import secrets
from typing import Any

from graphql import GraphQLError

from errors import BadUserInput, ChatError, ErrorCode, QueryTooComplex, QuotaExceeded

logger = logging.getLogger(__name__)

VALUES = re.compile(r"(?:,? found:? |(?<!invalid) value: ).*", re.DOTALL)
"""In graphql-core's words, what was given where it does not fit: it may be a password, and the front end's own error
reports hold what it was answered."""


def format_chat_error(error: ChatError) -> dict[str, Any]:
    """A failure of ours without a place in the document."""
    extensions: dict[str, Any] = {"code": error.code.value}
    if error.field is not None:
        extensions["field"] = error.field
    if error.retry_after is not None:
        extensions["retryAfter"] = error.retry_after
    if isinstance(error, QuotaExceeded):
        extensions["resetsAt"] = error.resets_at.isoformat()
    return {"message": error.message, "extensions": extensions}


def format_error(error: GraphQLError) -> dict[str, Any]:
    """A field's or a document's failure. What we did not foresee is logged and masked under a request id."""
    cause = _cause(error)
    if isinstance(cause, ChatError):
        formatted = format_chat_error(cause)
    elif cause is None:
        formatted = format_chat_error(_document_error(error))
    else:
        formatted = masked(cause)
    if error.locations:
        formatted["locations"] = [location.formatted for location in error.locations]
    if error.path is not None:
        formatted["path"] = error.path
    return formatted


def masked(cause: BaseException) -> dict[str, Any]:
    request_id = secrets.token_hex(8)
    logger.error("request %s failed", request_id, exc_info=cause)
    message = f"Something went wrong (request {request_id})"
    return {"message": message, "extensions": {"code": ErrorCode.INTERNAL_ERROR.value, "requestId": request_id}}


def _cause(error: GraphQLError) -> BaseException | None:
    cause: BaseException | None = error
    while isinstance(cause, GraphQLError):
        cause = cause.original_error
    # A scalar that cannot be parsed, at whatever place, is the client's mistake: it comes before any path.
    return None if cause is not None and error.path is None and not isinstance(cause, ChatError) else cause


def _document_error(error: GraphQLError) -> ChatError:
    # graphql-core has no codes: its own limits, and Python's recursion limit inside it, are known by these words.
    if any(words in error.message for words in ("tokens. Parsing aborted", "nested too deeply", "Validation aborted")):
        return QueryTooComplex(error.message)
    return BadUserInput(VALUES.sub("", error.message))
