"""The second factor of an account: a TOTP app, and recovery codes for the day it is lost."""

import logging
from dataclasses import dataclass

from auth.device import Device
from auth.one_time import (
    as_code,
    new_recovery_codes,
    new_secret,
    otpauth_uri,
    qr_svg,
    recovery_digest,
    secret_bytes,
    secret_of,
    step_of,
)
from auth.sealing import NotOurs, Seal
from auth.throttle import Throttle
from errors import Conflict, InvalidOtp, OtpRequired
from models.database import Database
from models.totp import (
    Totp,
    confirm_totp,
    confirmed_totps,
    delete_totp,
    offer_totp,
    totp_of,
    use_recovery_code,
    use_step,
)

logger = logging.getLogger(__name__)

ISSUER = "AI Chat Studio"
"""What authenticator apps show beside the user's name."""


@dataclass(frozen=True, slots=True)
class Offer:
    """A secret that does not count yet: in base 32, as the app's address, and that as an SVG element."""

    secret: str
    uri: str
    qr_svg: str


class Factors:
    """`secret` is SECRET_KEY: TOTP secrets are sealed under a key derived from it. When it is changed they cannot be
    read any more: no app's code is right then, a recovery code is."""

    def __init__(self, database: Database, secret: str, throttle: Throttle) -> None:
        self._database = database
        self._seal = Seal(secret, "totp")
        self._throttle = throttle

    async def begin(self, user_id: str, username: str) -> Offer:
        """A new secret, in the place of an earlier one that was not confirmed.

        Raises:
            Conflict: the account has a second factor.
        """
        secret = new_secret()
        sealed = self._seal.close(secret_bytes(secret), user_id)
        async with self._database.write() as session:
            if not await offer_totp(session, user_id, sealed):
                raise Conflict("Two-factor authentication is on already; disable it first")
        uri = otpauth_uri(secret, username, ISSUER)
        return Offer(secret, uri, qr_svg(uri))

    async def confirm(self, user_id: str, username: str, code: str, device: Device) -> list[str]:
        """The app shows the code: from now on it is asked for. The recovery codes, which nobody can be shown again.

        Raises:
            Conflict: nothing was begun, or it is confirmed already.
            InvalidOtp
            RateLimited: counted with the attempts to log in.
        """
        await self._throttle.login(username, device)
        async with self._database.read() as session:
            totp = await totp_of(session, user_id)
        if totp is None or totp.confirmed_at is not None:
            raise Conflict("Nothing to confirm: call beginTotp first")
        step = self._step(totp, as_code(code))
        if step is None:
            raise InvalidOtp
        codes = new_recovery_codes()
        async with self._database.write() as session:
            if not await confirm_totp(session, user_id, totp.secret, step, map(recovery_digest, codes)):
                raise InvalidOtp
        return codes

    async def disable(self, user_id: str, username: str, code: str, device: Device) -> None:
        """By a code of the app, or a recovery code.

        Raises:
            Conflict: there is no second factor.
            InvalidOtp
            RateLimited: counted with the attempts to log in.
        """
        await self._throttle.login(username, device)
        if not await self.required(user_id):
            raise Conflict("Two-factor authentication is not on")
        await self.check(user_id, code)
        async with self._database.write() as session:
            await delete_totp(session, user_id)

    async def required(self, user_id: str) -> bool:
        async with self._database.read() as session:
            return bool(await confirmed_totps(session, [user_id]))

    async def check(self, user_id: str, otp: str | None) -> None:
        """Pass whoever has no second factor, or shows it; what is shown is used up.

        Raises:
            OtpRequired: nothing was shown.
            InvalidOtp: it is wrong, or somebody was quicker with it.
            RateLimited: too many wrong ones today.
        """
        async with self._database.read() as session:
            totp = await totp_of(session, user_id)
        if totp is None or totp.confirmed_at is None:
            return
        if otp is None or not otp.strip():
            raise OtpRequired
        code = as_code(otp)
        right = await self._use_recovery_code(user_id, otp) if code is None else await self._use_code(totp, code)
        if not right:
            raise InvalidOtp

    async def _use_recovery_code(self, user_id: str, text: str) -> bool:
        async with self._database.write() as session:
            return await use_recovery_code(session, user_id, recovery_digest(text))

    async def _use_code(self, totp: Totp, code: str) -> bool:
        await self._throttle.one_time_code(totp.user_id)
        step = self._step(totp, code)
        if step is None:
            return False
        async with self._database.write() as session:
            if not await use_step(session, totp.user_id, totp.secret, step):
                return False
        await self._throttle.code_was_right(totp.user_id)
        return True

    def _step(self, totp: Totp, code: str | None) -> int | None:
        if code is None:
            return None
        try:
            secret = secret_of(self._seal.open(totp.secret, totp.user_id))
        except NotOurs:
            logger.warning("a TOTP secret cannot be read: SECRET_KEY is not the one that it was kept under")
            return None
        return step_of(secret, code)
