"""deploy/chatstudio.service, read by systemd's own checker."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.server import ROOT

UNIT = ROOT / "deploy" / "chatstudio.service"
MOST_EXPOSED = 20
"""Tenths; without its lines of hardening a service has 96."""


@pytest.fixture
def analyze() -> str:
    program = shutil.which("systemd-analyze")
    if program is None:
        if os.environ.get("CI"):
            pytest.fail("systemd-analyze is not here")
        pytest.skip("systemd-analyze is not here (Debian: apt install systemd)")
    return program


def test_has_nothing_that_systemd_does_not_know(analyze: str, tmp_path: Path) -> None:
    """Where this project stands, since it looks for the programs too."""
    text = UNIT.read_text(encoding="utf-8").replace("/opt/chat-studio", str(ROOT))
    (tmp_path / UNIT.name).write_text(text, encoding="utf-8")
    done = subprocess.run([analyze, "verify", str(tmp_path / UNIT.name)], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_is_hardened(analyze: str) -> None:
    command = [analyze, "security", "--offline=true", f"--threshold={MOST_EXPOSED}", str(UNIT)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout[-400:] + done.stderr


def test_says_where_everything_is() -> None:
    lines = dict(re.findall(r"^(\w+)=(.*)$", UNIT.read_text(encoding="utf-8"), re.MULTILINE))
    assert lines["ExecStart"] == f"{lines['WorkingDirectory']}/.venv/bin/python app.py"
    assert f"DATA_DIR=/var/lib/{lines['StateDirectory']}" in lines["Environment"]
    assert "APP_ENV=production" in lines["Environment"]
    assert int(lines["TimeoutStopSec"]) > 5 + 10, "answers get SHUTDOWN_GRACE_SECONDS, connections 10 more"
