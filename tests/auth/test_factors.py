"""The second factor on a real database."""

import asyncio
from datetime import timedelta

import pytest

from auth.accounts import Accounts
from auth.device import UNKNOWN
from auth.factors import Factors
from auth.sessions import SignedIn
from auth.throttle import NO_LIMITS, Throttle, ThrottleLimits
from errors import ChatError, Conflict, InvalidCredentials, InvalidOtp, OtpRequired, RateLimited
from models.address import Address
from models.database import Database
from models.opening import open_database
from models.totp import totp_of
from tests.auth.conftest import SECRET, code_of
from tests.databases import everything, look

pytestmark = pytest.mark.on_both

PASSWORD = "password123"


async def with_totp(accounts: Accounts, factors: Factors, step: int = -1) -> tuple[SignedIn, str, list[str]]:
    """A user with a second factor, confirmed by the code of this step: its secret, and the recovery codes."""
    signed = await accounts.register("ann", "a@example.com", PASSWORD)
    offer = await factors.begin(signed.user.id, "ann")
    codes = await factors.confirm(signed.user.id, "ann", code_of(offer.secret, step), UNKNOWN)
    return signed, offer.secret, codes


def recovery_codes(address: Address) -> int:
    """How many are stored; only ann has any."""
    return int(look(address, "SELECT count(*) FROM recovery_code")[0][0])


async def test_nothing_is_asked_for_before_it_is_confirmed(accounts: Accounts, factors: Factors) -> None:
    """Whoever scans the code and never comes back has not locked themself out."""
    signed = await accounts.register("ann", "a@example.com", PASSWORD)
    first = await factors.begin(signed.user.id, "ann")
    assert (await accounts.login("ann", PASSWORD)).user.id == signed.user.id
    second = await factors.begin(signed.user.id, "ann")
    assert first.secret != second.secret
    with pytest.raises(InvalidOtp):
        await factors.confirm(signed.user.id, "ann", code_of(first.secret), UNKNOWN)
    await factors.confirm(signed.user.id, "ann", code_of(second.secret), UNKNOWN)
    with pytest.raises(OtpRequired):
        await accounts.login("ann", PASSWORD)


async def test_the_password_comes_first(accounts: Accounts, factors: Factors) -> None:
    """Who does not know it is not told that there is a second factor, and uses up no code."""
    _, secret, _ = await with_totp(accounts, factors)
    for otp in (None, code_of(secret), "000000"):
        with pytest.raises(InvalidCredentials):
            await accounts.login("ann", "not the password", otp=otp)
    assert await accounts.login("ann", PASSWORD, otp=code_of(secret))


@pytest.mark.parametrize("otp", [None, "", "  "])
async def test_without_a_code_it_is_asked_for(accounts: Accounts, factors: Factors, otp: str | None) -> None:
    await with_totp(accounts, factors)
    with pytest.raises(OtpRequired):
        await accounts.login("ann", PASSWORD, otp=otp)


@pytest.mark.parametrize("otp", ["000000", "12345", "x" * 100_000, "\ud800", "\x00", "aaaa-bbbb-cccc-dddd"])
async def test_a_wrong_code_is_wrong(accounts: Accounts, factors: Factors, otp: str) -> None:
    await with_totp(accounts, factors)
    with pytest.raises(InvalidOtp):
        await accounts.login("ann", PASSWORD, otp=otp)


async def test_a_code_opens_once(accounts: Accounts, factors: Factors) -> None:
    """It can be read over a shoulder and typed within the same half minute."""
    _, secret, _ = await with_totp(accounts, factors)
    code = code_of(secret)
    await accounts.login("ann", PASSWORD, otp=f"{code[:3]} {code[3:]}")
    with pytest.raises(InvalidOtp):
        await accounts.login("ann", PASSWORD, otp=code)
    await accounts.login("ann", PASSWORD, otp=code_of(secret, 1))
    with pytest.raises(InvalidOtp):
        # Older than one that was used, and so perhaps seen.
        await accounts.login("ann", PASSWORD, otp=code)


