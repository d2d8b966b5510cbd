"""What a model's file says of itself: the real one, made ones, broken ones."""

import struct
from pathlib import Path

import pytest

from providers.gguf import Header, NotGGUF, read_header
from providers.weights import CATALOGUE, EmbeddedWeights
from tests.providers.ggufs import gguf


def test_the_real_file(model_dir: Path, weights: EmbeddedWeights) -> None:
    header = read_header(weights.path(model_dir))
    assert header == Header("llama", weights.context_window, weights.token_bytes, weights.languages)


@pytest.mark.parametrize(
    ("name", "pairs"),
    [
        ("qwen2.5-0.5b-instruct", {"layers": 24, "width": 896, "heads": 14, "kv": 2}),
        ("qwen2.5-1.5b-instruct", {"layers": 28, "width": 1536, "heads": 12, "kv": 2}),
        ("qwen3-0.6b", {"layers": 28, "width": 1024, "heads": 16, "kv": 8, "key": 128}),
    ],
)
def test_the_memory_of_a_context(tmp_path: Path, name: str, pairs: dict[str, int]) -> None:
    """By the published shapes of the models, as their files state them."""
    path = tmp_path / "m.gguf"
    keys = {
        "qwen2.block_count": pairs["layers"],
        "qwen2.embedding_length": pairs["width"],
        "qwen2.attention.head_count": pairs["heads"],
        "qwen2.attention.head_count_kv": pairs["kv"],
    }
    if "key" in pairs:
        keys["qwen2.attention.key_length"] = pairs["key"]
    path.write_bytes(gguf({"general.architecture": "qwen2", **keys}))
    assert read_header(path).token_bytes == CATALOGUE[name].token_bytes


def test_a_file_that_says_little(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(gguf({"general.architecture": "x"}))
    assert read_header(path) == Header("x", None, None, ())


def test_heads_that_differ_from_layer_to_layer_count_as_the_largest(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    keys = {"x.block_count": 2, "x.embedding_length": 64, "x.attention.head_count": 4}
    path.write_bytes(gguf({"general.architecture": "x", **keys, "x.attention.head_count_kv": [1, 2]}))
    assert read_header(path).token_bytes == 2 * 2 * 2 * 2 * 16


WHOLE = gguf({"general.architecture": "x", "general.languages": ["en", "zh"]})


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"GG",
        b"<html>Log in</html>",
        b"GGUF",
        WHOLE[:-1],
        b"GGUF" + struct.pack("<IQQ", 1, 0, 0),
        b"GGUF" + struct.pack("<IQQ", 3, 0, 2**63),
        b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 2**62),
        b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 1) + b"k" + struct.pack("<I", 99),
        b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 1) + b"k" + struct.pack("<IIQ", 9, 9, 1),
        b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 1) + b"k" + struct.pack("<IIQ", 9, 0, 2**40),
        b"GGUF" + struct.pack(">IQQ", 3, 0, 1),
        gguf({"general.name": "no architecture"}),
    ],
)
def test_what_is_no_such_file_is_refused_without_reading_far(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(content)
    with pytest.raises(NotGGUF):
        read_header(path)
