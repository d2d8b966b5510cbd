"""OpenAI's adapter, against a server that speaks its protocol and is checked with its SDK."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from errors import ErrorCode
from providers.base import Patience
from providers.openai import OpenAIProvider
from providers.vendors import OPENAI
from tests.providers.conformance import ANSWERS, HTML, ProviderConformance, asking, expected, told_by
from tests.providers.fakes.base import Seen, Told
from tests.providers.fakes.openai import OpenAIFake
from tests.providers.fakes.steps import Failure, Page, Refuse

TEXT = ANSWERS["text"]


@pytest.fixture
async def server() -> AsyncIterator[OpenAIFake]:
    fake = OpenAIFake()
    fake.play(*TEXT)
    async with fake.serving():
        yield fake


@pytest.fixture
async def provider(server: OpenAIFake) -> AsyncIterator[OpenAIProvider]:
    opened = OpenAIProvider(server.key, server.base_url, refresh=0.05)
    yield opened
    await opened.aclose()


class TestConformance(ProviderConformance):
    @pytest.fixture
    def fake(self, server: OpenAIFake) -> OpenAIFake:
        return server


class Choosy(OpenAIFake):
    """Refuses requests that have one of `refused`, with or without naming it."""

    def __init__(self, *refused: str, words: str = "Unsupported parameter: {}", status: int = 400) -> None:
        super().__init__()
        self.refused = refused
        self.words = words
        self.status = status
        self.play(*TEXT)

    def page(self, request: Seen) -> Page | None:
        for name in self.refused:
            if name in request.json:
                error = f'{{"error": {{"message": "{self.words.format(name)}"}}}}'
                return Page(self.status, error.encode(), "application/json")
        return None


class TestAsking:
    @pytest.mark.parametrize(
        ("refused", "words", "status", "requests"),
        [
            (["temperature"], "Unsupported value: '{}' does not support 0.5 with this model.", 400, 2),
            (["max_tokens"], "'{}' is not supported. Use 'max_completion_tokens' instead.", 400, 2),
            (["stream_options"], "Extra inputs are not permitted: {}", 422, 2),
            (["stream_options"], "Bad request", 400, 2),
            (["max_tokens", "temperature", "stream_options"], "Unsupported parameter: {}", 400, 4),
        ],
    )
    async def test_what_a_server_refuses_is_asked_without_and_remembered(
        self, refused: list[str], words: str, status: int, requests: int
    ) -> None:
        fake = Choosy(*refused, words=words, status=status)
        async with fake.serving():
            provider = OpenAIProvider(fake.key, fake.base_url)
            told = expected(fake, TEXT)
            if "stream_options" in refused:
                told.usage = None
            assert await told_by(provider, asking(fake)) == told
            assert len(fake.seen) == requests
            assert await told_by(provider, asking(fake)) == told
            assert len(fake.seen) == requests + 1, "the second time it knows"
            found = provider.find(asking(fake).model)
            assert found is not None
            limits = [fake.seen[-1].json.get(name) for name in ("max_tokens", "max_completion_tokens")]
            assert asking(fake).max_tokens + found.thoughts(asking(fake).max_tokens) in limits
            await provider.aclose()

    async def test_what_is_refused_in_any_way_is_refused(self) -> None:
        fake = Choosy("messages", words="No")
        async with fake.serving():
            provider = OpenAIProvider(fake.key, fake.base_url)
            assert (await told_by(provider, asking(fake))).error is ErrorCode.PROVIDER_ERROR
            assert len(fake.seen) == 2, "once without stream_options"
            fake.refused = ()
            await told_by(provider, asking(fake))
            assert "stream_options" in fake.seen[-1].json, "what did not help is not remembered"
            await provider.aclose()

    async def test_a_server_that_gave_figures_is_not_asked_without_them(
        self, server: OpenAIFake, provider: OpenAIProvider
    ) -> None:
        await told_by(provider, asking(server))
        server.play(Refuse(Failure.BAD_REQUEST))
        assert (await told_by(provider, asking(server))).error is ErrorCode.PROVIDER_ERROR
        assert len(server.seen) == 2

    @pytest.mark.parametrize("failure", [Failure.CONTEXT_TOO_LONG, Failure.CONTENT_FILTER])
    async def test_what_another_way_does_not_help_is_asked_once(
        self, server: OpenAIFake, provider: OpenAIProvider, failure: Failure
    ) -> None:
        server.play(Refuse(failure))
        assert (await told_by(provider, asking(server))).error is not None
        assert len(server.seen) == 1

    async def test_all_the_ways_have_one_deadline(self) -> None:
        fake = Choosy("messages", words="temperature max_tokens stream_options")
        async with fake.serving():
            provider = OpenAIProvider(fake.key, fake.base_url, patience=Patience(first=0.0))
            assert (await told_by(provider, asking(fake))).error is ErrorCode.PROVIDER_TIMEOUT
            await provider.aclose()

    async def test_a_server_without_a_key_is_asked_without_one(self, server: OpenAIFake) -> None:
        provider = OpenAIProvider(None, server.base_url)
        assert await told_by(provider, asking(server)) == Told(error=ErrorCode.PROVIDER_AUTH)
        assert server.seen[0].headers["authorization"] == "Bearer none"
        await provider.aclose()

    async def test_openai_s_variables_are_no_business_of_other_servers(
        self, server: OpenAIFake, provider: OpenAIProvider, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("OPENAI_ORG_ID", "OPENAI_PROJECT_ID", "OPENAI_ADMIN_KEY", "OPENAI_API_KEY"):
            monkeypatch.setenv(name, "private")
        await told_by(provider, asking(server))
        assert "private" not in str(server.seen[0])

    async def test_a_long_error_is_not_read_to_its_end(self, server: OpenAIFake, provider: OpenAIProvider) -> None:
        """A page of 100 MB, of which only the beginning fits into the sockets' buffers, is left at once."""
        server.play(Page(502, HTML * 1_000_000))
        assert (await told_by(provider, asking(server))).error is ErrorCode.PROVIDER_ERROR
        await asyncio.wait_for(server.left.wait(), 5)