async def test_the_code_that_confirmed_is_used_up(accounts: Accounts, factors: Factors) -> None:
    _, secret, _ = await with_totp(accounts, factors, step=0)
    with pytest.raises(InvalidOtp):
        await accounts.login("ann", PASSWORD, otp=code_of(secret, -1))


async def test_a_code_from_another_time_is_wrong(accounts: Accounts, factors: Factors) -> None:
    _, secret, _ = await with_totp(accounts, factors)
    for steps in (-3, 3):
        with pytest.raises(InvalidOtp):
            await accounts.login("ann", PASSWORD, otp=code_of(secret, steps))


@pytest.mark.parametrize("which", ["app", "recovery"])
async def test_of_many_at_once_one_gets_in(address: Address, accounts: Accounts, factors: Factors, which: str) -> None:
    """Each with a database of its own, as processes have."""
    signed, secret, codes = await with_totp(accounts, factors)
    otp = code_of(secret) if which == "app" else codes[0]
    others = [open_database(address) for _ in range(4)]
    checks = [Factors(other, SECRET, Throttle(other, NO_LIMITS)).check(signed.user.id, otp) for other in others * 2]
    results = await asyncio.gather(*checks, return_exceptions=True)
    for other in others:
        await other.aclose()
    assert [type(result) for result in results if result is not None] == [InvalidOtp] * 7


async def test_each_recovery_code_opens_once(accounts: Accounts, factors: Factors, address: Address) -> None:
    _, _, codes = await with_totp(accounts, factors)
    await accounts.login("ann", PASSWORD, otp=codes[0].upper().replace("-", " "))
    with pytest.raises(InvalidOtp):
        await accounts.login("ann", PASSWORD, otp=codes[0])
    await accounts.login("ann", PASSWORD, otp=codes[9])
    assert recovery_codes(address) == 8


async def test_somebody_else_s_codes_are_wrong(accounts: Accounts, factors: Factors) -> None:
    _, secret, codes = await with_totp(accounts, factors)
    other = await accounts.register("bob", "b@example.com", PASSWORD)
    offer = await factors.begin(other.user.id, "bob")
    await factors.confirm(other.user.id, "bob", code_of(offer.secret, -1), UNKNOWN)
    for otp in (code_of(secret), codes[0]):
        with pytest.raises(InvalidOtp):
            await accounts.login("bob", PASSWORD, otp=otp)


async def test_it_is_turned_off_by_a_code_and_can_be_begun_again(
    accounts: Accounts, factors: Factors, database: Database, address: Address
) -> None:
    signed, secret, codes = await with_totp(accounts, factors)
    user_id = signed.user.id
    with pytest.raises(Conflict):
        await factors.begin(user_id, "ann")
    with pytest.raises(InvalidOtp):
        await factors.disable(user_id, "ann", "000000", UNKNOWN)
    with pytest.raises(OtpRequired):
        await factors.disable(user_id, "ann", "", UNKNOWN)
    await factors.disable(user_id, "ann", code_of(secret), UNKNOWN)
    assert not await factors.required(user_id)
    assert await accounts.login("ann", PASSWORD)
    with pytest.raises(Conflict):
        await factors.disable(user_id, "ann", codes[0], UNKNOWN)
    async with database.read() as session:
        assert await totp_of(session, user_id) is None
    assert recovery_codes(address) == 0
    offer = await factors.begin(user_id, "ann")
    await factors.confirm(user_id, "ann", code_of(offer.secret), UNKNOWN)
    with pytest.raises(InvalidOtp):
        await accounts.login("ann", PASSWORD, otp=codes[1])


