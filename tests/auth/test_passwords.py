import asyncio
import time
from statistics import median
from typing import Any

import pytest

from auth.passwords import Passwords


async def test_a_hash_is_argon2id_and_knows_only_its_own_password(passwords: Passwords) -> None:
    stored = await passwords.hash("password123")
    assert stored.startswith("$argon2id$")
    assert stored != await passwords.hash("password123"), "salted"
    assert await passwords.verify("password123", stored)
    assert not await passwords.verify("password124", stored)


@pytest.mark.parametrize("password", ["密码密码密码密码", "p" * 128, " spaces ", "🔑🔑🔑🔑🔑🔑🔑🔑"])
async def test_every_password_that_is_let_in_can_be_checked(passwords: Passwords, password: str) -> None:
    assert await passwords.verify(password, await passwords.hash(password))


async def test_the_loop_is_not_held(passwords: Passwords) -> None:
    """A hash takes about 50 ms of a core: streams of others go on meanwhile."""
    longest = 0.0

    async def watch() -> None:
        nonlocal longest
        before = time.perf_counter()
        while True:
            await asyncio.sleep(0.001)
            now = time.perf_counter()
            longest = max(longest, now - before)
            before = now

    begun = time.perf_counter()
    await passwords.hash("password123")
    alone = time.perf_counter() - begun
    watching = asyncio.create_task(watch())
    await asyncio.gather(*(passwords.hash("password123") for _ in range(4)))
    watching.cancel()
    assert longest < max(alone * 1.5, 0.1)


@pytest.fixture
def calls(passwords: Passwords, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """What is really computed: the name and the argument of every call of passlib's."""
    made: list[tuple[str, str]] = []
    context = passwords._context

    class Watched:
        def hash(self, secret: str) -> Any:
            made.append(("hash", secret))
            return context.hash(secret)

        def verify(self, secret: str, stored: str) -> Any:
            made.append(("verify", secret))
            return context.verify(secret, stored)

    monkeypatch.setattr(passwords, "_context", Watched())
    return made


async def test_without_a_user_one_hash_is_computed_all_the_same(
    passwords: Passwords, calls: list[tuple[str, str]]
) -> None:
    """Always exactly one, the first time too: twice the time after a restart would tell that there is no such user."""
    for number in range(3):
        assert not await passwords.verify(f"password{number}", None)
    assert len(calls) == 3
    assert calls[1:] == [("verify", "password1"), ("verify", "password2")]


async def test_the_decoy_is_nobodys_password(passwords: Passwords) -> None:
    await passwords.verify("x", None)
    assert passwords._decoy is not None
    assert not await passwords.verify("no user has this password", None)


async def test_no_such_user_takes_as_long_as_a_wrong_password(passwords: Passwords) -> None:
    stored = await passwords.hash("password123")

    async def timed(hashed: str | None) -> float:
        begun = time.perf_counter()
        await passwords.verify("wrong password", hashed)
        return time.perf_counter() - begun

    pairs = [(await timed(stored), await timed(None)) for _ in range(9)][1:]
    wrong, unknown = (median(times) for times in zip(*pairs, strict=True))
    assert abs(wrong - unknown) < 0.35 * max(wrong, unknown), f"{wrong * 1000:.0f} and {unknown * 1000:.0f} ms"


async def test_closing_ends_what_waits(passwords: Passwords) -> None:
    waiting = [asyncio.create_task(passwords.hash("password123")) for _ in range(20)]
    await asyncio.sleep(0.01)
    passwords.close()
    async with asyncio.timeout(5):
        done = await asyncio.gather(*waiting, return_exceptions=True)
    assert any(isinstance(result, asyncio.CancelledError) for result in done)
