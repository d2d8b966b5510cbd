"""Settings → the providers of models and their catalogue: the part of the composition root that knows every adapter."""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack

from errors import StartError
from providers.anthropic import AnthropicProvider
from providers.base import Provider
from providers.catalog import Catalog
from providers.google import GoogleProvider
from providers.local import LocalProvider
from providers.named import NamedServer
from providers.openai import OpenAIProvider
from providers.prices import load_list_prices
from providers.scripted import ScriptedProvider
from providers.servers import Server, parse_servers
from providers.shelf import NoSuchModel, find
from providers.supervisor import EmbeddedModel
from providers.vendors import ANTHROPIC, GOOGLE, VENDORS
from providers.weights import EmbeddedWeights
from settings import Settings

logger = logging.getLogger(__name__)

FIRST_LIST_SECONDS = 2.0
"""How long a start waits for the models of servers whose models nobody else knows."""
MAX_FILE_BYTES = 1 << 20


async def open_catalog(settings: Settings, stack: AsyncExitStack) -> Catalog:
    """All the providers that are set up, started; `stack` closes them.

    Raises:
        StartError: one line that names what to set.
    """
    servers = read_servers(settings)
    keys = settings.provider_keys()
    remote: list[Provider] = []
    openai = await _openai(settings, keys.get("OPENAI_API_KEY"), stack)
    remote += [openai] if openai is not None else []
    remote += _vendors(settings, keys, stack)
    remote += await _named(settings, servers, stack)
    if remote:
        await asyncio.to_thread(load_list_prices)
    opened = {provider.name for provider in remote}
    return Catalog(
        [*remote, *await _own(settings, stack)],
        () if settings.fallback is None and remote else settings.fallback,
        default=settings.default_model,
        catch_all=openai if settings.openai_base_url is not None else None,
        missing=[vendor for vendor in VENDORS if vendor.name not in opened],
    )


def read_servers(settings: Settings) -> Sequence[Server]:
    """What MODELS_FILE names; nothing if it is unset.

    Raises:
        StartError: it cannot be read, or says what cannot be.
    """
    path = settings.models_file
    if path is None:
        return ()
    try:
        with path.open("rb") as file:
            text = file.read(MAX_FILE_BYTES + 1)
        if len(text) > MAX_FILE_BYTES:
            raise StartError(f"MODELS_FILE: {path} is longer than {MAX_FILE_BYTES} bytes")
        return parse_servers(text.decode(), settings.variable)
    except OSError as error:
        raise StartError(f"MODELS_FILE: cannot read {path} ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise StartError(f"MODELS_FILE: {path} is not UTF-8") from error


async def _openai(settings: Settings, key: str | None, stack: AsyncExitStack) -> OpenAIProvider | None:
    if key is None and settings.openai_base_url is None:
        return None
    provider = OpenAIProvider(key, settings.openai_base_url, refresh=settings.models_refresh_seconds)
    stack.push_async_callback(provider.aclose)
    await provider.start(0 if settings.openai_base_url is None else FIRST_LIST_SECONDS)
    return provider


def _vendors(settings: Settings, keys: Mapping[str, str], stack: AsyncExitStack) -> Sequence[Provider]:
    opened: list[Provider] = []
    if (key := keys.get(ANTHROPIC.variable)) is not None:
        opened.append(AnthropicProvider(key, settings.anthropic_base_url))
    if (key := keys.get(GOOGLE.variable)) is not None:
        opened.append(GoogleProvider(key, settings.google_base_url))
    for provider in opened:
        stack.push_async_callback(provider.aclose)
    return opened


async def _named(settings: Settings, servers: Sequence[Server], stack: AsyncExitStack) -> Sequence[Provider]:
    named = [NamedServer(server, refresh=settings.models_refresh_seconds) for server in servers]
    for server, provider in zip(servers, named, strict=True):
        if server.wish is not None:
            logger.warning("MODELS_FILE: %s is not set, so the server %s is not used", server.key_variable, server.name)
        stack.push_async_callback(provider.aclose)
    await asyncio.gather(*(provider.start(FIRST_LIST_SECONDS) for provider in named))
    return named


async def _own(settings: Settings, stack: AsyncExitStack) -> Sequence[Provider]:
    """What runs in this server: the embedded model, and the fake."""
    providers: list[Provider] = []
    if settings.embedded_model:
        embedded = EmbeddedModel(
            await _embedded_weights(settings),
            data_dir=settings.data_dir.resolve(),
            models_dir=settings.models_path,
            slots=settings.embedded_slots,
            context=settings.embedded_context,
            fetch=settings.embedded_fetch,
            hub=settings.hf_endpoint,
        )
        await embedded.start()
        stack.push_async_callback(embedded.aclose)
        providers.append(LocalProvider(embedded))
    if settings.scripted_model:
        providers.append(ScriptedProvider())
    for provider in providers:
        stack.push_async_callback(provider.aclose)
    return providers


async def _embedded_weights(settings: Settings) -> EmbeddedWeights:
    try:
        return await asyncio.to_thread(find, settings.local_model, settings.models_path)
    except NoSuchModel as error:
        raise StartError(f"LOCAL_MODEL: {error}") from error
