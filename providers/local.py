"""The embedded model as a provider: what `python app.py` answers with when nothing is configured."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

import httpx

from errors import ModelUnavailable, ProviderError
from providers.base import Chunk, GenerationRequest, ModelInfo, Patience
from providers.loopback import loopback_client
from providers.openai_body import completion_body
from providers.openai_wire import stream_completion
from providers.prices import FREE
from providers.supervisor import EmbeddedModel, Endpoint

# Four long prompts at once are read at 20 tokens/s each: 3,500 tokens take three minutes.
PATIENCE = Patience(connect=5.0, first=300.0, between=60.0)
RETRY = 0.2  # seconds
CUT = (httpx.NetworkError, httpx.RemoteProtocolError)
# llama.cpp finds out that a client has gone when it writes to it, and while it reads a prompt it writes only progress.
# Cancelled in a prompt of 3,500 tokens, the slot was idle after 0.3–1 s with this, and after 40 s without.
SEE_US_LEAVE = {"return_progress": True}

# A model this small says one sentence for ever now and then: the DRY sampler ended that in all of our prompts, where a
# repetition penalty drove it into other languages.
NO_LOOPS = {"dry_multiplier": 0.8}


class LocalProvider:
    """Answers from an `EmbeddedModel` that somebody else starts and closes.

    `load_patience`: seconds a request waits for a model that is only loading.
    """

    name = "local"

    def __init__(self, model: EmbeddedModel, *, load_patience: float = 10.0, patience: Patience = PATIENCE) -> None:
        self._model = model
        self._load_patience = load_patience
        self._patience = patience
        self._client = loopback_client()

    def models(self) -> Sequence[ModelInfo]:
        status = self._model.status
        return (ModelInfo(self._model.weights.name, self.name, self._model.context, status.reason, FREE),)

    def find(self, model: str) -> ModelInfo | None:
        return next((info for info in self.models() if info.id == model), None)

    async def stream(self, request: GenerationRequest) -> AsyncGenerator[Chunk, None]:
        """Yields what the child makes. A child that dies before the first chunk is waited for, as one that loads is.

        Raises ModelUnavailable with the reason, and other ProviderErrors.
        """
        now = asyncio.get_running_loop().time
        deadline = now() + self._load_patience
        begun = cut = False
        while True:
            endpoint = await self._model.wait_ready(max(deadline - now(), 0))
            if endpoint is None:
                raise ModelUnavailable(self._model.status.reason)
            try:
                async with aclosing(self._stream(endpoint, request)) as chunks:
                    async for chunk in chunks:
                        begun = True
                        yield chunk
                return
            except ProviderError as exc:
                refused = isinstance(exc.__cause__, httpx.ConnectError)
                if refused and now() > deadline:
                    raise ModelUnavailable from exc
                # Only once: a request that kills the child must not do so again and again.
                if cut and not refused and not begun and isinstance(exc.__cause__, CUT):
                    raise ModelUnavailable("The model stopped twice over this; try again later") from exc
                if not refused and (begun or not isinstance(exc.__cause__, CUT)):
                    raise
                cut = cut or not refused
            await asyncio.sleep(RETRY)

    def _stream(self, endpoint: Endpoint, request: GenerationRequest) -> AsyncGenerator[Chunk, None]:
        return stream_completion(
            self._client,
            f"{endpoint.base_url}/v1/chat/completions",
            completion_body(request) | SEE_US_LEAVE | NO_LOOPS | {"logit_bias": self._model.weights.bias},
            {"Authorization": f"Bearer {endpoint.secret}"},
            self._patience,
        )

    async def aclose(self) -> None:
        await self._client.aclose()
