"""Anthropic through its own SDK, which signs and sends the request and names its errors.

The stream is read by `anthropic_wire`.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import httpx2

from providers.answers import read_answer
from providers.anthropic_wire import MessageReader, message_request, refused_by, thinks
from providers.base import Chunk, GenerationRequest, ModelInfo, Patience, no_thoughts
from providers.failures import provider_errors
from providers.sdk import BoundedErrors, imported
from providers.turns import room_to_think
from providers.vendors import ANTHROPIC

if TYPE_CHECKING:
    from anthropic import AsyncAnthropic

BASE_URL = "https://api.anthropic.com"


class AnthropicProvider:
    """Claude, from `base_url` or from Anthropic itself."""

    name = ANTHROPIC.name

    def __init__(self, api_key: str, base_url: str | None = None, *, patience: Patience = Patience()) -> None:  # noqa: B008
        self._api_key = api_key
        self._base_url = base_url or BASE_URL
        self._patience = patience
        self._client: AsyncAnthropic | None = None

    def models(self) -> Sequence[ModelInfo]:
        return [ANTHROPIC.sold(model) for model in ANTHROPIC.known]

    def find(self, model: str) -> ModelInfo | None:
        if not ANTHROPIC.has(model):
            return None
        return replace(ANTHROPIC.sold(model), thoughts=room_to_think if thinks(model) else no_thoughts)

    async def stream(self, request: GenerationRequest) -> AsyncGenerator[Chunk, None]:
        deadline = asyncio.get_running_loop().time() + self._patience.first
        with provider_errors():
            async with (
                self._sent(request, deadline) as response,
                aclosing(read_answer(response, MessageReader(), deadline, self._patience)) as chunks,
            ):
                async for chunk in chunks:
                    yield chunk

    @asynccontextmanager
    async def _sent(self, request: GenerationRequest, deadline: float) -> AsyncIterator[httpx2.Response]:
        body, headers = message_request(request)
        client = await self._connected()
        async with asyncio.timeout_at(deadline):
            response = await _posted(client, body, headers)
        try:
            yield response
        finally:
            await response.aclose()

    async def _connected(self) -> "AsyncAnthropic":
        if self._client is None:
            sdk = await imported("anthropic")
            if self._client is None:
                self._client = sdk.AsyncAnthropic(
                    api_key=self._api_key,
                    base_url=self._base_url,
                    max_retries=0,
                    open_telemetry=False,
                    http_client=BoundedErrors.connecting(self._patience.connect),
                )
        return self._client

    async def aclose(self) -> None:
        if self._client is not None:
            await self._client.close()


async def _posted(client: "AsyncAnthropic", body: object, headers: Mapping[str, str]) -> httpx2.Response:
    """`messages.create` would do more than that: it warns of models whose end is near, on stderr, at every request."""
    import anthropic  # noqa: PLC0415  # heavy; it is there by now

    try:
        response: Any = await client.post(
            "/v1/messages",
            body=body,
            options={"headers": headers},
            cast_to=httpx2.Response,
            stream=True,
            stream_cls=anthropic.AsyncStream[object],
        )
    except anthropic.APIStatusError as error:
        refused = refused_by(error.body, error.status_code)
        refused.retry_after = error.response.headers.get("retry-after")
        raise refused from error
    except anthropic.APIConnectionError as error:
        raise error.__cause__ or error from error
    assert isinstance(response, httpx2.Response)
    return response
