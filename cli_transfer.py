"""`python cli.py export USER FILE | import USER FILE`: one user's conversations, as JSON."""

import asyncio
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any

from bounds import input_limits, pool_limits
from chat.exporting import export_conversations
from chat.importing import Imported, import_conversations
from chat.inputs import is_text
from chat.transfer import TransferError
from errors import StartError, Unavailable
from models.database import Database
from models.migrate import check_migrated
from models.new_file import new_file
from models.opening import open_database
from models.user import User, user_by_id, user_by_name
from serve import stopped_by_sigterm
from settings import Settings, load_settings


def add_arguments(command: ArgumentParser) -> None:
    command.add_argument("user", metavar="USER", help="a user's name, or id")
    command.add_argument("file", type=Path, metavar="FILE")


def add_export_arguments(command: ArgumentParser) -> None:
    add_arguments(command)
    command.add_argument("--force", action="store_true", help="overwrite the file")


def export(arguments: Namespace) -> int:
    """Write the user's conversations into a new file."""
    return _run(arguments, partial(_export, arguments))


def import_(arguments: Namespace) -> int:
    """Give the user the conversations of a file."""
    return _run(arguments, partial(_import, arguments))


Work = Callable[[Settings, Database, User], Coroutine[Any, Any, str]]


def _run(arguments: Namespace, work: Work) -> int:
    settings = load_settings()
    check_migrated(settings.database)
    try:
        with stopped_by_sigterm():
            line = asyncio.run(_with_user(settings, arguments.user, work))
    except TransferError as error:
        raise TransferError(f"{arguments.file}, {error}") from error
    except OSError as error:
        raise StartError(f"{arguments.file}: {error.strerror or error}") from error
    except Unavailable as error:
        raise StartError(f"{settings.database}: {error}") from error
    sys.stdout.write(f"{line}\n")
    return 0


async def _with_user(settings: Settings, name: str, work: Work) -> str:
    database = open_database(settings.database, pool_limits(settings))
    try:
        user = await _find(database, name) if is_text(name) else None
        if user is None:
            raise StartError(f"there is no user {name!r}")
        return await work(settings, database, user)
    finally:
        await database.aclose()


async def _find(database: Database, name: str) -> User | None:
    async with database.read() as session:
        return await user_by_name(session, name) or await user_by_id(session, name)


async def _export(arguments: Namespace, _settings: Settings, database: Database, user: User) -> str:
    with new_file(arguments.file, force=arguments.force) as part, part.open("wb") as opened:
        done = await export_conversations(database, user, opened.write)
    return f"{arguments.file}: {done.conversations} conversations, {done.messages} messages"


async def _import(arguments: Namespace, settings: Settings, database: Database, user: User) -> str:
    done = Imported()
    try:
        with arguments.file.open("rb") as opened:
            await import_conversations(database, user.id, input_limits(settings), opened, done)
    except BaseException:
        if done.added:
            sys.stderr.write(f"{_told(user, done)}, before this stopped\n")
        raise
    return _told(user, done)


def _told(user: User, done: Imported) -> str:
    added = f"{done.added} conversations with {done.messages} messages added"
    return f"{user.username}: {added}, {done.known} were there already"
