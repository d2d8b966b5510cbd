"""What the adapters on the vendors' SDKs share: an HTTP client for the SDK to use, with bounds of ours."""

import asyncio
import importlib
import logging
from types import ModuleType
from typing import Any, Self

import httpx2

from providers.bodies import MAX_ERROR_BODY, beginning_of
from providers.failures import Garbled
from providers.network import Network
from providers.sse import NOT_AN_ANSWER

CONNECTIONS = httpx2.Limits(max_connections=None, max_keepalive_connections=32)
"""As many as there are runs, which are bounded elsewhere: httpx's own 100 would leave the next ones waiting."""


async def imported(name: str) -> ModuleType:
    """An SDK, imported in a thread, since that takes most of a second or more; and kept from logging whole prompts, as
    some do for DEBUG."""
    sdk = await asyncio.to_thread(importlib.import_module, name)
    logger = logging.getLogger(name)
    logger.setLevel(max(logger.getEffectiveLevel(), logging.INFO))
    return sdk


class Client(httpx2.AsyncClient):
    """On our own network, through a proxy too. Should the library's private parts move, it is on the library's: every
    answer is the same, and dearer."""

    def _init_transport(self, *args: Any, **options: Any) -> httpx2.AsyncBaseTransport:
        return _on_our_network(super()._init_transport(*args, **options))

    def _init_proxy_transport(self, *args: Any, **options: Any) -> httpx2.AsyncBaseTransport:
        return _on_our_network(super()._init_proxy_transport(*args, **options))


class BoundedErrors(Client):
    """Cuts the body of an error off at MAX_ERROR_BODY: the SDKs read it to an end that a broken proxy never sends."""

    @classmethod
    def connecting(cls, seconds: float) -> Self:
        """A client that waits so long for a connection and for the rest as long as its user does."""
        return cls(timeout=httpx2.Timeout(None, connect=seconds), limits=CONNECTIONS, follow_redirects=True)

    async def send(self, request: httpx2.Request, *, stream: bool = False, **options: Any) -> httpx2.Response:
        response = await super().send(request, stream=True, **options)
        try:
            if response.is_error:
                return await _cut(response)
            if not stream:
                await response.aread()
        except BaseException:
            await response.aclose()
            raise
        return response


def _on_our_network(transport: httpx2.AsyncBaseTransport) -> httpx2.AsyncBaseTransport:
    pool = getattr(transport, "_pool", None)
    if pool is not None and hasattr(pool, "_network_backend"):
        pool._network_backend = Network()
    return transport


async def read_bounded(response: httpx2.Response, limit: int) -> bytes:
    """The body. Raises Garbled if it is longer than `limit` bytes."""
    body = await beginning_of(response, limit)
    if len(body) > limit:
        raise Garbled(NOT_AN_ANSWER)
    return body


async def _cut(response: httpx2.Response) -> httpx2.Response:
    body = await beginning_of(response, MAX_ERROR_BODY)
    await response.aclose()
    headers = [item for item in response.headers.multi_items() if item[0].lower() not in _OF_THE_BODY]
    return httpx2.Response(
        response.status_code, headers=headers, content=body[:MAX_ERROR_BODY], request=response.request
    )


_OF_THE_BODY = {"content-encoding", "content-length", "transfer-encoding"}
