"""OpenAI's adapter, against a server that speaks its protocol and is checked with its SDK."""

from collections.abc import AsyncIterator

import pytest

from tests.providers.conformance import ProviderConformance
from tests.providers.fakes.openai import OpenAIFake


@pytest.fixture
async def server() -> AsyncIterator[OpenAIFake]:
    fake = OpenAIFake()
    async with fake.serving():
        yield fake


class TestConformance(ProviderConformance):
    @pytest.fixture
    def fake(self, server: OpenAIFake) -> OpenAIFake:
        return server
