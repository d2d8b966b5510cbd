"""Signing in with an account elsewhere, and linking it to an account here.

    page ──▶ begin ──▶ the provider ──▶ finish ──▶ page, with a one-time code ──▶ sign_in | link

The browser carries a sealed cookie from `begin` to `finish`, so that nobody can be sent back with somebody else's
answer. What `finish` finds out reaches the page as a one-time code in its address's fragment: no address has a token.
"""

import secrets
from collections.abc import Mapping, Sequence
from datetime import timedelta
from hashlib import sha256

from sqlalchemy.exc import IntegrityError

from auth.device import Device
from auth.factors import Factors
from auth.newcomers import Newcomers
from auth.oauth_client import Person, Provider
from auth.round_trip import Envelopes, Trip, challenge_of, new_trip
from auth.sessions import Sessions, SignedIn
from auth.throttle import Throttle
from errors import BadUserInput, Conflict, Forbidden, InvalidCredentials, NotFound, Unauthenticated
from models.columns import utc_now
from models.database import Database
from models.identity import (
    CodePurpose,
    Identity,
    OAuthCode,
    add_code,
    code_by_digest,
    count_identities,
    identities_of,
    identity_by_subject,
    identity_of,
    use_code,
)
from models.user import User, user_by_id

CODE_LIFE = timedelta(minutes=5)
"""Long enough for whoever has to type a one-time code of their app first."""
MAX_CODE_CHARS = 128
MOST_IDENTITIES = 20


