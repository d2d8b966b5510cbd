"""The list of models that a server gives itself: read in the background, again and again, and never waited for."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

import httpx
import httpx2

from errors import ProviderAuth, ProviderError
from providers.base import ModelInfo
from providers.failures import provider_errors

logger = logging.getLogger(__name__)

READ_SECONDS = 30.0
RETRY_SECONDS = 30.0
"""After a failure, if the list is not read more often anyway: a server that was only starting is soon seen."""
MAX_MODELS = 1_000
MAX_NAME = 200

Read = Callable[[], Awaitable[Sequence[ModelInfo]]]


class ModelList:
    """`read` gives the list, or raises what `provider_errors` knows; `server` names it in the log.

    A list that cannot be read leaves the last one in place. If the key was refused or nobody is there, `models` say so.
    """

    def __init__(self, server: str, read: Read, every: float) -> None:
        self.models: tuple[ModelInfo, ...] = ()
        self.unavailable: str | None = None
        self._server = server
        self._read = read
        self._every = every
        self._told: str | None = None
        self._tried = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._keep_reading(), name=f"models of {self._server}")

    async def tried(self) -> None:
        """Returns when the list has been read, or could not be, for the first time."""
        await self._tried.wait()

    async def refresh(self) -> bool:
        """Read the list now. Whether it could be."""
        try:
            with provider_errors():
                async with asyncio.timeout(READ_SECONDS):
                    listed = await self._read()
        except ProviderError as error:
            self._failed(error)
            return False
        except Exception:
            # Nothing that a server sends may end the reading for good.
            logger.exception("the list of models of %s could not be read", self._server)
            return False
        self.unavailable = self._told = None
        named: dict[str, ModelInfo] = {}
        for model in listed:
            if _is_name(model.id):
                named.setdefault(model.id, model)
        self.models = tuple(named.values())[:MAX_MODELS]
        return True

    def _failed(self, error: ProviderError) -> None:
        gone = isinstance(error.__cause__, httpx.ConnectError | httpx2.ConnectError)
        self.unavailable = error.message if gone or isinstance(error, ProviderAuth) else None
        self.models = tuple(replace(model, unavailable_reason=self.unavailable) for model in self.models)
        if error.message != self._told:
            logger.warning("the list of models of %s could not be read: %s", self._server, error.message)
            self._told = error.message

    async def _keep_reading(self) -> None:
        while True:
            done = await self.refresh()
            self._tried.set()
            await asyncio.sleep(self._every if done else min(self._every, RETRY_SECONDS))

    async def aclose(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])


def _is_name(name: str) -> bool:
    return 0 < len(name) <= MAX_NAME and name.isprintable()