class TestModels:
    async def test_a_server_shows_what_it_lists_and_is_asked_for_anything(self, provider: OpenAIProvider) -> None:
        assert list(provider.models()) == []
        await provider.start(5)
        assert [model.id for model in provider.models()] == ["a-model"]
        found = provider.find("another")
        assert found is not None
        assert (found.id, found.provider, found.price) == ("another", "openai", None)

    async def test_the_list_is_kept_fresh(self, server: OpenAIFake, provider: OpenAIProvider) -> None:
        await provider.start(5)
        server.models = ("b-model", "c-model")
        async with asyncio.timeout(5):
            while [model.id for model in provider.models()] != ["b-model", "c-model"]:
                await asyncio.sleep(0.01)

    async def test_a_refused_key_is_said_before_anybody_asks(self, server: OpenAIFake) -> None:
        provider = OpenAIProvider("sk-wrong", server.base_url)
        await provider.start(5)
        found = provider.find("a-model")
        assert found is not None
        assert found.unavailable_reason
        await provider.aclose()

    async def test_a_list_without_end_is_left(self, server: OpenAIFake, provider: OpenAIProvider) -> None:
        server.models = tuple(f"{n:0>180}" for n in range(60_000))
        await provider.start(5)
        assert list(provider.models()) == []

    async def test_a_start_waits_for_nobody(self) -> None:
        provider = OpenAIProvider("sk-key", "http://127.0.0.1:9/v1")
        async with asyncio.timeout(5):
            await provider.start()
            await provider.start(0.01)
        await provider.aclose()

    async def test_openai_itself_has_models_before_it_lists_them(self) -> None:
        provider = OpenAIProvider("sk-key")
        assert [model.id for model in provider.models()] == list(OPENAI.known)
        for model in provider.models():
            assert model.context_window
        found = provider.find("gpt-3.5-turbo")
        assert found is not None
        assert found.context_window == 16_385
        assert found.price is not None
        assert found.thoughts(100) == 0
        thinker = provider.find("o4-mini")
        assert thinker is not None
        assert thinker.thoughts(100) == 400
        for other in ("claude-sonnet-5-5", "llama", "a-model"):
            assert provider.find(other) is None
        await provider.aclose()
