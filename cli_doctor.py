"""`python cli.py doctor`: what this machine would run with, and what is wrong with that. Changes nothing."""

import asyncio
import logging
import os
import shutil
import stat
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from alembic.script import ScriptDirectory

from bounds import pool_limits
from bus.redis import RedisBus
from chat.stats import server_totals
from errors import StartError, Unavailable
from model_providers import read_servers
from models.address import PostgresAddress
from models.backup import BackupError
from models.migrate import configuration, head, seen
from models.opening import open_database
from models.postgres import OWN_CONNECTIONS
from models.postgres_driver import facts_of
from models.postgres_tools import find as find_program
from providers.shelf import NoSuchModel, find
from providers.weights import WeightsDamaged, WeightsMissing, check
from serve import check_port
from setting_groups import ROOT
from settings import Settings, load_settings

FULL_BYTES, LOW_BYTES = 100 * 1024 * 1024, 1024 * 1024 * 1024
"""Below the first a download, a backup or SQLite's log of a busy minute does not fit; the second is in time."""
OTHERS_BITS = stat.S_IRWXG | stat.S_IRWXO


class Finding(NamedTuple):
    """`level`: "" as it should be, "warning", or "problem": that keeps the server from working."""

    what: str
    text: str
    level: str = ""


def doctor(_arguments: Namespace) -> int:
    """Exit code 1 when there is a problem; warnings are none."""
    settings = load_settings()
    findings = [found for look in CHECKS for found in look(settings)]
    for found in findings:
        sys.stdout.write(f"{found.level + ': ' if found.level else ''}{found.what.ljust(13)} {found.text}\n")
    problems = sum(found.level == "problem" for found in findings)
    warnings = sum(found.level == "warning" for found in findings)
    sys.stdout.write(f"{problems} problems, {warnings} warnings\n")
    return int(problems > 0)


def _settings(settings: Settings) -> Iterator[Finding]:
    for line in settings.warnings():
        yield Finding("settings", line, "warning")
    yield Finding("environment", settings.app_env)
    yield Finding("provider keys", ", ".join(settings.provider_keys()) or "none")
    try:
        if servers := read_servers(settings):
            yield Finding("model servers", ", ".join(server.name for server in servers))
    except StartError as error:
        yield Finding("model servers", str(error), "problem")
    proxies = ", ".join(settings.trusted_proxies)
    yield Finding("proxies", proxies or "none are trusted: behind one, all clients would be one address")


def _database(settings: Settings) -> Iterator[Finding]:
    address = settings.database
    try:
        revision = seen(address)
        if revision is None:
            yield Finding("database", f"{address} (made at the first start)")
        elif revision == head():
            users, conversations = asyncio.run(_totals(settings))
            yield Finding("database", f"{address} ({users} users, {conversations} conversations)")
        elif revision in {script.revision for script in ScriptDirectory.from_config(configuration()).walk_revisions()}:
            yield Finding("database", f"{address} is at migration {revision}; the next start brings it to {head()}")
        else:
            yield Finding("database", f"{address} is at migration {revision} of a newer version", "warning")
        if isinstance(address, PostgresAddress):
            yield from _postgres(settings, address)
    except (StartError, Unavailable) as error:
        yield Finding("database", str(error), "problem")


async def _totals(settings: Settings) -> tuple[int, int]:
    database = open_database(settings.database, pool_limits(settings))
    try:
        return await server_totals(database)
    finally:
        await database.aclose()


def _postgres(settings: Settings, address: PostgresAddress) -> Iterator[Finding]:
    most = settings.workers * (settings.database_pool_size + settings.database_max_overflow + OWN_CONNECTIONS)
    major, takes = asyncio.run(facts_of(address))
    level = "warning" if most > takes else ""
    yield Finding("connections", f"up to {most} by {settings.workers} workers; the server takes {takes}", level)
    try:
        yield Finding("backups", f"by {find_program('pg_dump', major)}")
    except BackupError as error:
        yield Finding("backups", str(error), "warning")


def _redis(settings: Settings) -> Iterator[Finding]:
    if settings.redis is None:
        yield Finding("redis", "none: processes hear of each other by the database")
    elif asyncio.run(_answers(settings)):
        yield Finding("redis", f"{settings.redis} answers")
    else:
        text = f"{settings.redis} does not answer; all would go by the database, slower"
        yield Finding("redis", text, "warning")


async def _answers(settings: Settings) -> bool:
    logging.getLogger("bus").setLevel(logging.ERROR)  # it is said here
    assert settings.redis is not None
    bus = RedisBus(settings.redis, "doctor")
    try:
        return await bus.check()
    finally:
        await bus.aclose()


def _disk(settings: Settings) -> Iterator[Finding]:
    folders = {settings.data_dir.resolve(), settings.models_path}
    if isinstance(settings.database, Path):
        folders.add(settings.database.parent)
    for folder in sorted(folders):
        there = next(place for place in (folder, *folder.parents) if place.exists())
        if not os.access(there, os.W_OK | os.X_OK):
            yield Finding("disk", f"{there} cannot be written to by this user", "problem")
            continue
        free = shutil.disk_usage(there).free
        level = "problem" if free < FULL_BYTES else "warning" if free < LOW_BYTES else ""
        yield Finding("disk", f"{free / 1e9:.1f} GB free for {folder}", level)


def _permissions(settings: Settings) -> Iterator[Finding]:
    """What others of this machine may read that is theirs least of all; on a laptop there are none."""
    secret = [settings.secret_path] if settings.secret_key is None else []
    others = [Path(".env"), *([settings.database] if isinstance(settings.database, Path) else [])]
    for path in [*secret, *(others if settings.app_env == "production" else [])]:
        with suppress(FileNotFoundError):
            mode = stat.S_IMODE(path.stat().st_mode)
            if os.name != "nt" and mode & OTHERS_BITS:
                text = f"{path} can be read by others (mode {mode:03o}): chmod 600"
                yield Finding("permissions", text, "problem" if path in secret else "warning")


def _model(settings: Settings) -> Iterator[Finding]:
    if not settings.embedded_model:
        yield Finding("model", "EMBEDDED_MODEL is off")
        return
    try:
        weights = find(settings.local_model, settings.models_path)
        yield Finding("model", f"{weights.name} in {check(weights, settings.models_path)}")
    except NoSuchModel as error:
        yield Finding("model", f"LOCAL_MODEL: {error}", "problem")
    except WeightsDamaged as error:
        yield Finding("model", f"{error.reason}. {error.hint}", "warning")
    except WeightsMissing:
        if settings.embedded_fetch:
            yield Finding("model", f"{weights.name} is fetched at the first start into {settings.models_path}")
        else:
            text = f"{weights.name} is not in {settings.models_path}, and EMBEDDED_FETCH is off"
            yield Finding("model", text, "warning")


def _serving(settings: Settings) -> Iterator[Finding]:
    built = (ROOT / "web/dist/index.html").exists()
    yield Finding("web pages", "built" if built else "not built: run `make web`")
    try:
        check_port(settings.host, settings.port)
    except StartError as error:
        yield Finding("listens on", f"{error} (or is this the server that is running?)", "warning")
    else:
        yield Finding("listens on", f"http://{settings.host}:{settings.port}")


CHECKS: tuple[Callable[[Settings], Iterator[Finding]], ...] = (
    _settings,
    _database,
    _redis,
    _disk,
    _permissions,
    _model,
    _serving,
)
