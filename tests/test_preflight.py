"""What people start says in one line that it is the wrong Python."""

import ast
import subprocess
import sys

import pytest

from preflight import OLDEST, problem
from tests.server import ROOT

STARTED = ("app.py", "main.py", "cli.py")


@pytest.mark.parametrize("file", STARTED)
def test_a_python_without_the_requirements_is_told_which_one_has_them(file: str) -> None:
    """Who has said `make run` and then `python cli.py …` has another Python."""
    without_packages = [sys.executable, "-S", file]
    done = subprocess.run(without_packages, cwd=ROOT, capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert "does not have uvicorn, strawberry, sqlmodel: run this by .venv/bin/python" in done.stderr


def test_an_old_python_is_told_which_one_is_needed() -> None:
    assert problem((3, 9, 18), ["uvicorn"]) == f"Python 3.11 or newer is needed, and {sys.executable} is 3.9.18"
    assert problem((*OLDEST, 0), []) is None


@pytest.mark.parametrize("file", [*STARTED, "preflight.py"])
def test_old_pythons_can_read_so_far(file: str) -> None:
    """Or they stop at syntax that they do not know, before they are told."""
    ast.parse((ROOT / file).read_text(encoding="utf-8"), feature_version=(3, 8))
