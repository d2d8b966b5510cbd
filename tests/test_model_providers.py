"""What the settings make of the catalogue: which providers there are, and who answers whom."""

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

import model_providers
from errors import ModelUnavailable, StartError
from model_providers import open_catalog
from providers.base import FinishReason, GenerationRequest, Role, TextChunk, Turn
from providers.catalog import Catalog
from providers.vendors import VENDORS
from settings import Settings
from tests.providers.fakes.anthropic import AnthropicFake
from tests.providers.fakes.base import Fake
from tests.providers.fakes.google import GoogleFake
from tests.providers.fakes.openai import OpenAIFake
from tests.providers.fakes.steps import Finish, Say

Open = Callable[..., Awaitable[Catalog]]
HIDDEN = "sk-hidden-key"


@pytest.fixture
async def fake() -> AsyncIterator[OpenAIFake]:
    server = OpenAIFake()
    async with server.serving():
        yield server


@pytest.fixture
async def opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Open]:
    """The catalogue of these settings, with the scripted model in place of the embedded one."""
    monkeypatch.chdir(tmp_path)
    async with AsyncExitStack() as stack:

        async def open_with(file: str | None = None, **variables: object) -> Catalog:
            if file is not None:
                (tmp_path / "models.toml").write_text(file, encoding="utf-8")
                variables["models_file"] = tmp_path / "models.toml"
            values = {"embedded_model": False, "scripted_model": True, "data_dir": tmp_path, **variables}
            return await open_catalog(Settings(_env_file=None, **values), stack)  # type: ignore[arg-type]  # a dict

        yield open_with


def answers(catalog: Catalog, model: str) -> list[str]:
    return [f"{candidate.provider.name}:{candidate.model.id}" for candidate in catalog.candidates(model)]


async def test_with_nothing_set_our_own_model_answers_everyone(opened: Open) -> None:
    catalog = await opened()
    assert catalog.default == "scripted"
    assert answers(catalog, "gpt-3.5-turbo") == ["scripted:scripted"]
    closed = {model.provider for model in catalog.models() if model.unavailable_reason is not None}
    assert closed == {vendor.name for vendor in VENDORS}


async def test_a_key_opens_openai_and_ends_the_standing_in(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("providers.openai.OpenAIProvider._read_models", nobody)
    catalog = await opened(openai_api_key=HIDDEN)
    assert answers(catalog, "gpt-3.5-turbo") == ["openai:gpt-3.5-turbo"]
    assert catalog.default == catalog.models()[0].id
    assert catalog.models()[0].provider == "openai"
    assert answers(catalog, "scripted") == ["scripted:scripted"]
    with pytest.raises(ModelUnavailable, match="llama"):
        catalog.candidates("llama")
    assert "openai" not in {model.provider for model in catalog.models() if model.unavailable_reason}


@pytest.mark.parametrize(
    ("variable", "model", "kind"),
    [("anthropic", "claude-sonnet-5-5", AnthropicFake), ("google", "gemini-3.8-flash", GoogleFake)],
)
async def test_a_vendor_s_key_opens_its_models(opened: Open, variable: str, model: str, kind: type[Fake]) -> None:
    fake = kind()
    async with fake.serving():
        fake.play(Say("Hello"), Finish(FinishReason.STOP))
        keys = {f"{variable}_api_key": fake.key, f"{variable}_base_url": fake.address}
        catalog = await opened(**keys, default_model=model)
        assert catalog.default == model
        (candidate,) = catalog.candidates(model)
        assert candidate.provider.name == variable
        assert candidate.model.unavailable_reason is None
        request = GenerationRequest(model, (Turn(Role.USER, "hi"),), 0.7, 16)
        chunks = [chunk async for chunk in candidate.provider.stream(request)]
    assert "Hello" in "".join(chunk.text for chunk in chunks if isinstance(chunk, TextChunk))
    with pytest.raises(ModelUnavailable, match="another"):
        catalog.candidates("another-model")


async def nobody(_: object) -> tuple[()]:
    return ()


@pytest.mark.parametrize(("fallback", "more"), [(("scripted",), ["scripted:scripted"]), (("none",), [])])
async def test_fallbacks_that_are_set_hold(
    opened: Open, monkeypatch: pytest.MonkeyPatch, fallback: tuple[str, ...], more: list[str]
) -> None:
    monkeypatch.setattr("providers.openai.OpenAIProvider._read_models", nobody)
    catalog = await opened(openai_api_key=HIDDEN, model_fallback=fallback)
    assert answers(catalog, "gpt-4o") == ["openai:gpt-4o", *more]


async def test_a_base_url_takes_every_name_and_needs_no_key(opened: Open, fake: OpenAIFake) -> None:
    fake.models = ("llama", "gpt-4o")
    catalog = await opened(openai_base_url=fake.base_url, openai_api_key=fake.key)
    assert catalog.default == "llama"
    assert answers(catalog, "whatever") == ["openai:whatever"]
    assert answers(catalog, "scripted") == ["scripted:scripted"]
    assert answers(await opened(openai_base_url=fake.base_url), "gpt-4o") == ["openai:gpt-4o"]


async def test_a_file_names_servers(opened: Open, fake: OpenAIFake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAB_KEY", fake.key)
    fake.models = ("llama",)
    file = f"""
    [servers.lab]
    base_url = "{fake.base_url}"
    key_variable = "LAB_KEY"
    [servers.shelf]
    base_url = "{fake.base_url}"
    models = ["qwen"]
    """
    catalog = await opened(file, default_model="qwen")
    assert [model.id for model in catalog.models()][:3] == ["lab/llama", "shelf/qwen", "scripted"]
    assert answers(catalog, "llama") == ["lab:lab/llama"]
    assert answers(catalog, catalog.default or "") == ["shelf:shelf/qwen"]


async def test_a_file_s_key_that_is_not_set_is_warned_of(opened: Open, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    file = '[servers.lab]\nbase_url = "http://127.0.0.1:9/v1"\nkey_variable = "LAB_KEY"\nmodels = ["a"]'
    catalog = await opened(file)
    assert catalog.models()[0].unavailable_reason == "Set LAB_KEY to use it"
    assert "LAB_KEY is not set" in caplog.text


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "cannot read"),
        (b"\xff\xfe", "not UTF-8"),
        (b"[servers.a", "table declaration"),
        (b"[servers.a]\nbase_url = 'x'", "servers.a.base_url"),
        (b"#" * (model_providers.MAX_FILE_BYTES + 1), "longer than"),
    ],
)
async def test_a_bad_file_is_one_line(opened: Open, tmp_path: Path, content: bytes | None, words: str) -> None:
    path = tmp_path / "bad.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(StartError, match=words) as caught:
        await opened(models_file=path)
    assert str(caught.value).startswith("MODELS_FILE: ")
    assert "\n" not in str(caught.value)


async def test_servers_that_are_not_there_do_not_hold_up_the_start(opened: Open) -> None:
    catalog = await opened('[servers.lab]\nbase_url = "http://127.0.0.1:9/v1"', openai_base_url="http://127.0.0.1:9/v1")
    assert catalog.default == "scripted"
    assert answers(catalog, "lab/a") == ["lab:lab/a"]
