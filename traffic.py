"""How much one user and one address may ask for, whichever way it comes: operations in a minute, and open sockets."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from auth.device import Device
from errors import RateLimited, Unavailable
from rates import Rates

RETRY_SECONDS = 5


@dataclass(frozen=True, slots=True)
class TrafficLimits:
    """Counts, of this process. None: no limit."""

    sockets: int | None
    guest_sockets: int | None
    user_sockets: int | None
    address_sockets: int | None
    user_operations: int | None
    """In a minute, as the next ones."""
    address_operations: int | None
    guest_chats: int | None
    """Of one address, from sockets without a token."""


class Operations:
    """What counts as one: a request that some route answers, an operation on a GraphQL socket, the opening of a socket,
    a chat or a typing frame on the legacy one."""

    def __init__(self, limits: TrafficLimits) -> None:
        self._users = Rates(limits.user_operations)
        self._addresses = Rates(limits.address_operations)
        self._guests = Rates(limits.guest_chats)

    def of_address(self, device: Device) -> None:
        """Before anything else is looked at, the token too.

        Raises:
            RateLimited
        """
        if wait := self._addresses.take(device.site):
            raise RateLimited("Too many requests from this address; try again later", retry_after=wait)

    def of_user(self, user_id: str) -> None:
        """
        Raises:
            RateLimited
        """
        if wait := self._users.take(user_id):
            raise RateLimited("Too many requests of this user; try again later", retry_after=wait)

    def guest_chat(self, device: Device) -> None:
        """
        Raises:
            RateLimited
        """
        if wait := self._guests.take(device.site):
            raise RateLimited(f"At most {self._guests.per_minute} chats a minute without a token", retry_after=wait)


class Presence:
    """The open sockets of this process, counted for /health and bounded."""

    def __init__(self, limits: TrafficLimits) -> None:
        self._limits = limits
        self._users: Counter[str] = Counter()
        self._addresses: Counter[str] = Counter()
        self.open = 0
        self.guests = 0

    @contextmanager
    def socket(self, device: Device, *, guest: bool = False) -> Iterator[None]:
        """Count a socket for as long as the block lasts.

        Raises:
            Unavailable: there are too many, of this address or of all.
        """
        if _full(self.open, self._limits.sockets) or (guest and _full(self.guests, self._limits.guest_sockets)):
            raise Unavailable("Too many open connections; try again later", retry_after=RETRY_SECONDS)
        with _counted(self._addresses, device.site, self._limits.address_sockets, "from this address"):
            self.open += 1
            self.guests += guest
            try:
                yield
            finally:
                self.open -= 1
                self.guests -= guest

    @contextmanager
    def user(self, user_id: str) -> Iterator[None]:
        """Count one of the open sockets as this user's, for as long as the block lasts.

        Raises:
            Unavailable: the user has too many.
        """
        with _counted(self._users, user_id, self._limits.user_sockets, "of this user"):
            yield


def _full(count: int, limit: int | None) -> bool:
    return limit is not None and count >= limit


@contextmanager
def _counted(counts: Counter[str], key: str, limit: int | None, whose: str) -> Iterator[None]:
    if _full(counts[key], limit):
        raise Unavailable(f"Too many open connections {whose}; close some", retry_after=RETRY_SECONDS)
    counts[key] += 1
    try:
        yield
    finally:
        counts[key] -= 1
        if not counts[key]:
            del counts[key]
