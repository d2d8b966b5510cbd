"""`typing` on the legacy socket: who hears of it, and who may not say it."""

from __future__ import annotations

from tests.conftest import Account
from tests.rest.talk import legacy, signed
from tests.server import Server


async def test_other_users_hear_it_and_the_senders_own_tabs_do_not(server: Server) -> None:
    async with (
        legacy(server, "typist_1") as tab,
        legacy(server, "typist_1") as other_tab,
        legacy(server, "reader_1") as reader,
    ):
        await tab.say(type="typing")
        assert await reader.hear() == {"type": "user_typing", "user_id": "typist_1"}
        assert await tab.silent()
        assert await other_tab.silent()


async def test_a_user_with_a_token_is_heard(server: Server, account: Account, other: Account) -> None:
    async with signed(server, account) as typist, signed(server, other) as reader, legacy(server, "guest_2") as guest:
        await typist.say(type="typing")
        for hearer in (reader, guest):
            assert await hearer.hear() == {"type": "user_typing", "user_id": account.id}


async def test_a_guest_under_a_users_id_is_heard_by_nobody_and_told(
    server: Server, account: Account, other: Account
) -> None:
    async with legacy(server, account.id) as impostor, signed(server, other) as reader:
        await impostor.say(type="typing")
        answer = await impostor.hear()
        assert (answer["type"], answer["code"]) == ("error", "FORBIDDEN")
        assert await reader.silent()


async def test_it_is_told_at_most_every_two_seconds(server: Server) -> None:
    async with legacy(server, "typist_3") as typist, legacy(server, "reader_3") as reader:
        for _ in range(5):
            await typist.say(type="typing")
        assert await reader.hear() == {"type": "user_typing", "user_id": "typist_3"}
        assert await reader.silent()
        assert await typist.silent(0)


async def test_who_sees_the_socket_open_is_heard_by_it_at_once(server: Server) -> None:
    """The server listens before it says that it is open."""
    for number in range(20):
        async with legacy(server, "reader_4") as reader, legacy(server, f"typist_4_{number}") as typist:
            await typist.say(type="typing")
            assert (await reader.hear())["user_id"] == f"typist_4_{number}"
