"""Imported before anything else by what people start: another Python than the project's is said in one line, not in a
traceback. Has to be read by the older ones too, as the files that import it have."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.util import find_spec

OLDEST = (3, 11)
NEEDED = ("uvicorn", "strawberry", "sqlmodel")
"""Some of requirements.txt: where one is missing another Python was meant."""


def problem(version: Sequence[int], missing: Sequence[str]) -> str | None:
    """What is wrong with a Python of this version in which these are missing; None: nothing."""
    if tuple(version) < OLDEST:
        return f"Python 3.11 or newer is needed, and {sys.executable} is {'.'.join(map(str, version))}"
    if missing:
        return (
            f"{sys.executable} does not have {', '.join(missing)}: run this by .venv/bin/python, which `make run` makes"
            " (Windows: .venv\\Scripts\\python), or pip install -r requirements.txt"
        )
    return None


if line := problem(sys.version_info[:3], [name for name in NEEDED if find_spec(name) is None]):
    sys.exit(line)
