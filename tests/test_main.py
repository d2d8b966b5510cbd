"""The guide's own commands, to the letter: who follows it must not have to know that our module has another name."""

import subprocess
import sys

import pytest

from tests.conftest import StartServer
from tests.server import ROOT, environment

COMMANDS = {
    "python main.py": ([sys.executable, "main.py"], {"WORKERS": "2"}),
    "uvicorn main:app": (
        [sys.executable, "-m", "uvicorn", "main:app", "--host", "127.0.0.1", "--port", "{port}", "--workers", "2"],
        {},
    ),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_the_guides_commands_serve_and_its_test_script_passes(start_server: StartServer, command: str) -> None:
    arguments, settings = COMMANDS[command]
    server = start_server(command=arguments, **settings)
    done = subprocess.run(
        [sys.executable, "test_api.py", server.url],
        cwd=ROOT,
        env=environment(server.data_dir, server.port),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"http://localhost:{server.port}/docs" in server.log()
    assert server.stop() == 0
    assert "Traceback" not in server.log()