async def test_confirming_needs_a_beginning(accounts: Accounts, factors: Factors) -> None:
    signed = await accounts.register("ann", "a@example.com", PASSWORD)
    with pytest.raises(Conflict):
        await factors.confirm(signed.user.id, "ann", "000000", UNKNOWN)
    offer = await factors.begin(signed.user.id, "ann")
    for code in ("000000", "", "what", code_of(offer.secret, 5)):
        with pytest.raises(InvalidOtp):
            await factors.confirm(signed.user.id, "ann", code, UNKNOWN)
    await factors.confirm(signed.user.id, "ann", code_of(offer.secret), UNKNOWN)
    with pytest.raises(Conflict):
        await factors.confirm(signed.user.id, "ann", code_of(offer.secret), UNKNOWN)


async def test_nothing_that_opens_is_stored_as_it_is(address: Address, accounts: Accounts, factors: Factors) -> None:
    _, secret, codes = await with_totp(accounts, factors)
    stored = everything(address)
    for text in (secret, *codes, *(code.replace("-", "") for code in codes)):
        assert text.encode() not in stored


async def test_another_secret_key_leaves_the_recovery_codes(
    accounts: Accounts, factors: Factors, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    """The operator changed SECRET_KEY: nobody's app is right any more, and nobody is locked out."""
    signed, secret, codes = await with_totp(accounts, factors)
    changed = Factors(database, SECRET + "!", Throttle(database, NO_LIMITS))
    with pytest.raises(InvalidOtp):
        await changed.check(signed.user.id, code_of(secret))
    assert "SECRET_KEY" in caplog.text
    assert secret not in caplog.text
    await changed.check(signed.user.id, codes[0])
    await changed.disable(signed.user.id, "ann", codes[1], UNKNOWN)
    offer = await changed.begin(signed.user.id, "ann")
    await changed.confirm(signed.user.id, "ann", code_of(offer.secret), UNKNOWN)


class TestGuessing:
    async def test_wrong_codes_of_a_day_are_counted(self, accounts: Accounts, database: Database) -> None:
        """Of a million codes three are right at any time: ten guesses a minute, for whoever has the password, would be
        one chance in 23 every day."""
        limited = Factors(database, SECRET, Throttle(database, ThrottleLimits(None, None, None, wrong_codes=3)))
        signed, secret, codes = await with_totp(accounts, limited)
        for _ in range(3):
            with pytest.raises(InvalidOtp):
                await limited.check(signed.user.id, "000000")
        with pytest.raises(RateLimited) as caught:
            await limited.check(signed.user.id, code_of(secret))
        assert caught.value.retry_after is not None
        assert timedelta(hours=23).total_seconds() < caught.value.retry_after <= timedelta(days=1).total_seconds()
        await limited.check(signed.user.id, codes[0])

    async def test_a_right_one_forgets_them(self, accounts: Accounts, database: Database) -> None:
        limited = Factors(database, SECRET, Throttle(database, ThrottleLimits(None, None, None, wrong_codes=2)))
        signed, secret, _ = await with_totp(accounts, limited, step=-1)
        for step in (0, 1):
            with pytest.raises(InvalidOtp):
                await limited.check(signed.user.id, "000000")
            await limited.check(signed.user.id, code_of(secret, step))
        with pytest.raises(InvalidOtp):
            await limited.check(signed.user.id, "000000")

    async def test_confirming_and_disabling_count_as_log_ins(self, accounts: Accounts, database: Database) -> None:
        """Whoever has taken a session over must not find the code by trying."""
        limited = Factors(database, SECRET, Throttle(database, ThrottleLimits(4, None, None)))
        signed = await accounts.register("ann", "a@example.com", PASSWORD)
        offer = await limited.begin(signed.user.id, "ann")
        await limited.confirm(signed.user.id, "ann", code_of(offer.secret, -1), UNKNOWN)
        refused: list[type[ChatError]] = []
        for _ in range(5):
            with pytest.raises(ChatError) as caught:
                await limited.disable(signed.user.id, "ann", "000000", UNKNOWN)
            refused.append(type(caught.value))
        assert refused == [InvalidOtp] * 3 + [RateLimited] * 2
