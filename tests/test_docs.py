"""Docs cannot drift: what they name exists, and what they list is complete."""

import re
import subprocess
import sys

import pytest
from dotenv import dotenv_values

from settings import Settings
from tests.server import ROOT

READMES = ("README.md", "README.zh.md")
COMPOSE_ONLY = {"DB_PASSWORD"}
"""Variables of docker-compose.yml that are no settings."""
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
    assert named <= known | codes | COMPOSE_ONLY, named - known - codes - COMPOSE_ONLY


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
    for shared in (r"^```(\w+)", r"\]\(((?!README)[^)]+)\)", r"^ *(?:(?:mutation|subscription)(?: \w+)?)?[ {]*(\w+)\("):
        found = [set(re.findall(shared, text, re.MULTILINE)) for text in (english, chinese)]
        assert found[0] == found[1], f"only in one of them: {found[0] ^ found[1]}"


def test_the_environment_example_names_every_setting_and_nothing_else() -> None:
    """Who copies it sees all there is. What stands behind a # is the default, or an example where there is none."""
    lines = re.findall(r"^(?:# )?([A-Z_]+)=(.*?)(?: +#.*)?$", read(".env.example"), re.MULTILINE)
    assert {name for name, _ in lines} == {name.upper() for name in Settings.model_fields} | COMPOSE_ONLY
    set_here = dotenv_values(ROOT / ".env.example")
    for name, value in lines:
        field = Settings.model_fields.get(name.lower())
        if name in set_here or field is None or field.default in (None, ()) or name == "DATA_DIR":
            continue
        assert value == as_text(field.default), f"{name}: its default is {as_text(field.default)}"


def as_text(default: object) -> str:
    if isinstance(default, bool):
        return "on" if default else "off"
    return ",".join(default) if isinstance(default, tuple) else str(default)


def test_the_environment_example_can_be_read() -> None:
    """With the guide's values."""
    settings = Settings(_env_file=ROOT / ".env.example")
    assert (settings.access_token_expire_minutes, settings.workers) == (1440, 4)


def test_what_the_security_page_claims_is_tested() -> None:
    """A threat whose test was renamed away is a threat that nobody looks at."""
    page = read("docs/security.md")
    named = re.findall(r"`((?:\w+/)?test_\w+\.py)(?:::(\w+))?`", page)
    assert len(named) > 40
    for file, name in named:
        path = ROOT / "tests" / file
        assert path.exists(), file
        assert not name or re.search(rf"(?:def|class) {name}\(", path.read_text(encoding="utf-8")), f"{file}::{name}"
    threats = [
        line for line in page.splitlines() if line.startswith("| ") and not line.startswith(("| attack", "| ---"))
    ]
    assert [line for line in threats if not re.search(r"`(?:\w+/)?test_|see below", line)] == []
    assert set(re.findall(r"\bAPI(\d+)\b", page)) == {str(number) for number in range(1, 11)}
