"""OpenAI, and every server that speaks its chat completions, through OpenAI's own SDK.

The SDK signs and sends the request and names its errors; the stream is read by `openai_wire`, since the SDK's objects
cost 108 µs a chunk.
"""

import asyncio
import importlib
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING, Any

from providers.answers import Response
from providers.base import Chunk, GenerationRequest, ModelInfo, Patience
from providers.failures import provider_errors
from providers.openai_wire import completion_body, read_completion, refused_by
from providers.sdk import BoundedErrors

if TYPE_CHECKING:
    from openai import AsyncOpenAI


class OpenAIProvider:
    """Answers from `base_url`, or from OpenAI itself."""

    name = "openai"

    def __init__(self, api_key: str, base_url: str | None = None, *, patience: Patience = Patience()) -> None:  # noqa: B008
        self._api_key = api_key
        self._base_url = base_url
        self._patience = patience
        self._client: AsyncOpenAI | None = None

    def models(self) -> Sequence[ModelInfo]:
        return ()

    def find(self, model: str) -> ModelInfo | None:
        return ModelInfo(model, self.name, None)

    async def stream(self, request: GenerationRequest) -> AsyncGenerator[Chunk, None]:
        deadline = asyncio.get_running_loop().time() + self._patience.first
        with provider_errors():
            async with (
                self._sent(request, deadline) as response,
                aclosing(read_completion(response, deadline, self._patience)) as chunks,
            ):
                async for chunk in chunks:
                    yield chunk

    @asynccontextmanager
    async def _sent(self, request: GenerationRequest, deadline: float) -> AsyncIterator[Response]:
        client = await self._connected()
        body: dict[str, Any] = completion_body(request)
        sending = client.chat.completions.with_streaming_response.create(**body)
        async with asyncio.timeout_at(deadline):
            response = await _begun(sending.__aenter__())
        try:
            yield response.http_response
        finally:
            await response.close()

    async def _connected(self) -> "AsyncOpenAI":
        if self._client is None:
            # In a thread: the SDK takes most of a second to import.
            sdk = await asyncio.to_thread(importlib.import_module, "openai")
            if self._client is None:
                self._client = sdk.AsyncOpenAI(
                    api_key=self._api_key,
                    base_url=self._base_url,
                    max_retries=0,
                    http_client=BoundedErrors(timeout=None, follow_redirects=True),
                )
        return self._client

    async def aclose(self) -> None:
        if self._client is not None:
            await self._client.close()


async def _begun(entering: Any) -> Any:
    import openai  # noqa: PLC0415  # heavy; it is there by now

    try:
        return await entering
    except openai.APIStatusError as error:
        refused = refused_by(error.body, error.status_code)
        refused.retry_after = error.response.headers.get("retry-after")
        raise refused from error
    except openai.APIConnectionError as error:
        raise error.__cause__ or error from error
