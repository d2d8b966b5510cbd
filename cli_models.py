"""`python cli.py models list | pull NAME`: the embedded models that this machine has or could have."""

import logging
import sys
import threading
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from providers.fetch import FetchError, fetch
from providers.progress import progress
from providers.shelf import Item, NoSuchModel, find, stock
from providers.weights import CATALOGUE, EmbeddedWeights, WeightsDamaged, WeightsError, WeightsMissing, check
from serve import LateStderr, stopped_by_sigterm
from settings import Settings, load_settings

FAILED, UNKNOWN, STOPPED = 1, 2, 130
COLUMNS = ("name", "languages", "size", "state", "chosen")


def add_arguments(command: ArgumentParser) -> None:
    actions = command.add_subparsers(dest="action", required=True, metavar="ACTION")
    text = "list the models, what of them is here, and which one LOCAL_MODEL chooses"
    actions.add_parser("list", help=text, description=text)
    text = "fetch a model, or go on with a fetch that was broken off"
    pulling = actions.add_parser("pull", help=text, description=text)
    pulling.add_argument("name", metavar="NAME")
    pulling.add_argument("--from", dest="local", metavar="PATH", type=Path, help="copy this file, or from this folder")
    pulling.add_argument("--force", action="store_true", help="replace a file that is there and damaged")


def run(arguments: Namespace) -> int:
    """0, FAILED, UNKNOWN (no such name) or STOPPED (Ctrl-C). Raises StartError."""
    settings = load_settings()
    return show(settings) if arguments.action == "list" else pull(settings, arguments)


def show(settings: Settings) -> int:
    """A table where someone looks, else tab-separated lines with sizes in bytes."""
    chosen = None
    try:
        chosen = find(settings.local_model, settings.models_path) if settings.embedded_model else None
    except NoSuchModel as error:
        _complain(f"LOCAL_MODEL: {error}")
    items = stock(settings.models_path, chosen)
    if not sys.stdout.isatty():
        lines = [COLUMNS, *(_row(item, chosen, str(item.weights.bytes)) for item in items)]
        sys.stdout.writelines("\t".join(line) + "\n" for line in lines)
        return 0
    table = Table(*COLUMNS, caption=f"{settings.models_path}", caption_justify="left")
    table.columns[2].justify = "right"
    for item in items:
        table.add_row(*map(Text, _row(item, chosen, f"{item.weights.bytes / 1e6:,.0f} MB")))
    Console().print(table)
    return 0


def _row(item: Item, chosen: EmbeddedWeights | None, size: str) -> tuple[str, ...]:
    weights = item.weights
    state: str = item.state
    if item.fetched:
        state = f"{state}, {min(item.fetched / weights.bytes, 1):.0%} fetched"
    name = "".join(letter if letter.isprintable() else "?" for letter in weights.name)
    return name, ", ".join(weights.languages) or "?", size, state, "yes" if weights == chosen else ""


def pull(settings: Settings, arguments: Namespace) -> int:
    weights = CATALOGUE.get(arguments.name)
    if weights is None:
        _complain(f"there is no model {arguments.name!r} to fetch; there are {', '.join(CATALOGUE)}")
        return UNKNOWN
    try:
        path, verb = check(weights, settings.models_path), "was there already"
    except WeightsMissing:
        path, verb = None, "fetched"
    except WeightsDamaged as error:
        if not arguments.force:
            _complain(f"{error.reason}, or say --force. {error.hint}")
            return FAILED
        path, verb = None, "replaced"
    try:
        path = path or _pull(weights, settings, arguments)
    except FetchError as error:
        _complain(f"{weights.name} could not be fetched: {error.why}")
        return FAILED
    except WeightsError as error:
        _complain(f"{error.reason}. {error.hint}")
        return FAILED
    except KeyboardInterrupt:
        _complain("stopped; say it again to go on")
        return STOPPED
    sys.stdout.write(f"{weights.name} {verb}: {path} ({weights.bytes / 1e6:,.0f} MB)\n")
    return 0


def _pull(weights: EmbeddedWeights, settings: Settings, arguments: Namespace) -> Path:
    with _told_plainly(), stopped_by_sigterm(), progress(weights.name) as report:
        fetch(
            weights,
            settings.models_path,
            report,
            threading.Event(),
            hub=settings.hf_endpoint,
            local=arguments.local,
            replace=arguments.force,
        )
    return check(weights, settings.models_path)


@contextmanager
def _told_plainly() -> Iterator[None]:
    """What the server would log goes to standard error as it is."""
    logger, handler = logging.getLogger("providers"), LateStderr()
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)


def _complain(line: str) -> None:
    sys.stderr.write(f"{line}\n")
