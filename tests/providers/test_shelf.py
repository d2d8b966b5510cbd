"""Which model is meant, and what of it is here. The file that the user put there is the real model's, renamed."""

import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from errors import ModelUnavailable
from providers.base import GenerationRequest, Role, TextChunk, Turn
from providers.fetch import part_of
from providers.local import LocalProvider
from providers.rendezvous import Rendezvous
from providers.shelf import Item, NoSuchModel, State, find, stock
from providers.supervisor import EmbeddedModel
from providers.weights import CATALOGUE, DEFAULT, EmbeddedWeights
from tests.providers.ggufs import gguf


@pytest.fixture
def models(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    folder.mkdir()
    return folder


def put(models: Path, name: str, content: bytes | None = None) -> Path:
    path = models / name
    path.write_bytes(gguf({"general.architecture": "x", "x.context_length": 512}) if content is None else content)
    return path


def states(models: Path) -> dict[str, State]:
    return {item.weights.name: item.state for item in stock(models)}


def test_nothing_is_here(tmp_path: Path) -> None:
    assert states(tmp_path / "nowhere") == dict.fromkeys(CATALOGUE, State.ABSENT)


def test_what_is_here(models: Path, model_dir: Path, weights: EmbeddedWeights) -> None:
    (models / weights.file).symlink_to(model_dir / weights.file)
    put(models, CATALOGUE["qwen3-0.6b"].file, b"GGUF cut off")
    put(models, "mine.gguf")
    put(models, "broken.gguf", b"<html>")
    put(models, "qwen3-0.6b.gguf")
    put(models, "notes.txt")
    (models / "folder.gguf").mkdir()
    assert states(models) == {
        DEFAULT: State.PRESENT,
        "qwen2.5-0.5b-instruct": State.ABSENT,
        "qwen2.5-1.5b-instruct": State.ABSENT,
        "qwen3-0.6b": State.DAMAGED,
        "broken": State.DAMAGED,
        "mine": State.PRESENT,
        "qwen3-0.6b.gguf": State.PRESENT,
    }


def test_a_download_that_was_broken_off_is_told(models: Path) -> None:
    qwen = CATALOGUE["qwen3-0.6b"]
    part_of(qwen, models).write_bytes(b"x" * 1000)
    assert Item(qwen, State.ABSENT, 1000) in stock(models)


@pytest.mark.parametrize(
    ("name", "found"),
    [
        (None, DEFAULT),
        ("qwen3-0.6b", "qwen3-0.6b"),
        ("Qwen3-0.6B", "qwen3-0.6b"),
        ("Qwen3-0.6B-Q8_0.gguf", "qwen3-0.6b"),
        ("Qwen3-0.6B-Q8_0", "qwen3-0.6b"),
        ("qwen3-0.6b.gguf", "qwen3-0.6b.gguf"),
        ("mine", "mine"),
        ("mine.gguf", "mine"),
        ("Mine", "mine"),
    ],
)
def test_a_name_is_found(models: Path, name: str | None, found: str) -> None:
    for file in ("mine.gguf", "qwen3-0.6b.gguf"):
        put(models, file)
    assert find(name, models).name == found


def test_an_absolute_path(models: Path, tmp_path: Path) -> None:
    elsewhere = put(tmp_path, "elsewhere.bin")
    chosen = find(str(elsewhere), models)
    assert (chosen.name, chosen.path(models), chosen.context_window) == ("elsewhere", elsewhere, 512)
    assert stock(models, chosen)[-1] == Item(chosen, State.PRESENT)
    assert find(str(models / CATALOGUE[DEFAULT].file), models) is CATALOGUE[DEFAULT]


@pytest.mark.parametrize("name", ["gpt-9", "../mine", "mine.gguf/", "./mine.gguf", "~/mine.gguf", "", "x" * 1000])
def test_a_wrong_name_is_answered_by_what_there_is(models: Path, name: str) -> None:
    put(models, "mine.gguf")
    with pytest.raises(NoSuchModel) as caught:
        find(name, models)
    assert str(caught.value).endswith(f"; there are {', '.join(CATALOGUE)}, mine")
    assert len(str(caught.value)) < 300
    assert "\n" not in str(caught.value)


def test_a_path_where_nothing_is(models: Path) -> None:
    with pytest.raises(NoSuchModel, match=r"^there is no file /no/such\.gguf$"):
        find("/no/such.gguf", models)


@pytest.fixture
async def renamed(
    models: Path, model_dir: Path, weights: EmbeddedWeights, tmp_path: Path
) -> AsyncIterator[EmbeddedModel]:
    """The real weights under a name of the user's, with a context that is larger than the model knows."""
    shutil.copy(weights.path(model_dir), models / "my model.gguf")
    model = EmbeddedModel(find("my model", models), data_dir=tmp_path, models_dir=models, context=100_000, slots=1)
    await model.start()
    yield model
    await model.aclose()


async def test_a_model_that_the_user_put_there_answers(
    renamed: EmbeddedModel, tmp_path: Path, weights: EmbeddedWeights
) -> None:
    provider = LocalProvider(renamed, load_patience=60)
    request = GenerationRequest("my model", (Turn(Role.USER, "Hello"),), 0.0, 5)
    said = [chunk async for chunk in provider.stream(request)]
    assert any(isinstance(chunk, TextChunk) for chunk in said)
    [info] = provider.models()
    assert (info.id, info.context_window, info.unavailable_reason) == ("my model", weights.context_window, None)
    child = Rendezvous(tmp_path / "embedded").discover()
    assert child is not None
    assert (child.model, child.slots, child.context) == ("my model", 1, weights.context_window)
    await provider.aclose()


async def test_a_file_that_is_no_model_is_told_in_one_line(models: Path, tmp_path: Path) -> None:
    put(models, "broken.gguf", b"<html>")
    model = EmbeddedModel(find("broken", models), data_dir=tmp_path, models_dir=models)
    provider = LocalProvider(model, load_patience=20)
    await model.start()
    with pytest.raises(ModelUnavailable, match=r"broken\.gguf is damaged \(it does not begin as a GGUF file does\)"):
        await anext(provider.stream(GenerationRequest("broken", (Turn(Role.USER, "Hello"),), 0.0, 5)))
    await provider.aclose()
    await model.aclose()
