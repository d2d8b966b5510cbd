"""One process, one embedded model: every way in which it cannot answer is one line, for the user and for the log."""

import asyncio
import logging
import shutil
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from errors import ModelUnavailable
from providers.base import GenerationRequest, Role, Turn
from providers.local import LocalProvider
from providers.rendezvous import Rendezvous
from providers.supervisor import EmbeddedModel, Status
from providers.weights import CATALOGUE, EmbeddedWeights
from tests.providers.hub import SOURCE, Manner, serving
from tests.providers.wheels import CONTENT, Index

REQUEST = GenerationRequest("any", (Turn(Role.USER, "Hello"),), 0.0, 5)


@asynccontextmanager
async def running(
    weights: EmbeddedWeights, data_dir: Path, models: Path, *, fetch: bool = True
) -> AsyncIterator[EmbeddedModel]:
    model = EmbeddedModel(weights, data_dir=data_dir, models_dir=models, fetch=fetch)
    start = time.monotonic()
    await model.start()
    assert time.monotonic() - start < 0.05
    try:
        yield model
    finally:
        await model.aclose()


async def wait_for(model: EmbeddedModel, wish: Callable[[Status], bool], seconds: float = 20) -> Status:
    async with asyncio.timeout(seconds):
        while not wish(model.status):
            await asyncio.sleep(0.02)
    return model.status


def failed(status: Status) -> bool:
    return status.endpoint is None and not status.passing and "being fetched" not in (status.reason or "")


async def refusal(model: EmbeddedModel) -> str:
    provider = LocalProvider(model, load_patience=0)
    with pytest.raises(ModelUnavailable) as caught:
        await anext(provider.stream(REQUEST))
    assert provider.models()[0].unavailable_reason == caught.value.message
    await provider.aclose()
    return caught.value.message


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


