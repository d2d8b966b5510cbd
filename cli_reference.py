"""`python cli.py serve | schema | settings`: what needs the whole application, and prints what it is."""

import argparse
import sys
from pathlib import Path

import app
from graph.changes import breaking_changes
from graph.schema import print_schema
from setting_groups import ROOT
from settings import Settings

SCHEMA_FILE = ROOT / "schema.graphql"


def serve(_arguments: argparse.Namespace) -> int:
    return app.main()


def add_schema_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("--check", action="store_true", help="compare with schema.graphql instead")


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
