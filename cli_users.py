"""`python cli.py user …`: accounts, as the operator sees them. Passwords come from a prompt or standard input, never
from the command line, which others on the machine can read."""

import asyncio
import getpass
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Awaitable, Callable
from contextlib import suppress

from auth.administration import Administration
from auth.passwords import Passwords
from errors import ChatError, StartError
from models.migrate import migrate
from models.opening import open_database
from models.user import UserRole
from settings import load_settings

FAILED = 1
MAX_PASSWORD_LINE = 1_000
ACTIONS = {
    "create": "make a user",
    "promote": "make a user an administrator",
    "demote": "make an administrator a user",
    "disable": "let a user in no more, and close what is open",
    "enable": "let a user in again",
    "reset-password": "set a new password, and end the user's sessions",
    "disable-totp": "turn the second factor off, for who has lost it",
    "list": "list the users, tab-separated",
}


def add_arguments(command: ArgumentParser) -> None:
    actions = command.add_subparsers(dest="action", required=True, metavar="ACTION")
    for name, text in ACTIONS.items():
        action = actions.add_parser(name, help=text, description=text)
        if name != "list":
            action.add_argument("username", metavar="NAME")
        if name == "create":
            action.add_argument("email", metavar="EMAIL")
            action.add_argument("--admin", action="store_true", help="an administrator")


def run(arguments: Namespace) -> int:
    """0, or FAILED with one line. Raises StartError."""
    address = load_settings().database
    # Before anything is asked for: a database that cannot be used is said first.
    migrate(address)
    try:
        return asyncio.run(_run(arguments))
    except ChatError as error:
        sys.stderr.write(f"{error.message}\n")
        return FAILED


async def _run(arguments: Namespace) -> int:
    database, passwords = open_database(load_settings().database), Passwords()
    try:
        return await DOING[arguments.action](Administration(database, passwords), arguments)
    finally:
        passwords.close()
        await database.aclose()


async def _create(users: Administration, arguments: Namespace) -> int:
    role = UserRole.ADMIN if arguments.admin else UserRole.USER
    user = await users.create(arguments.username, arguments.email, _password(), role)
    return _say(f"{user.username} is {'an administrator' if arguments.admin else 'a user'} now: {user.id}")


async def _promote(users: Administration, arguments: Namespace) -> int:
    await users.set_role(arguments.username, UserRole.ADMIN)
    return _say(f"{arguments.username} is an administrator now")


async def _demote(users: Administration, arguments: Namespace) -> int:
    await users.set_role(arguments.username, UserRole.USER)
    return _say(f"{arguments.username} is no administrator now")


async def _disable(users: Administration, arguments: Namespace) -> int:
    ended = await users.set_disabled(arguments.username, disabled=True)
    return _say(f"{arguments.username} is disabled; {ended} sessions ended")


async def _enable(users: Administration, arguments: Namespace) -> int:
    await users.set_disabled(arguments.username, disabled=False)
    return _say(f"{arguments.username} may come in")


async def _reset_password(users: Administration, arguments: Namespace) -> int:
    if not await users.exists(arguments.username):
        sys.stderr.write(f"there is no user {arguments.username!r}\n")
        return FAILED
    ended = await users.reset_password(arguments.username, _password())
    return _say(f"{arguments.username} has a new password; {ended} sessions ended")


async def _disable_totp(users: Administration, arguments: Namespace) -> int:
    had = await users.disable_totp(arguments.username)
    return _say(f"{arguments.username} has {'no second factor any more' if had else 'had no second factor'}")


async def _list(users: Administration, _arguments: Namespace) -> int:
    _say("username\temail\trole\tstate\tcreated")
    after: str | None = None
    while page := await users.page(after):
        for user in page:
            state = "disabled" if user.disabled else "active"
            _say(f"{user.username}\t{user.email}\t{user.role}\t{state}\t{user.created_at:%Y-%m-%dT%H:%M:%SZ}")
        after = page[-1].id
    return 0


DOING: dict[str, Callable[[Administration, Namespace], Awaitable[int]]] = {
    "create": _create,
    "promote": _promote,
    "demote": _demote,
    "disable": _disable,
    "enable": _enable,
    "reset-password": _reset_password,
    "disable-totp": _disable_totp,
    "list": _list,
}


def _password() -> str:
    """Asked for twice at a terminal, else a line of standard input.

    Raises:
        StartError: there is none, or the two differ.
    """
    if not sys.stdin.isatty():
        line = sys.stdin.readline(MAX_PASSWORD_LINE).rstrip("\r\n")
        if not line:
            raise StartError("standard input has no password; write one line there")
        return line
    with suppress(EOFError):
        password = getpass.getpass("New password: ")
        if getpass.getpass("Again: ") != password:
            raise StartError("the two passwords differ")
        return password
    raise StartError("no password was given")


def _say(line: str) -> int:
    sys.stdout.write(f"{line}\n")
    return 0
