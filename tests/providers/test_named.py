from collections.abc import AsyncIterator
from decimal import Decimal

import pytest

from errors import ErrorCode
from providers.named import NamedServer
from providers.prices import flat_price
from providers.servers import Server, ServerModel
from tests.providers.conformance import ANSWERS, asking, expected, told_by
from tests.providers.fakes.base import Told
from tests.providers.fakes.openai import OpenAIFake

QWEN = ServerModel(name="qwen", context_window=4096, prompt_price=Decimal(1), completion_price=Decimal(2))


@pytest.fixture
async def fake() -> AsyncIterator[OpenAIFake]:
    server = OpenAIFake()
    server.models = ("llama", "maker/qwen")
    async with server.serving():
        yield server


def ids(provider: NamedServer) -> list[str]:
    return [model.id for model in provider.models()]


async def test_what_the_server_lists_is_shown_under_its_name(fake: OpenAIFake) -> None:
    provider = NamedServer(Server(name="lab", base_url=fake.base_url, key=fake.key))
    await provider.start(5)
    assert ids(provider) == ["lab/llama", "lab/maker/qwen"]
    for asked, found in {"llama": "lab/llama", "maker/qwen": "lab/maker/qwen", "lab/other": "lab/other"}.items():
        info = provider.find(asked)
        assert info is not None
        assert (info.id, info.provider) == (found, "lab")
    assert provider.find("qwen") is None
    await provider.aclose()


async def test_the_server_is_asked_for_its_own_name_of_the_model(fake: OpenAIFake) -> None:
    provider = NamedServer(Server(name="lab", base_url=fake.base_url, key=fake.key))
    fake.play(*ANSWERS["text"])
    fake.model = "lab/maker/qwen"
    assert await told_by(provider, asking(fake)) == expected(fake, ANSWERS["text"])
    assert fake.seen[-1].json["model"] == "maker/qwen"
    await provider.aclose()


async def test_what_the_file_says_is_not_asked_of_the_server(fake: OpenAIFake) -> None:
    provider = NamedServer(Server(name="lab", base_url=fake.base_url, key=fake.key, models=(QWEN,)))
    await provider.start(5)
    assert fake.seen == []
    assert ids(provider) == ["lab/qwen"]
    info = provider.find("qwen")
    assert info is not None
    assert (info.context_window, info.price) == (4096, flat_price(Decimal(1), Decimal(2)))
    other = provider.find("lab/llama")
    assert other is not None
    assert other.price is None
    await provider.aclose()


async def test_without_its_key_it_says_which_variable_and_asks_nobody(fake: OpenAIFake) -> None:
    provider = NamedServer(Server(name="lab", base_url=fake.base_url, key_variable="LAB_KEY", models=(QWEN,)))
    await provider.start(5)
    assert [model.unavailable_reason for model in provider.models()] == ["Set LAB_KEY to use it"]
    fake.model = "lab/qwen"
    assert await told_by(provider, asking(fake)) == Told(error=ErrorCode.MODEL_UNAVAILABLE)
    assert fake.seen == []
    await provider.aclose()
