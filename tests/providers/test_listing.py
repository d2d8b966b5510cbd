import asyncio
import logging
from collections.abc import AsyncIterator, Sequence

import httpx2
import pytest

from providers import listing
from providers.base import ModelInfo
from providers.failures import Garbled, Refused
from providers.listing import MAX_MODELS, ModelList
from tests.waiting import until

SECONDS = 5


def models(*names: str) -> list[ModelInfo]:
    return [ModelInfo(name, "s", None) for name in names]


class Shelf:
    """A list that can be changed, or break."""

    def __init__(self, *names: str) -> None:
        self.names = names
        self.failure: Exception | None = None
        self.reads = 0

    async def read(self) -> Sequence[ModelInfo]:
        self.reads += 1
        if self.failure is not None:
            raise self.failure
        return models(*self.names)


@pytest.fixture
def shelf() -> Shelf:
    return Shelf("a", "b")


@pytest.fixture
async def fresh(shelf: Shelf) -> AsyncIterator[ModelList]:
    kept = ModelList("s", shelf.read, 0.01)
    yield kept
    await kept.aclose()


async def test_it_is_read_at_the_start_and_again_and_again(shelf: Shelf, fresh: ModelList) -> None:
    assert list(fresh.models) == []
    fresh.start()
    await asyncio.wait_for(fresh.tried(), SECONDS)
    assert [model.id for model in fresh.models] == ["a", "b"]
    shelf.names = ("c",)
    await until(lambda: fresh.models == tuple(models("c")))


REFUSED = Refused(401, "who are you")
NOBODY = httpx2.ConnectError("refused")


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        (REFUSED, "refused the server's key"),
        (NOBODY, "could not be reached"),
        (Garbled("That is no list"), None),
        (TimeoutError(), None),
        (Refused(500), None),
        (Refused(404), None),
        (RuntimeError("a mistake of ours"), None),
    ],
    ids=lambda value: type(value).__name__,
)
async def test_a_failure_keeps_the_last_list_and_says_so_once(
    shelf: Shelf, fresh: ModelList, failure: Exception, reason: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    assert await fresh.refresh()
    shelf.failure = failure
    assert not await fresh.refresh()
    assert not await fresh.refresh()
    assert [model.id for model in fresh.models] == ["a", "b"]
    for model in fresh.models:
        assert (model.unavailable_reason is None) == (reason is None)
        assert (reason or "") in (model.unavailable_reason or "")
    if not isinstance(failure, RuntimeError):
        assert len(caplog.records) == 1
        assert "who are you" not in caplog.text
    shelf.failure = None
    assert await fresh.refresh()
    assert fresh.unavailable is None
    assert [model.unavailable_reason for model in fresh.models] == [None, None]


async def test_a_failure_does_not_end_the_reading(
    shelf: Shelf, fresh: ModelList, caplog: pytest.LogCaptureFixture
) -> None:
    shelf.failure = RuntimeError("a mistake of ours")
    fresh.start()
    await until(lambda: shelf.reads > 3)
    shelf.failure = None
    await until(lambda: fresh.models)


async def test_a_server_that_does_not_answer_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "READ_SECONDS", 0.05)

    async def read() -> Sequence[ModelInfo]:
        await asyncio.Event().wait()
        return ()

    assert not await asyncio.wait_for(ModelList("s", read, 1).refresh(), SECONDS)


async def test_a_list_has_bounds(shelf: Shelf, fresh: ModelList) -> None:
    shelf.names = ("", "x" * 201, "a\nb", *(f"m{n}" for n in range(MAX_MODELS + 5)))
    assert await fresh.refresh()
    assert [model.id for model in fresh.models] == [f"m{n}" for n in range(MAX_MODELS)]


async def test_no_name_is_there_twice(shelf: Shelf, fresh: ModelList) -> None:
    """Why: clients keep models by their ids."""
    shelf.names = ("b", "a", "b", "c", "a")
    assert await fresh.refresh()
    assert [model.id for model in fresh.models] == ["b", "a", "c"]


async def test_one_that_was_never_started_can_be_closed(fresh: ModelList, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    await fresh.aclose()
    assert caplog.records == []
