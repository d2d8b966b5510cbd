"""A server as users start it: `python app.py` in its own process, on a free port, with its own data directory."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

ROOT = Path(__file__).resolve().parent.parent
MODELS_DIR = ROOT / ".cache" / "models"
START_SECONDS = 60
NOBODY = 65534
SECRET = "a secret for tests only, 32 bytes or more"


@dataclass
class Server:
    """A running server. `log` reads what it has printed so far."""

    process: subprocess.Popen[bytes]
    port: int
    data_dir: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def ws(self) -> str:
        return f"ws://127.0.0.1:{self.port}"

    def log(self) -> str:
        return (self.data_dir / "server.log").read_text(errors="replace")

    def stop(self, number: int = signal.SIGTERM, seconds: float = 30) -> int:
        """Send the signal and wait; the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(seconds)


@contextmanager
def unprivileged() -> Iterator[None]:
    """As a user who may not do everything, where root runs the tests."""
    root = os.geteuid() == 0
    try:
        if root:
            os.seteuid(NOBODY)
        yield
    finally:
        if root:
            os.seteuid(0)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def environment(data_dir: Path, port: int, **settings: str) -> dict[str, str]:
    """The environment of a server that reads no `.env` of the developer's."""
    kept = {name: value for name, value in os.environ.items() if name in {"PATH", "HOME", "LANG", "TMPDIR"}}
    kept |= {name: value for name, value in os.environ.items() if name.startswith(("PIP_", "SSL_"))}
    return {
        **kept,
        "PYTHONUTF8": "1",
        "PYTHONWARNINGS": "error::ResourceWarning",
        "HOST": "127.0.0.1",
        "PORT": str(port),
        "DATA_DIR": str(data_dir),
        "MODELS_DIR": str(MODELS_DIR),
        "SECRET_KEY": SECRET,
        **settings,
    }


def wait_until_up(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    # One client for all the asking: each that is made reads certificates, half as much work as the start itself.
    with httpx.Client(timeout=2, verify=False) as client:
        while time.monotonic() < deadline:
            if process.poll() is not None:
                raise RuntimeError(f"the server ended with {process.returncode}:\n{log.read_text(errors='replace')}")
            try:
                if client.get(f"http://127.0.0.1:{port}/").status_code == 200:
                    return
            except httpx.TransportError:
                time.sleep(0.05)
    raise RuntimeError(f"the server did not answer:\n{log.read_text(errors='replace')}")


@contextmanager
def running(data_dir: Path, command: list[str] | None = None, **settings: str) -> Iterator[Server]:
    """A server with these environment variables, until the block is left. By default on the scripted model alone."""
    data_dir.mkdir(parents=True, exist_ok=True)
    port = int(settings.pop("PORT", 0)) or free_port()
    log = data_dir / "server.log"
    arguments = command or [sys.executable, "app.py"]
    arguments = [argument.replace("{port}", str(port)) for argument in arguments]
    defaults = {"SCRIPTED_MODEL": "true", "EMBEDDED_MODEL": "false", "RATE_LIMITS": "off", "TITLE_MODEL": "none"}
    with log.open("ab") as output:
        process = subprocess.Popen(
            arguments,
            cwd=ROOT,
            env=environment(data_dir, port, **{**defaults, **settings}),
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    server = Server(process, port, data_dir)
    try:
        wait_until_up(process, port, log)
        yield server
    finally:
        try:
            server.stop()
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise
