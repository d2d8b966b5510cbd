"""Docs cannot drift: what they name exists, and what they list is complete."""

import re
import subprocess
import sys

import pytest
from dotenv import dotenv_values

from settings import Settings
from tests.server import ROOT

READMES = ("README.md", "README.zh.md")
PAGES = (*READMES, "CONTRIBUTING.md", *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md"))))


def cli(*arguments: str) -> str:
    done = subprocess.run([sys.executable, "cli.py", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def test_the_settings_table_is_what_the_code_says() -> None:
    """`python cli.py settings` prints it."""
    assert cli("settings") in read("docs/operations.md"), "paste the output of `python cli.py settings`"


@pytest.mark.parametrize("page", PAGES)
def test_links_between_pages_lead_somewhere(page: str) -> None:
    for target in re.findall(r"\]\(([^)#:]+)[^)]*\)", read(page)):
        assert ((ROOT / page).parent / target).exists(), f"{page} links to {target}"


@pytest.mark.parametrize("page", PAGES)
def test_every_make_command_in_the_docs_exists(page: str) -> None:
    targets = set(re.findall(r"^([a-z]+):", read("Makefile"), re.MULTILINE))
    named = set(re.findall(r"(?:^|`|\d )make ([a-z]+)", read(page), re.MULTILINE))
    assert named <= targets, named - targets


@pytest.mark.parametrize("page", PAGES)
def test_every_variable_in_the_docs_is_a_setting(page: str) -> None:
    known = {name.upper() for name in Settings.model_fields}
    named = set(re.findall(r"`([A-Z]+_[A-Z_]+)(?:=[^`]*)?`", read(page)))
    codes = set(re.findall(r'"([A-Z_]+)"', read("errors.py")))
    assert named <= known | codes, named - known - codes


def test_every_cli_command_in_the_docs_exists() -> None:
    text = cli("--help")
    for page in PAGES:
        for command in re.findall(r"python cli\.py ([a-z]+)", read(page)):
            assert re.search(rf"^\s+{command}\s", text, re.MULTILINE), f"{page}: {command}"


def test_the_two_readmes_have_the_same_chapters_and_commands() -> None:
    english, chinese = (read(name) for name in READMES)
    assert english.count("\n## ") == chinese.count("\n## ")
    shell = re.compile(r"^(?:make|curl|python|\.venv)[^#\n]*", re.MULTILINE)
    assert [line.strip() for line in shell.findall(english)] == [line.strip() for line in shell.findall(chinese)]


def test_the_environment_example_names_only_settings_and_can_be_read() -> None:
    values = dotenv_values(ROOT / ".env.example")
    known = {name.upper() for name in Settings.model_fields}
    assert set(values) <= known
    assert Settings(_env_file=ROOT / ".env.example").access_token_expire_minutes == 1440