async def test_a_missing_file_that_may_not_be_fetched(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    weights = CATALOGUE["smollm2-135m-instruct"]
    async with running(weights, tmp_path, tmp_path / "models", fetch=False) as model:
        await wait_for(model, failed)
        assert await refusal(model) == f"The model file {weights.file} is missing"
    [line] = warnings(caplog)
    assert f"Put it in {tmp_path / 'models'}" in line


async def test_a_damaged_file(tmp_path: Path, model_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    weights = CATALOGUE["smollm2-135m-instruct"]
    path = Path(shutil.copy(model_dir / weights.file, tmp_path))
    with path.open("rb+") as file:
        file.seek(50_000_000)
        file.write(b"damage")
    async with running(weights, tmp_path / "data", tmp_path) as model:
        await wait_for(model, failed)
        message = await refusal(model)
        assert message.startswith(f"The model file {weights.file} is damaged (SHA-256 ")
        shutil.copy(model_dir / weights.file, tmp_path / "whole")
        (tmp_path / "whole").replace(path)
        assert await model.wait_ready(0) is None
        assert (await wait_for(model, lambda status: status.endpoint is not None)).reason is None
    assert len(warnings(caplog)) == 1


async def test_no_network(tmp_path: Path, no_network: None, caplog: pytest.LogCaptureFixture) -> None:
    async with running(CATALOGUE["smollm2-135m-instruct"], tmp_path, tmp_path / "models") as model:
        await wait_for(model, lambda status: "being fetched (0%)" in (status.reason or ""))
        assert "being fetched" in await refusal(model)
        await wait_for(model, failed)
        assert (await refusal(model)).startswith("The embedded model could not be fetched: no network")
        second = EmbeddedModel(model.weights, data_dir=tmp_path, models_dir=tmp_path / "models")
        await second.start()
        await wait_for(second, failed)
        assert second.status.reason == model.status.reason
        await second.aclose()
    assert len(warnings(caplog)) == 1


async def test_a_file_that_no_child_can_load(tmp_path: Path, index: Index, caplog: pytest.LogCaptureFixture) -> None:
    """The fetch works; what it brings is not a model. The child says so in its log and ends; nothing crashes."""
    async with running(index.add(), tmp_path / "data", tmp_path / "models") as model:
        await wait_for(model, failed)
        assert await refusal(model) == "The embedded model could not be started"
        assert (tmp_path / "models" / "tiny.gguf").read_bytes() == CONTENT
        assert (tmp_path / "data" / "embedded" / "child.log").read_text()
    assert len(warnings(caplog)) == 1


async def test_the_real_model_from_a_hub_whose_line_breaks(
    tmp_path: Path, model_dir: Path, weights: EmbeddedWeights, caplog: pytest.LogCaptureFixture
) -> None:
    """98 MB in three pieces, without a word to the user but how far it is; then it answers."""
    caplog.set_level(logging.INFO, "providers")
    content = weights.path(model_dir).read_bytes()
    with serving() as hub:
        hub.manner = Manner(content=content)
        hub.script = [Manner(content=content, cut=30_000_000), Manner(content=content, cut=40_000_000)]
        model = EmbeddedModel(
            replace(weights, sources=(SOURCE,)), data_dir=tmp_path, models_dir=tmp_path / "models", hub=hub.url
        )
        await model.start()
        await wait_for(model, lambda status: "being fetched (3" in (status.reason or ""))
        await wait_for(model, lambda status: status.endpoint is not None, 60)
        await model.aclose()
    assert hub.ranges == [None, "bytes=30000000-", "bytes=70000000-"]
    assert "Fetching smollm2-135m-instruct: 75% of 98 MB" in caplog.messages
    assert not warnings(caplog)


async def test_closing_while_it_fetches(tmp_path: Path, no_network: None) -> None:
    async with running(CATALOGUE["smollm2-135m-instruct"], tmp_path, tmp_path / "models") as model:
        await wait_for(model, lambda status: "being fetched" in (status.reason or ""))
        start = time.monotonic()
    assert time.monotonic() - start < 2
    assert {path.name for path in (tmp_path / "models").iterdir()} == {".fetch.lock"}


async def test_a_data_directory_that_is_a_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "data").write_text("")
    async with running(CATALOGUE["smollm2-135m-instruct"], tmp_path / "data", tmp_path) as model:
        await wait_for(model, failed)
        assert await refusal(model) == "The embedded model's directory cannot be used"
        await asyncio.sleep(1.1)
    assert len(warnings(caplog)) == 1


async def test_another_size_replaces_the_child(tmp_path: Path, model_dir: Path) -> None:
    """A server that was started again with other settings does not adopt the old one's child."""
    weights = CATALOGUE["smollm2-135m-instruct"]
    place = Rendezvous(tmp_path / "embedded")
    async with AsyncExitStack() as stack:
        old = EmbeddedModel(weights, data_dir=tmp_path, models_dir=model_dir, slots=1, context=512)
        new = EmbeddedModel(weights, data_dir=tmp_path, models_dir=model_dir, slots=2, context=256)
        stack.push_async_callback(new.aclose)
        stack.push_async_callback(old.aclose)
        await old.start()
        await wait_for(old, lambda status: status.endpoint is not None)
        await new.start()
        await wait_for(new, lambda status: status.endpoint is not None)
        before = place.discover()
        await old.aclose()
        await wait_for(new, lambda _: (now := place.discover()) is not None and now.slots == 2 and now.port > 0)
        assert before is not None
        assert before.slots == 1


async def test_the_event_loop_stays_free(tmp_path: Path, model_dir: Path) -> None:
    """Why: the same loop carries everyone's tokens."""
    late = 0.0
    async with running(CATALOGUE["smollm2-135m-instruct"], tmp_path, model_dir) as model:
        while model.status.endpoint is None:
            start = time.monotonic()
            await asyncio.sleep(0.005)
            late = max(late, time.monotonic() - start - 0.005)
    assert late < 0.1
