"""`python cli.py backup FILE | restore FILE | migrate`: the whole database, while it is served, and back, while it is
not; and its newest migration."""

import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from models import postgres_backup, sqlite_backup
from models.address import PostgresAddress
from models.backup import Content, Report
from models.migrate import head, migrate
from serve import stopped_by_sigterm
from settings import load_settings

SAY_SECONDS = 10.0
"""Between two lines where nobody watches a terminal."""


def add_arguments(command: ArgumentParser) -> None:
    command.add_argument("file", type=Path, metavar="FILE")
    command.add_argument("--force", action="store_true", help="overwrite what is there")


def run_migrations(_arguments: Namespace) -> int:
    address = load_settings().database
    migrate(address)
    sys.stdout.write(f"{address} is at the newest migration\n")
    return 0


def back_up(arguments: Namespace) -> int:
    """Write the file, and say what is in it."""
    address = load_settings().database
    with meter() as report:
        if isinstance(address, PostgresAddress):
            content = postgres_backup.back_up(address, arguments.file, report, force=arguments.force)
        else:
            content = sqlite_backup.back_up(address, arguments.file, report, force=arguments.force)
    size = arguments.file.stat().st_size
    sys.stdout.write(f"{arguments.file}: {size / 1e6:.1f} MB, {_told(content)}; read back, and in order\n")
    return 0


def restore(arguments: Namespace) -> int:
    """Replace what is in the database by what is in the file."""
    address = load_settings().database
    with meter() as report:
        if isinstance(address, PostgresAddress):
            content = postgres_backup.restore(address, arguments.file, report, force=arguments.force)
        else:
            content = sqlite_backup.restore(address, arguments.file, report, force=arguments.force)
    now = head()
    migrated = "" if content.revision == now else f", brought to migration {now}"
    sys.stdout.write(f"{address}: {_told(content)}{migrated}\n")
    return 0


def _told(content: Content) -> str:
    return f"{content.total:,} rows in {len(content.rows)} tables, migration {content.revision}"


@contextmanager
def meter() -> Iterator[Report]:
    """How far it is, on standard error: a bar where someone watches, now and then a line elsewhere."""
    with stopped_by_sigterm(), _bar() if sys.stderr.isatty() else _lines() as report:
        yield report


@contextmanager
def _bar() -> Iterator[Report]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("")
        yield lambda what, done, total: bar.update(task, description=what, completed=done, total=total)


@contextmanager
def _lines() -> Iterator[Report]:
    said = time.monotonic()

    def report(what: str, done: int, total: int | None) -> None:
        nonlocal said
        if time.monotonic() - said >= SAY_SECONDS:
            said = time.monotonic()
            sys.stderr.write(f"{what}: {done:,}" + ("\n" if total is None else f" of {total:,}\n"))

    yield report
