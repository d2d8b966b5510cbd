"""Several server processes of one data directory: one owner, one child, whatever dies."""

import os
import signal
import sys
import time
from contextlib import aclosing
from pathlib import Path

import pytest

from providers.base import FinishChunk, GenerationRequest, Role, TextChunk, Turn
from providers.local import LocalProvider
from providers.rendezvous import Discovery, Rendezvous
from providers.supervisor import EmbeddedModel
from providers.weights import EmbeddedWeights
from tests.providers.conftest import StartMember
from tests.providers.member import gone

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="kills as POSIX does")


def discover(data_dir: Path) -> Discovery:
    found = Rendezvous(data_dir / "embedded").discover()
    assert found is not None
    return found


def test_four_processes_elect_one_owner_with_one_child(start_member: StartMember, tmp_path: Path) -> None:
    members = [start_member() for _ in range(4)]
    for one in members:
        one.wait(lambda said: said["ready"])
    assert sum(one.owner for one in members) == 1
    assert [pid for one in members for pid in one.children()] == [discover(tmp_path).pid]


async def test_a_killed_owner_is_replaced_within_five_seconds_and_the_streams_go_on(
    start_member: StartMember, tmp_path: Path, model_dir: Path, weights: EmbeddedWeights
) -> None:
    """Why: the child belongs to the directory, not to the process that started it. A worker that crashes takes
    neither the other workers' answers nor a second of loading with it."""
    owner = start_member()
    owner.wait(lambda said: said["ready"] and said["owner"])
    child = discover(tmp_path).pid
    model = EmbeddedModel(weights, data_dir=tmp_path, models_dir=model_dir, fetch=False)
    provider = LocalProvider(model)
    await model.start()
    request = GenerationRequest(weights.name, (Turn(Role.USER, "Count from 1 to 40."),), 0.0, 80)
    async with aclosing(provider.stream(request)) as chunks:
        assert isinstance(await anext(chunks), TextChunk)
        assert not model.owner
        owner.kill()
        killed = time.monotonic()
        rest = [chunk async for chunk in chunks]
    assert any(isinstance(chunk, FinishChunk) for chunk in rest)
    other = start_member()
    other.wait(lambda said: said["ready"])
    assert model.owner or other.owner
    assert time.monotonic() - killed < 5
    assert discover(tmp_path).pid == child
    assert not other.children()
    await provider.aclose()
    await model.aclose()
    other.wait(lambda said: said["owner"] and said["ready"], 5)
    assert discover(tmp_path).pid == child


def test_the_child_ends_when_every_process_was_killed(start_member: StartMember, tmp_path: Path) -> None:
    members = [start_member() for _ in range(2)]
    for one in members:
        one.wait(lambda said: said["ready"])
    child = discover(tmp_path).pid
    os.kill(child, signal.SIGINT)
    os.kill(child, signal.SIGTERM)
    for one in members:
        one.kill()
    assert gone(child, 3)
    assert not list((tmp_path / "embedded" / "servers").iterdir())


def test_the_child_ends_with_the_last_process_that_closes(start_member: StartMember, tmp_path: Path) -> None:
    first, second = start_member(), start_member()
    first.wait(lambda said: said["ready"])
    second.wait(lambda said: said["ready"])
    child = discover(tmp_path).pid
    first.close()
    assert not gone(child, 1)
    second.close()
    assert gone(child, 2)


def test_a_killed_child_is_replaced(start_member: StartMember, tmp_path: Path) -> None:
    owner = start_member()
    owner.wait(lambda said: said["ready"])
    child = discover(tmp_path).pid
    os.kill(child, signal.SIGKILL)
    owner.wait(lambda said: not said["ready"], 3)
    owner.wait(lambda said: said["ready"], 10)
    assert discover(tmp_path).pid != child
    assert len(owner.children()) == 1


async def test_a_request_waits_for_a_child_that_just_died(
    tmp_path: Path, model_dir: Path, weights: EmbeddedWeights
) -> None:
    model = EmbeddedModel(weights, data_dir=tmp_path, models_dir=model_dir, fetch=False)
    provider = LocalProvider(model)
    await model.start()
    assert await model.wait_ready(30)
    os.kill(discover(tmp_path).pid, signal.SIGKILL)
    request = GenerationRequest(weights.name, (Turn(Role.USER, "Hello"),), 0.0, 5)
    assert [chunk async for chunk in provider.stream(request)]
    await provider.aclose()
    await model.aclose()
