"""How much one user and one address may ask for, whichever way it comes: operations in a minute, and open sockets."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from auth.device import Device
from errors import RateLimited, Unavailable
from seats import Full, Seats
from sharing import Sharing

RETRY_SECONDS = 5


@dataclass(frozen=True, slots=True)
class TrafficLimits:
    """None: no limit. With Redis over all processes, but for the first two, which are bounds of what one can hold."""

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

    def __init__(self, limits: TrafficLimits, sharing: Sharing | None = None) -> None:
        sharing = sharing or Sharing()
        self._users = sharing.rates("user", limits.user_operations)
        self._addresses = sharing.rates("address", limits.address_operations)
        self._guests = sharing.rates("guest chats", limits.guest_chats)

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
    """The open sockets: those of this process are counted for /health, those of each user and address are bounded over
    all processes."""

    def __init__(self, limits: TrafficLimits, sharing: Sharing | None = None) -> None:
        sharing = sharing or Sharing()
        self._limits = limits
        self._users = sharing.seats("user", limits.user_sockets)
        self._addresses = sharing.seats("address", limits.address_sockets)
        self.open = 0
        self.guests = 0

    async def socket(self, device: Device, *, guest: bool = False) -> ExitStack:
        """Count a socket until the stack is closed.

        Raises:
            Unavailable: there are too many, of this address or of all.
        """
        if _full(self.open, self._limits.sockets) or (guest and _full(self.guests, self._limits.guest_sockets)):
            raise Unavailable("Too many open connections; try again later", retry_after=RETRY_SECONDS)
        with ExitStack() as counted:
            counted.enter_context(self._counted(guest))
            counted.enter_context(await _taken(self._addresses, device.site, "from this address"))
            return counted.pop_all()

    async def user(self, user_id: str) -> ExitStack:
        """Count one of the open sockets as this user's, until the stack is closed.

        Raises:
            Unavailable: the user has too many.
        """
        return await _taken(self._users, user_id, "of this user")

    @contextmanager
    def _counted(self, guest: bool) -> Iterator[None]:
        self.open += 1
        self.guests += guest
        try:
            yield
        finally:
            self.open -= 1
            self.guests -= guest


def _full(count: int, limit: int | None) -> bool:
    return limit is not None and count >= limit


async def _taken(seats: Seats, key: str, whose: str) -> ExitStack:
    try:
        return await seats.take(key)
    except Full:
        message = f"Too many open connections {whose}; close some"
        raise Unavailable(message, retry_after=RETRY_SECONDS) from None
