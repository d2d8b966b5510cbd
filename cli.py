"""The command line: `python cli.py COMMAND`; `--help` lists them."""

import preflight  # noqa: F401

# isort: split

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any, NamedTuple

from errors import StartError

STOPPED, UNREAD = 130, 141
"""By Ctrl-C, and by a closed pipe: 128 and the signal, as shells have it."""


class Command(NamedTuple):
    """`module` and what in it takes the arguments, is imported when the command is chosen: all of them take two seconds
    to import, most of them less than one. `arguments` adds what the command understands."""

    module: str
    function: str
    text: str
    arguments: str | None = None

    def load(self, name: str) -> Any:
        return getattr(import_module(self.module), name)


COMMANDS = {
    "serve": Command("cli_reference", "serve", "serve the API, as `python app.py` does"),
    "chat": Command("cli_chat", "run", "ask a model here in the terminal", "add_arguments"),
    "migrate": Command("cli_backup", "run_migrations", "make the database, or bring it to the newest migration"),
    "backup": Command(
        "cli_backup", "back_up", "copy the whole database into a file, while it is served", "add_arguments"
    ),
    "restore": Command("cli_backup", "restore", "put a backup in the place of the database", "add_arguments"),
    "export": Command(
        "cli_transfer", "export", "write a user's conversations into a file, as JSON", "add_export_arguments"
    ),
    "import": Command("cli_transfer", "import_", "give a user the conversations of such a file", "add_arguments"),
    "user": Command("cli_users", "run", "make, promote, disable users, or set their passwords", "add_arguments"),
    "models": Command("cli_models", "run", "list the embedded models, or fetch one", "add_arguments"),
    "schema": Command("cli_reference", "schema", "print the GraphQL schema", "add_schema_arguments"),
    "settings": Command("cli_reference", "settings_table", "print every setting as a table"),
    "doctor": Command("cli_doctor", "doctor", "say what this machine would run with, and what is wrong with that"),
}


def parser(chosen: str | None) -> argparse.ArgumentParser:
    """Knows the names of all commands, and what the chosen one understands."""
    root = argparse.ArgumentParser(prog="cli.py", description="AI Chat Studio")
    commands = root.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        made = commands.add_parser(name, help=command.text, description=command.text)
        if name == chosen and command.arguments is not None:
            command.load(command.arguments)(made)
    return root


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; its exit code. 1 and one line when the settings cannot work."""
    given = sys.argv[1:] if arguments is None else arguments
    chosen = parser(given[0] if given else None).parse_args(given)
    command = COMMANDS[chosen.command]
    try:
        code: int = command.load(command.function)(chosen)
        return code
    except StartError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return STOPPED
    except BrokenPipeError:
        # Whoever read it has enough, as `head` does; what is still buffered must not fail once more at the exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return UNREAD


if __name__ == "__main__":
    sys.exit(main())
