import asyncio
from typing import Any

import pytest
from sqlmodel import col, select

from auth.accounts import Accounts
from auth.passwords import Passwords
from auth.sessions import Sessions
from auth.tokens import Tokens
from errors import BadUserInput, ChatError, EmailTaken, InvalidCredentials, UsernameTaken
from models.database import Database
from models.user import User

pytestmark = pytest.mark.on_both

PASSWORD = "password123"


async def change(database: Database, user_id: str, **values: Any) -> None:
    async with database.write() as session:
        user = (await session.exec(select(User).where(User.id == user_id))).one()
        for name, value in values.items():
            setattr(user, name, value)
        session.add(user)


class TestRegister:
    async def test_signs_in_who_is_new(self, accounts: Accounts, sessions: Sessions, tokens: Tokens) -> None:
        signed = await accounts.register("ann", "Ann@Example.com", PASSWORD)
        assert tokens.verify(signed.access_token).user_id == signed.user.id
        assert signed.expires_in == tokens.lifetime
        assert (signed.user.username, signed.user.email) == ("ann", "Ann@example.com")
        assert PASSWORD not in repr(signed.user)
        assert (await sessions.viewer(signed.access_token)).username == "ann"

    @pytest.mark.parametrize(
        ("name", "same"),
        [
            ("ann", "ann"),
            ("Ann", "aNN"),
            (" ann ", "ann"),
            ("José", "JOSE\u0301"),
            ("straße", "STRASSE"),
            ("Å", "\u212b"),
            ("张伟", "张伟"),
            ("Ω", "ω"),
        ],
    )
    async def test_two_spellings_of_a_name_are_one_name(self, accounts: Accounts, name: str, same: str) -> None:
        first = await accounts.register(name, "a@example.com", PASSWORD)
        with pytest.raises(UsernameTaken) as caught:
            await accounts.register(same, "b@example.com", PASSWORD)
        assert caught.value.field == "username"
        assert (await accounts.login(same, PASSWORD)).user.id == first.user.id

    async def test_an_address_is_taken_once(self, accounts: Accounts) -> None:
        await accounts.register("ann", "a@example.com", PASSWORD)
        with pytest.raises(EmailTaken) as caught:
            await accounts.register("bob", "A@EXAMPLE.COM", PASSWORD)
        assert caught.value.field == "email"

    async def test_the_name_is_said_first_when_both_are_taken(self, accounts: Accounts) -> None:
        await accounts.register("ann", "a@example.com", PASSWORD)
        with pytest.raises(UsernameTaken):
            await accounts.register("ann", "a@example.com", PASSWORD)

    @pytest.mark.parametrize(
        ("second", "error"), [(("ANN", "b@example.com"), UsernameTaken), (("bob", "A@example.com"), EmailTaken)]
    )
    async def test_of_two_at_once_one_wins(
        self, accounts: Accounts, database: Database, second: tuple[str, str], error: type[ChatError]
    ) -> None:
        """Both find the name free, both hash for 50 ms: the database decides, and the loser is told why."""
        both = await asyncio.gather(
            accounts.register("ann", "a@example.com", PASSWORD),
            accounts.register(*second, PASSWORD),
            return_exceptions=True,
        )
        losers = [each for each in both if isinstance(each, BaseException)]
        assert [type(loser) for loser in losers] == [error]
        async with database.read() as session:
            assert len((await session.exec(select(col(User.id)))).all()) == 1

    @pytest.mark.parametrize(
        ("arguments", "field"),
        [
            (("", "a@example.com", PASSWORD), "username"),
            (("ann", "a@", PASSWORD), "email"),
            (("ann", "a@example.com", "short"), "password"),
        ],
    )
    async def test_bad_input_names_its_field_and_makes_nobody(
        self, accounts: Accounts, arguments: tuple[str, str, str], field: str
    ) -> None:
        with pytest.raises(BadUserInput) as caught:
            await accounts.register(*arguments)
        assert caught.value.field == field
        await accounts.register("ann", "a@example.com", PASSWORD)


class TestLogin:
    async def test_wrong_name_and_wrong_password_are_one_answer(self, accounts: Accounts) -> None:
        await accounts.register("ann", "a@example.com", PASSWORD)
        assert (await accounts.login("ANN", PASSWORD)).user.username == "ann"
        for name, password in (
            ("ann", "password124"),
            ("ann", PASSWORD.upper()),
            ("bob", PASSWORD),
            ("", ""),
            ("ann\x00", PASSWORD),
            ("\ud800", PASSWORD),
            ("ann", "\ud800" * 8),
            ("ann", PASSWORD + "\x00"),
            ("x" * 100_000, PASSWORD),
            ("ann", "x" * 100_000),
        ):
            with pytest.raises(InvalidCredentials) as caught:
                await accounts.login(name, password)
            assert caught.value.message == "用户名或密码错误"

    async def test_every_refusal_computes_one_hash(
        self, accounts: Accounts, passwords: Passwords, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """No answer is quick: not the unknown name's, not that of a name that cannot be one."""
        await accounts.register("ann", "a@example.com", PASSWORD)
        checked: list[bool] = []
        verify = passwords.verify

        async def watched(password: str, stored: str | None) -> bool:
            checked.append(stored is not None)
            return await verify(password, stored)

        monkeypatch.setattr(passwords, "verify", watched)
        for name, password in (("ann", "wrong password"), ("bob", PASSWORD), ("\x00", PASSWORD), ("ann", "\ud800" * 8)):
            with pytest.raises(InvalidCredentials):
                await accounts.login(name, password)
        assert checked == [True, False, False, False]

    async def test_a_disabled_user_cannot_come_in(self, accounts: Accounts, database: Database) -> None:
        signed = await accounts.register("ann", "a@example.com", PASSWORD)
        await change(database, signed.user.id, disabled=True)
        with pytest.raises(InvalidCredentials):
            await accounts.login("ann", PASSWORD)