class OAuth:
    """`providers` by name: those that the operator has set up. `secret` is SECRET_KEY."""

    def __init__(
        self,
        database: Database,
        providers: Mapping[str, Provider],
        secret: str,
        throttle: Throttle,
        factors: Factors,
        sessions: Sessions,
    ) -> None:
        self.providers = providers
        self._database = database
        self._envelopes = Envelopes(secret)
        self._throttle = throttle
        self._factors = factors
        self._sessions = sessions
        self._newcomers = Newcomers(database, throttle)

    def provider(self, name: str) -> Provider:
        """
        Raises:
            NotFound: there is none of this name, or the operator has not set it up.
        """
        if (provider := self.providers.get(name)) is None:
            raise NotFound
        return provider

    def ticket(self, name: str, user_id: str) -> str:
        """What lets a browser begin to link an identity to this user; good for a minute.

        Raises:
            NotFound: no such provider.
        """
        return self._envelopes.ticket(self.provider(name).name, user_id)

    async def begin(self, name: str, callback: str, challenge: str | None, ticket: str | None) -> tuple[str, str]:
        """Where to send the browser, and the cookie that it has to bring back to `callback`.

        Raises:
            NotFound: no such provider.
            BadUserInput: the challenge or the ticket is not one.
            Unavailable: the provider cannot be asked.
        """
        provider = self.provider(name)
        user_id = None if ticket is None else self._envelopes.owner(name, ticket)
        trip = new_trip(callback, user_id, challenge)
        return await provider.address(trip.through), self._envelopes.cookie(name, trip)

    async def finish(
        self, name: str, cookie: str | None, state: str | None, code: str | None, device: Device
    ) -> tuple[CodePurpose, str]:
        """A one-time code for the page, for the browser that has come back with `code`; None: it was sent away.

        Raises:
            NotFound: no such provider.
            BadUserInput: it was not begun here, or is over.
            Forbidden: the user or the provider says no, or the account is disabled.
            EmailTaken, RateLimited: no new account can be made.
            Unavailable: the provider cannot be asked.
        """
        provider = self.provider(name)
        trip = self._envelopes.trip(name, cookie, state)
        if not code:
            raise Forbidden(f"{provider.title} did not let you in")
        person = await provider.person(code, trip.through)
        if trip.user_id is not None:
            return CodePurpose.LINK, await self._issue(trip, trip.user_id, person)
        user = await self._newcomers.user_of(person, provider.title, device)
        if user.disabled:
            raise Forbidden("This account is disabled")
        return CodePurpose.SIGN_IN, await self._issue(trip, user.id, person)

    async def _issue(self, trip: Trip, user_id: str, person: Person) -> str:
        text = secrets.token_urlsafe(32)
        code = OAuthCode(
            digest=_digest(text),
            user_id=user_id,
            purpose=CodePurpose.SIGN_IN if trip.user_id is None else CodePurpose.LINK,
            provider=person.provider,
            subject=person.subject,
            label=person.shown,
            challenge=trip.challenge,
            expires_at=utc_now() + CODE_LIFE,
        )
        try:
            async with self._database.write() as session:
                await add_code(session, code)
        except IntegrityError:
            raise Unauthenticated from None  # the account was deleted meanwhile
        return text

    async def sign_in(
        self, code: str, device: Device, *, verifier: str | None, otp: str | None, refreshable: bool = True
    ) -> SignedIn:
        """Redeem a page's code; `verifier` answers the challenge that the page began with, if it did.

        Raises:
            BadUserInput: the code is not valid, or not for this page, or its identity was unlinked since.
            OtpRequired, InvalidOtp: the account has a second factor; the code stays valid.
            InvalidCredentials: the account is disabled.
            RateLimited: counted with the attempts to log in.
        """
        row, user = await self._redeemable(code, CodePurpose.SIGN_IN)
        answer = None if verifier is None else challenge_of(verifier)
        if not secrets.compare_digest((row.challenge or "").encode(), (answer or "").encode()):
            raise _not_valid()
        if user.disabled:
            raise InvalidCredentials
        await self._throttle.login(user.username, device)
        await self._factors.check(user.id, otp)
        async with self._database.write() as session:
            identity = await identity_by_subject(session, row.provider, row.subject)
            if identity is None or identity.user_id != user.id or not await use_code(session, row.digest):
                raise _not_valid()
            return await self._sessions.open(session, user, device, refreshable=refreshable)

    async def link(self, user_id: str, code: str) -> Identity:
        """Link the identity that this user's browser has come back with.

        Raises:
            BadUserInput: the code is not valid, or another user's.
            Conflict: the identity opens another account, or there are too many.
        """
        row, user = await self._redeemable(code, CodePurpose.LINK)
        if user.id != user_id:
            raise _not_valid()
        try:
            async with self._database.write() as session:
                if not await use_code(session, row.digest):
                    raise _not_valid()
                if await count_identities(session, user_id) >= MOST_IDENTITIES:
                    raise Conflict(f"At most {MOST_IDENTITIES} identities; unlink one first")
                found = await identity_by_subject(session, row.provider, row.subject)
                if found is None:
                    found = Identity(user_id=user_id, provider=row.provider, subject=row.subject, label=row.label)
                    session.add(found)
        except IntegrityError:
            raise _opens_another() from None
        if found.user_id != user_id:
            raise _opens_another()
        return found

    async def unlink(self, user_id: str, identity_id: str) -> None:
        """
        Raises:
            NotFound: the user has no such identity.
            Conflict: it is the only way into the account.
        """
        async with self._database.write() as session:
            count = await count_identities(session, user_id)
            identity = await identity_of(session, user_id, identity_id)
            user = await user_by_id(session, user_id)
            if identity is None or user is None:
                raise NotFound
            if user.password_hash is None and count == 1:
                raise Conflict("It is the only way into this account; set a password first")
            await session.delete(identity)

    async def of(self, user_id: str) -> Sequence[Identity]:
        """The user's identities, the oldest first."""
        async with self._database.read() as session:
            return await identities_of(session, user_id)

    async def _redeemable(self, code: str, purpose: CodePurpose) -> tuple[OAuthCode, User]:
        async with self._database.read() as session:
            row = await code_by_digest(session, _digest(code[:MAX_CODE_CHARS]))
            user = None if row is None else await user_by_id(session, row.user_id)
        if row is None or user is None or row.purpose != purpose:
            raise _not_valid()
        return row, user


def _digest(text: str) -> str:
    return sha256(text.encode(errors="surrogatepass")).hexdigest()


def _not_valid() -> BadUserInput:
    return BadUserInput("The code is not valid: it was used, is too old, or was made for somebody else", field="code")


def _opens_another() -> Conflict:
    return Conflict("This identity opens another account; unlink it there first")
