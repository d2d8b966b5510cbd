"""What make does where something is missing."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.server import ROOT

LIKE_DEBIAN = """\
#!/bin/sh
case "$1" in -c) exec {python} "$@";; esac
mkdir -p .venv/bin && ln -s {python} .venv/bin/python
echo "ensurepip is not available" >&2
exit 1
"""
"""Debian's python3 without python3-venv: the environment is begun, and has no pip."""


@pytest.mark.skipif(os.name == "nt" or shutil.which("make") is None, reason="make is not there")
def test_an_environment_that_could_not_be_made_is_begun_again(tmp_path: Path) -> None:
    shutil.copy(ROOT / "Makefile", tmp_path)
    python = tmp_path / "python"
    python.write_text(LIKE_DEBIAN.format(python=shutil.which("python3")))
    python.chmod(0o755)
    command = ["make", "PYTHON3=./python", ".venv/bin/python"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=30)
    assert (done.returncode, "ensurepip is not available" in done.stderr) == (2, True)
    assert not (tmp_path / ".venv/bin/python").is_symlink(), "make would take it for the whole, which has no pip"
