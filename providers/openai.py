"""OpenAI, and every server that speaks its chat completions, through OpenAI's own SDK.

The SDK signs and sends the request and names its errors. The stream is read by `openai_wire`: the SDK's objects cost
seven times as much, and more in bursts.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

from errors import ContentFiltered, ContextTooLong
from providers.base import Chunk, GenerationRequest, ModelInfo, Patience, no_thoughts
from providers.bodies import Response
from providers.failures import Garbled, Refused, provider_errors, refusal
from providers.listing import ModelList
from providers.openai_body import Quirk, another_way, completion_body, first_guess, room_for_thought
from providers.openai_models import MAX_LIST_BYTES, chat_models, listed_models
from providers.openai_wire import read_completion, refused_by
from providers.prices import context_window, list_price
from providers.sdk import BoundedErrors, imported, read_bounded
from providers.sse import NOT_AN_ANSWER
from providers.vendors import OPENAI

if TYPE_CHECKING:
    from openai import AsyncOpenAI

MAX_REMEMBERED = 1_000
"""Models whose quirks are remembered: their names come from users."""
NO_KEY = "none"
"""What is sent to servers that need no key: the SDK insists on one."""
PATIENCE = Patience()


class OpenAIProvider:
    """Answers from `base_url`, or from OpenAI itself. `refresh`: seconds after which its list of models is read again.

    With a `base_url` every name is a model of this provider: nobody knows which ones are there.
    """

    def __init__(
        self,
        api_key: str | None,
        base_url: str | None = None,
        *,
        name: str = OPENAI.name,
        patience: Patience = PATIENCE,
        refresh: float = 3600.0,
    ) -> None:
        self.name = name
        self._api_key = api_key
        self._base_url = base_url
        self._patience = patience
        self._source = base_url or OPENAI.name
        self._list = ModelList(name, self._read_models, refresh)
        self._quirks: dict[str, frozenset[Quirk]] = {}
        self._takes_usage = base_url is None
        self._client: AsyncOpenAI | None = None

    async def start(self, patience: float = 0.0) -> None:
        """Begin to read the list of models, and wait so many seconds for it."""
        self._list.start()
        with suppress(TimeoutError):
            async with asyncio.timeout(patience):
                await self._list.tried()

    def models(self) -> Sequence[ModelInfo]:
        if self._base_url is not None or self._list.models:
            return self._list.models
        return [self._info(model) for model in OPENAI.known]

    def find(self, model: str) -> ModelInfo | None:
        listed = next((info for info in self._list.models if info.id == model), None)
        if listed is None and self._base_url is None and not OPENAI.has(model):
            return None
        return self._info(model, listed)

    def _info(self, model: str, listed: ModelInfo | None = None) -> ModelInfo:
        window = None if listed is None else listed.context_window
        return ModelInfo(
            model,
            self.name,
            window or context_window(self._source, model),
            self._list.unavailable,
            list_price(self._source, model),
            room_for_thought if Quirk.OWN_TEMPERATURE in self._known_quirks(model) else no_thoughts,
        )

    async def stream(self, request: GenerationRequest) -> AsyncGenerator[Chunk, None]:
        deadline = asyncio.get_running_loop().time() + self._patience.first
        with provider_errors():
            async with (
                self._asked(request, deadline) as response,
                aclosing(read_completion(response, deadline, self._patience)) as chunks,
            ):
                async for chunk in chunks:
                    yield chunk

    @asynccontextmanager
    async def _asked(self, request: GenerationRequest, deadline: float) -> AsyncIterator[Response]:
        """The answer's head; asked for in other ways while it is only the way that is refused."""
        known = quirks = self._known_quirks(request.model)
        while True:
            try:
                async with asyncio.timeout_at(deadline):
                    response = await self._send(completion_body(request, quirks))
            except Refused as refused:
                other = self._another_way(refused, quirks, known)
                if other is None:
                    raise
                quirks = other
                continue
            break
        try:
            self._remember(request.model, quirks)
            yield response.http_response
        finally:
            await response.close()

    def _known_quirks(self, model: str) -> frozenset[Quirk]:
        return self._quirks.get(model, self._first_guess(model))

    def _first_guess(self, model: str) -> frozenset[Quirk]:
        return first_guess(model, of_openai=self._base_url is None)

    def _another_way(
        self, refused: Refused, tried: frozenset[Quirk], known: frozenset[Quirk]
    ) -> frozenset[Quirk] | None:
        if refused.status not in (400, 422) or isinstance(refusal(refused), ContextTooLong | ContentFiltered):
            return None
        return another_way(refused.words, tried, known, takes_usage=self._takes_usage)

    def _remember(self, model: str, quirks: frozenset[Quirk]) -> None:
        self._takes_usage = self._takes_usage or Quirk.NO_USAGE not in quirks
        if quirks == self._first_guess(model):
            return
        if len(self._quirks) >= MAX_REMEMBERED:
            self._quirks.clear()
        self._quirks[model] = quirks

    async def _send(self, body: dict[str, Any]) -> Any:
        """The SDK's response, its body still to come. Raises Refused and the errors of the HTTP library."""
        client = await self._connected()
        return await _sdk_errors(client.chat.completions.with_streaming_response.create(**body).__aenter__())

    async def _read_models(self) -> Sequence[ModelInfo]:
        client = await self._connected()
        response = await _sdk_errors(client.models.with_streaming_response.list().__aenter__())
        try:
            body = await read_bounded(response.http_response, MAX_LIST_BYTES)
        finally:
            await response.close()
        listed = listed_models(body, self.name)
        shown = chat_models(listed) if self._base_url is None else listed
        return [self._info(model.id, model) for model in shown]

    async def _connected(self) -> "AsyncOpenAI":
        if self._client is None:
            sdk = await imported("openai")
            if self._client is None:
                self._client = sdk.AsyncOpenAI(
                    api_key=self._api_key or NO_KEY,
                    base_url=self._base_url,
                    max_retries=0,
                    http_client=BoundedErrors.connecting(self._patience.connect),
                )
                if self._base_url is not None:
                    # The SDK takes them from OpenAI's variables, and they are no business of other servers.
                    self._client.organization = self._client.project = None
        return self._client

    async def aclose(self) -> None:
        await self._list.aclose()
        if self._client is not None:
            await self._client.close()


async def _sdk_errors(entering: Any) -> Any:
    import openai  # noqa: PLC0415  # heavy; it is there by now

    try:
        return await entering
    except openai.APIStatusError as error:
        refused = refused_by(error.body, error.status_code)
        refused.retry_after = error.response.headers.get("retry-after")
        raise refused from error
    except openai.APIConnectionError as error:
        raise error.__cause__ or ConnectionError from error
    except openai.OpenAIError as error:
        raise Garbled(NOT_AN_ANSWER) from error
