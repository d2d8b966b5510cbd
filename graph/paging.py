"""Relay connections by keyset: page sizes, cursors, page info."""

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import strawberry

from errors import BadUserInput

DEFAULT_SIZE, MAX_SIZE = 20, 100
T = TypeVar("T")


@strawberry.type
class PageInfo:
    has_next_page: bool
    has_previous_page: bool
    start_cursor: str | None
    end_cursor: str | None


@dataclass(frozen=True, slots=True)
class PageSize:
    """How many, and from which end of the list."""

    count: int
    from_end: bool


def page_size(first: int | None, last: int | None) -> PageSize:
    """
    Raises:
        BadUserInput: both, or out of 1 to 100.
    """
    if first is not None and last is not None:
        raise BadUserInput("Give first or last, not both", field="last")
    name, count = ("last", last) if last is not None else ("first", DEFAULT_SIZE if first is None else first)
    if not 1 <= count <= MAX_SIZE:
        raise BadUserInput(f"{name} must be from 1 to {MAX_SIZE}", field=name)
    return PageSize(count, last is not None)


def trim_page(rows: Sequence[T], size: PageSize, *, after: bool, before: bool) -> tuple[list[T], bool, bool]:
    """From up to `count` + 1 rows, read from the asked end: the page in the list's order, has next, has previous."""
    more = len(rows) > size.count
    page = list(rows[: size.count])
    if size.from_end:
        page.reverse()
        return page, before, more
    return page, more, after


def encode_cursor(*parts: int | str) -> str:
    """Opaque to clients: they hand back what they were given."""
    return base64.urlsafe_b64encode(":".join(str(part) for part in parts).encode()).decode().rstrip("=")


def decode_cursor(cursor: str, field: str) -> list[str]:
    """
    Raises:
        BadUserInput: not a cursor of ours.
    """
    try:
        return base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True).decode().split(":")
    except (binascii.Error, ValueError):
        raise BadUserInput(f"{field} is not a cursor", field=field) from None


def page_info(cursors: Sequence[str], has_next: bool, has_previous: bool) -> PageInfo:
    return PageInfo(
        has_next_page=has_next,
        has_previous_page=has_previous,
        start_cursor=cursors[0] if cursors else None,
        end_cursor=cursors[-1] if cursors else None,
    )


def number_in(cursor: str | None, field: str, *, part: int = 0, parts: int = 1) -> int | None:
    """The number that stands at `part` of a cursor of `parts` parts.

    Raises:
        BadUserInput: not a cursor of this list.
    """
    if cursor is None:
        return None
    found = decode_cursor(cursor, field)
    if len(found) != parts or not found[part].isascii() or not found[part].isdigit() or len(found[part]) > 15:
        raise BadUserInput(f"{field} is not a cursor of this list", field=field)
    return int(found[part])
