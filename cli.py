"""The command line: `python cli.py COMMAND`; `--help` lists them."""

import preflight  # noqa: F401

# isort: split

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import app
import cli_backup
import cli_chat
import cli_doctor
import cli_models
import cli_transfer
import cli_users
from errors import StartError
from graph.changes import breaking_changes
from graph.schema import print_schema
from models.migrate import migrate
from setting_groups import ROOT
from settings import Settings, load_settings

STOPPED, UNREAD = 130, 141
"""By Ctrl-C, and by a closed pipe: 128 and the signal, as shells have it."""
SCHEMA_FILE = ROOT / "schema.graphql"


def serve(_arguments: argparse.Namespace) -> int:
    return app.main()


def run_migrations(_arguments: argparse.Namespace) -> int:
    settings = load_settings()
    migrate(settings.database)
    print(f"{settings.database} is at the newest migration")
    return 0


def schema(arguments: argparse.Namespace) -> int:
    """Print the schema; with --check, say what differs from schema.graphql and which of it breaks clients."""
    printed = print_schema()
    if not arguments.check:
        print(printed, end="")
        return 0
    stored = SCHEMA_FILE.read_text(encoding="utf-8")
    if stored == printed:
        print("schema.graphql is what the code says")
        return 0
    for change in breaking_changes(stored, printed):
        print(f"BREAKING: {change}", file=sys.stderr)
    print("schema.graphql differs from the code: run `make schema` and commit it", file=sys.stderr)
    return 1


def settings_table(_arguments: argparse.Namespace) -> int:
    """Print every setting as a Markdown table: what docs/operations.md holds."""
    print("| variable | default | meaning |")
    print("| --- | --- | --- |")
    for name, field in Settings.model_fields.items():
        print(f"| `{name.upper()}` | {_shown(field.default)} | {field.description} |")
    return 0


def _shown(default: object) -> str:
    if default is None:
        return ""
    if isinstance(default, bool):
        return "on" if default else "off"
    if isinstance(default, tuple):
        return f"`{','.join(default)}`" if default else ""
    return "`data` beside app.py" if isinstance(default, Path) else f"`{default}`"


COMMANDS: dict[str, tuple[Callable[[argparse.Namespace], int], str]] = {
    "serve": (serve, "serve the API, as `python app.py` does"),
    "chat": (cli_chat.run, "ask a model here in the terminal"),
    "migrate": (run_migrations, "make the database, or bring it to the newest migration"),
    "backup": (cli_backup.back_up, "copy the whole database into a file, while it is served"),
    "restore": (cli_backup.restore, "put a backup in the place of the database"),
    "export": (cli_transfer.export, "write a user's conversations into a file, as JSON"),
    "import": (cli_transfer.import_, "give a user the conversations of such a file"),
    "user": (cli_users.run, "make, promote, disable users, or set their passwords"),
    "models": (cli_models.run, "list the embedded models, or fetch one"),
    "schema": (schema, "print the GraphQL schema"),
    "settings": (settings_table, "print every setting as a table"),
    "doctor": (cli_doctor.doctor, "say what this machine would run with, and what is wrong with that"),
}


ARGUMENTS: dict[str, Callable[[argparse.ArgumentParser], None]] = {
    "backup": cli_backup.add_arguments,
    "chat": cli_chat.add_arguments,
    "restore": cli_backup.add_arguments,
    "export": cli_transfer.add_export_arguments,
    "import": cli_transfer.add_arguments,
    "models": cli_models.add_arguments,
    "user": cli_users.add_arguments,
}


def parser() -> argparse.ArgumentParser:
    root = argparse.ArgumentParser(prog="cli.py", description="AI Chat Studio")
    commands = root.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (_, text) in COMMANDS.items():
        command = commands.add_parser(name, help=text, description=text)
        if name in ARGUMENTS:
            ARGUMENTS[name](command)
        if name == "schema":
            command.add_argument("--check", action="store_true", help="compare with schema.graphql instead")
    return root


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; its exit code. 1 and one line when the settings cannot work."""
    chosen = parser().parse_args(arguments)
    try:
        return COMMANDS[chosen.command][0](chosen)
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
