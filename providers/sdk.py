"""What the adapters on the vendors' SDKs share: an HTTP client for the SDK to use, with bounds of ours."""

import asyncio
import importlib
import logging
from types import ModuleType
from typing import Any, Self

import anyio
import httpcore2
import httpx2
from httpcore2._backends.anyio import AnyIOStream

from providers.failures import Garbled
from providers.sse import NOT_AN_ANSWER

MAX_ERROR_BODY = 1 << 16  # bytes
CONNECTIONS = httpx2.Limits(max_connections=None, max_keepalive_connections=32)
"""As many as there are runs, which are bounded elsewhere: httpx's own 100 would leave the next ones waiting."""


async def imported(name: str) -> ModuleType:
    """An SDK, imported in a thread, since that takes most of a second or more; and kept from logging whole prompts, as
    some do for DEBUG."""
    sdk = await asyncio.to_thread(importlib.import_module, name)
    logger = logging.getLogger(name)
    logger.setLevel(max(logger.getEffectiveLevel(), logging.INFO))
    return sdk


class BoundedErrors(httpx2.AsyncClient):
    """Cuts the body of an error off at MAX_ERROR_BODY: the SDKs read it to an end that a broken proxy never sends."""

    @classmethod
    def connecting(cls, seconds: float) -> Self:
        """A client that waits so long for a connection and for the rest as long as its user does."""
        return cls(timeout=httpx2.Timeout(None, connect=seconds), limits=CONNECTIONS, follow_redirects=True)

    def _init_transport(self, *args: Any, **options: Any) -> httpx2.AsyncBaseTransport:
        transport = super()._init_transport(*args, **options)
        if isinstance(transport, httpx2.AsyncHTTPTransport):
            transport._pool._network_backend = _Backend()
        return transport

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


async def read_bounded(response: httpx2.Response, limit: int) -> bytes:
    """The body. Raises Garbled if it is longer than `limit` bytes."""
    body = b""
    async for data in response.aiter_bytes():
        body += data
        if len(body) > limit:
            raise Garbled(NOT_AN_ANSWER)
    return body


async def _cut(response: httpx2.Response) -> httpx2.Response:
    body = b""
    async for data in response.aiter_bytes():
        body += data
        if len(body) > MAX_ERROR_BODY:
            break
    await response.aclose()
    headers = [item for item in response.headers.multi_items() if item[0].lower() not in _OF_THE_BODY]
    return httpx2.Response(
        response.status_code, headers=headers, content=body[:MAX_ERROR_BODY], request=response.request
    )


_OF_THE_BODY = {"content-encoding", "content-length", "transfer-encoding"}


class _Stream(AnyIOStream):
    """Reads without a cancel scope where no time limit is set: the limit stands further out. Of what a chunk costs that
    comes as a read of its own, a scope is a fifth."""

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109  # httpcore's
        if timeout is not None:
            return await super().read(max_bytes, timeout)
        try:
            return await self._stream.receive(max_bytes)
        except anyio.EndOfStream:
            return b""
        except (anyio.BrokenResourceError, anyio.ClosedResourceError) as exc:
            raise httpcore2.ReadError(exc) from exc

    async def start_tls(self, *args: Any, **options: Any) -> httpcore2.AsyncNetworkStream:
        return _of_ours(await super().start_tls(*args, **options))


class _Backend(httpcore2.AnyIOBackend):
    async def connect_tcp(self, *args: Any, **options: Any) -> httpcore2.AsyncNetworkStream:
        return _of_ours(await super().connect_tcp(*args, **options))


def _of_ours(stream: httpcore2.AsyncNetworkStream) -> httpcore2.AsyncNetworkStream:
    return _Stream(stream._stream) if isinstance(stream, AnyIOStream) else stream
