"""What tests of a day's limits do with a core."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from chat.chats import StatelessChat
from chat.prompt import estimate_turns
from models.address import Address
from models.columns import utc_now
from models.usage import DailyUsage, Limits, day_of
from providers.base import Role, Turn
from providers.prices import NANOS
from tests.chat.conftest import SECONDS, Core, open_core

QUESTION = (Turn(Role.USER, "hello"),)
PROMPT = estimate_turns(QUESTION)


def chat(model: str, answer: int = 100, **more: Any) -> StatelessChat:
    return StatelessChat(QUESTION, model=model, max_tokens=answer, **more)


async def ask(core: Core, user: str | None, model: str, answer: int = 100) -> None:
    async for _ in core.chats.chat(user, chat(model, answer)):
        pass


async def today(core: Core, user: str) -> DailyUsage:
    async with core.database.read() as session:
        row = await day_of(session, user, utc_now().date())
    return row or DailyUsage(user_id=user, day=utc_now().date())


async def held(core: Core, user: str) -> tuple[int, int]:
    row = await today(core, user)
    return row.reserved_tokens, row.reserved_nanos


async def settled(core: Core, user: str) -> None:
    async with asyncio.timeout(SECONDS):
        while await held(core, user) != (0, 0):
            await asyncio.sleep(0.01)


@asynccontextmanager
async def limited(
    address: Address, tokens: int | None = None, dollars: float | None = None, **more: Any
) -> AsyncIterator[Core]:
    nanos = None if dollars is None else int(dollars * NANOS)
    async with open_core(address, budget=Limits(tokens, nanos), lease=3_000, **more) as core:
        yield core
