"""Files that begin as models do."""

import struct
from collections.abc import Mapping

Value = int | str | list[int] | list[str]


def gguf(pairs: Mapping[str, Value]) -> bytes:
    """The header of a model file without tensors."""
    keys = b"".join(_text(key) + struct.pack("<I", _kind(value)) + _value(value) for key, value in pairs.items())
    return b"GGUF" + struct.pack("<IQQ", 3, 0, len(pairs)) + keys


def _kind(value: Value) -> int:
    return 9 if isinstance(value, list) else 8 if isinstance(value, str) else 4


def _value(value: Value) -> bytes:
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, int):
        return struct.pack("<I", value)
    return struct.pack("<IQ", _kind(value[0]), len(value)) + b"".join(_value(item) for item in value)


def _text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()
