"""How far a long transfer is: a bar where someone watches, a line at each quarter where a log is kept."""

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

logger = logging.getLogger(__name__)

Report = Callable[[int, int], None]
"""Called with (bytes so far, bytes in all), from one thread, which need not be the one that made it."""


@contextmanager
def progress(what: str) -> Iterator[Report]:
    """Shows the transfer of `what` on standard error until the block ends."""
    with _bar(what) if sys.stderr.isatty() else _lines(what) as report:
        yield report


@contextmanager
def _bar(what: str) -> Iterator[Report]:
    columns = (TextColumn("Fetching {task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what)
        yield lambda done, total: bar.update(task, completed=done, total=total)


@contextmanager
def _lines(what: str) -> Iterator[Report]:
    said = -1

    def report(done: int, total: int) -> None:
        nonlocal said
        quarter = done * 4 // total
        if quarter > said:
            said = quarter
            logger.info("Fetching %s: %d%% of %.0f MB", what, quarter * 25, total / 1e6)

    yield report
