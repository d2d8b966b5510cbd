"""The real embedded model, fetched once into the checkout's cache, and other server processes of its directory."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import pytest
import uvloop

from providers.fetch import fetch
from providers.local import LocalProvider
from providers.supervisor import EmbeddedModel
from providers.weights import CATALOGUE, EmbeddedWeights, WeightsMissing, check
from tests.providers.member import Member, member
from tests.providers.peer import certificate
from tests.providers.wheels import index, no_network

CACHE = Path(__file__).resolve().parents[2] / ".cache" / "models"

LOOPS: Mapping[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}
ON_BOTH_LOOPS = {"test_bodies", "test_network", "test_openai", "test_watchdog"}
"""What stands on the loops' own transports and timers: the server runs on uvloop where there is one."""

StartMember = Callable[[], Member]


def pytest_asyncio_loop_factories(
    config: pytest.Config,
    item: pytest.Item,
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return LOOPS if item.path.stem in ON_BOTH_LOOPS else {"asyncio": asyncio.new_event_loop}


@pytest.fixture(scope="session")
def pem(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The certificate of `localhost` and its key."""
    return certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="session")
def weights() -> EmbeddedWeights:
    return CATALOGUE["smollm2-135m-instruct"]


@pytest.fixture(scope="session")
def model_dir(weights: EmbeddedWeights) -> Path:
    """A directory with the model's file, fetched the way a first start does."""
    try:
        check(weights, CACHE)
    except WeightsMissing:
        fetch(weights, CACHE, lambda *_: None, threading.Event())
        check(weights, CACHE)
    return CACHE


@pytest.fixture(scope="session")
def living_dir(tmp_path_factory: pytest.TempPathFactory, model_dir: Path) -> Iterator[Path]:
    """A data directory where another process keeps a child ready, for tests that only talk to it."""
    data_dir = tmp_path_factory.mktemp("living")
    with member(data_dir, model_dir) as owner:
        owner.wait(lambda said: said["ready"])
        yield data_dir


@pytest.fixture
async def provider(living_dir: Path, model_dir: Path, weights: EmbeddedWeights) -> AsyncIterator[LocalProvider]:
    """A provider over a living child."""
    model = EmbeddedModel(weights, data_dir=living_dir, models_dir=model_dir, fetch=False)
    local = LocalProvider(model)
    await model.start()
    assert await model.wait_ready(30)
    yield local
    await local.aclose()
    await model.aclose()


@pytest.fixture
def start_member(tmp_path: Path, model_dir: Path) -> Iterator[StartMember]:
    """Start one more server process on this test's data directory, `tmp_path`."""
    with ExitStack() as stack:
        yield lambda: stack.enter_context(member(tmp_path, model_dir))


__all__ = ["index", "no_network"]
