"""What a GGUF file says about itself at its beginning: enough to run it, without loading it.

The layout: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

MAGIC = b"GGUF"
MAX_KEYS, MAX_TEXT, MAX_ITEMS = 10_000, 1 << 16, 1 << 16

_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9

Value = int | float | bool | str | list["Value"]


class NotGGUF(Exception):
    """The file is not a model of this format, or it ends too soon. The text is one line for any user."""


@dataclass(frozen=True, slots=True)
class Header:
    """`context_window`: the tokens it was trained for. `token_bytes`: memory that one token of context takes, at two
    bytes a number. None: the file does not say. `languages`: codes as the file gives them."""

    architecture: str
    context_window: int | None
    token_bytes: int | None
    languages: tuple[str, ...]


def read_header(path: Path) -> Header:
    """Raises NotGGUF, OSError."""
    with path.open("rb") as file:
        if file.read(4) != MAGIC:
            raise NotGGUF("it does not begin as a GGUF file does")
        try:
            return _header(_pairs(file))
        except (struct.error, ValueError, KeyError, TypeError) as exc:
            raise NotGGUF("its header cannot be read") from exc


def _pairs(file: BinaryIO) -> dict[str, Value]:
    """The keys up to the tokenizer's, which are long, come last and tell nothing that is asked here."""
    version, _tensors, keys = _unpack(file, "IQQ")
    if version not in (2, 3) or keys > MAX_KEYS:
        raise ValueError
    pairs: dict[str, Value] = {}
    for _ in range(keys):
        key = _text(file)
        if key.startswith("tokenizer."):
            break
        (kind,) = _unpack(file, "I")
        pairs[key] = _value(file, kind)
    return pairs


def _value(file: BinaryIO, kind: int) -> Value:
    if kind == _STRING:
        return _text(file)
    if kind != _ARRAY:
        number: Value = _unpack(file, _NUMBERS[kind])[0]
        return number
    item, length = _unpack(file, "IQ")
    if item == _ARRAY or length > MAX_ITEMS:
        raise ValueError
    return [_value(file, item) for _ in range(length)]


def _text(file: BinaryIO) -> str:
    (length,) = _unpack(file, "Q")
    if length > MAX_TEXT:
        raise ValueError
    text = file.read(length)
    if len(text) < length:
        raise ValueError
    return text.decode("utf-8", "replace")


def _unpack(file: BinaryIO, layout: str) -> tuple[int, ...]:
    return struct.unpack(f"<{layout}", file.read(struct.calcsize(f"<{layout}")))


def _header(pairs: Mapping[str, Value]) -> Header:
    architecture = str(pairs["general.architecture"])
    told = pairs.get("general.languages")
    return Header(
        architecture=architecture,
        context_window=_positive(pairs, f"{architecture}.context_length"),
        token_bytes=_token_bytes(pairs, architecture),
        languages=tuple(str(language) for language in told) if isinstance(told, list) else (),
    )


def _token_bytes(pairs: Mapping[str, Value], architecture: str) -> int | None:
    """A key and a value of two bytes a number, for each layer's heads."""
    layers, heads, width, length, kv_heads = (
        _positive(pairs, f"{architecture}.{name}")
        for name in (
            "block_count",
            "attention.head_count",
            "embedding_length",
            "attention.key_length",
            "attention.head_count_kv",
        )
    )
    if layers is None or heads is None or width is None:
        return None
    return 2 * 2 * layers * (kv_heads or heads) * (length or width // heads)


def _positive(pairs: Mapping[str, Value], key: str) -> int | None:
    value = pairs.get(key)
    if isinstance(value, list):  # one for each layer
        value = max((item for item in value if isinstance(item, int)), default=0)
    return value if isinstance(value, int) and value > 0 else None
