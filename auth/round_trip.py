"""What goes with a browser to a provider and back: sealed, so that it can neither be read nor made up."""

import base64
import json
import secrets
import time
from dataclasses import asdict, dataclass
from hashlib import sha256

from auth.oauth_client import Pass
from auth.sealing import NotOurs, Seal
from errors import BadUserInput

TRIP_SECONDS = 600
"""For whoever has to find a password and a telephone at the provider."""
TICKET_SECONDS = 60
"""A page opens the address at once."""
CHALLENGE_CHARS = 43


@dataclass(frozen=True, slots=True)
class Trip:
    """`user_id`: whom the identity is to be linked to; None: it signs in. `challenge`: the page's (RFC 7636, S256)."""

    through: Pass
    user_id: str | None
    challenge: str | None
    ends: float


def new_trip(callback: str, user_id: str | None, challenge: str | None) -> Trip:
    """
    Raises:
        BadUserInput: `challenge` is no SHA-256 in base64url.
    """
    if challenge is not None and (len(challenge) != CHALLENGE_CHARS or not challenge.isascii()):
        raise BadUserInput("challenge must be the SHA-256 of a verifier, in base64url", field="challenge")
    state, verifier, nonce = (secrets.token_urlsafe(32) for _ in range(3))
    return Trip(Pass(state, verifier, nonce, callback), user_id, challenge, time.time() + TRIP_SECONDS)


def challenge_of(verifier: str) -> str:
    digest = sha256(verifier.encode(errors="surrogatepass")).digest()
    return base64.urlsafe_b64encode(digest).decode().rstrip("=")


class Envelopes:
    """Seals trips (a browser's cookie) and tickets (who may link) under keys derived from SECRET_KEY."""

    def __init__(self, secret: str) -> None:
        self._trips = Seal(secret, "oauth trip")
        self._tickets = Seal(secret, "oauth ticket")

    def cookie(self, provider: str, trip: Trip) -> str:
        return self._trips.close(json.dumps(asdict(trip)).encode(), provider)

    def trip(self, provider: str, cookie: str | None, state: str | None) -> Trip:
        """
        Raises:
            BadUserInput: this browser did not begin this trip, or too long ago.
        """
        try:
            if cookie is None or state is None:
                raise NotOurs
            kept = json.loads(self._trips.open(cookie, provider))
        except NotOurs:
            raise BadUserInput("This sign-in was not begun in this browser; begin again") from None
        trip = Trip(**kept | {"through": Pass(**kept["through"])})
        same = secrets.compare_digest(trip.through.state.encode(), state.encode(errors="surrogatepass"))
        if not same or trip.ends <= time.time():
            raise BadUserInput("This sign-in is over, or another one was begun since; begin again")
        return trip

    def ticket(self, provider: str, user_id: str) -> str:
        content = json.dumps([user_id, time.time() + TICKET_SECONDS])
        return self._tickets.close(content.encode(), provider)

    def owner(self, provider: str, ticket: str) -> str:
        """Whom the ticket was made for.

        Raises:
            BadUserInput: it is not ours, or too old.
        """
        try:
            user_id, ends = json.loads(self._tickets.open(ticket, provider))
        except NotOurs:
            raise BadUserInput("The ticket is not valid; begin again", field="ticket") from None
        if ends <= time.time():
            raise BadUserInput("The ticket is too old; begin again", field="ticket")
        return str(user_id)
