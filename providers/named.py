"""A server that MODELS_FILE names, as a provider: its models carry its name."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace

from errors import ModelUnavailable
from providers.base import Chunk, GenerationRequest, ModelInfo, Patience
from providers.openai import PATIENCE, OpenAIProvider
from providers.servers import Server, ServerModel


class NamedServer:
    """`name/model` is any model of the server; `model` alone only one that it is known to have."""

    def __init__(self, server: Server, *, patience: Patience = PATIENCE, refresh: float = 3600.0) -> None:
        self.name = server.name
        self._prefix = f"{server.name}/"
        self._wish = server.wish
        self._told = {model.name: model for model in server.models}
        self._inner = OpenAIProvider(server.key, server.base_url, name=server.name, patience=patience, refresh=refresh)

    async def start(self, patience: float = 0.0) -> None:
        """As `OpenAIProvider.start`. What the file lists is not asked of the server."""
        if not self._told and self._wish is None:
            await self._inner.start(patience)

    def models(self) -> Sequence[ModelInfo]:
        listed = [self._info(name) for name in self._told] if self._told else self._inner.models()
        return [self._prefixed(model) for model in listed]

    def find(self, model: str) -> ModelInfo | None:
        if model.startswith(self._prefix):
            return self._prefixed(self._info(model.removeprefix(self._prefix)))
        if model in self._told or any(listed.id == model for listed in self._inner.models()):
            return self._prefixed(self._info(model))
        return None

    def _info(self, name: str) -> ModelInfo:
        info, told = self._inner.find(name), self._told.get(name)
        assert info is not None, "a server with an address takes every name"
        return info if told is None else _with(info, told)

    def _prefixed(self, model: ModelInfo) -> ModelInfo:
        return replace(model, id=self._prefix + model.id, unavailable_reason=self._wish or model.unavailable_reason)

    async def stream(self, request: GenerationRequest) -> AsyncGenerator[Chunk, None]:
        if self._wish is not None:
            raise ModelUnavailable(self._wish)
        own = replace(request, model=request.model.removeprefix(self._prefix))
        async with aclosing(self._inner.stream(own)) as chunks:
            async for chunk in chunks:
                yield chunk

    async def aclose(self) -> None:
        await self._inner.aclose()


def _with(info: ModelInfo, told: ServerModel) -> ModelInfo:
    """What the file says goes before what anyone else knows."""
    return replace(info, context_window=told.context_window or info.context_window, price=told.price or info.price)
