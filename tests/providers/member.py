"""A server process of a data directory, less the server: it joins, and says on its output what it sees."""

import asyncio
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from providers.supervisor import EmbeddedModel
from providers.weights import CATALOGUE

PROJECT = Path(__file__).resolve().parents[2]


class Member:
    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process
        self.said: dict[str, Any] = {"owner": False, "ready": False, "reason": None}
        self._news = threading.Condition()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._news:
                self.said = json.loads(line)
                self._news.notify_all()

    def wait(self, wish: Callable[[dict[str, Any]], bool], seconds: float = 30) -> None:
        with self._news:
            assert self._news.wait_for(lambda: wish(self.said), seconds), self.said

    @property
    def owner(self) -> bool:
        return bool(self.said["owner"])

    def children(self) -> list[int]:
        """The embedded children that this process started and that live."""
        return [
            child.pid
            for child in psutil.Process(self.process.pid).children()
            if child.status() != psutil.STATUS_ZOMBIE and "providers.child" in child.cmdline()
        ]

    def close(self) -> None:
        """As a server that is told to stop."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        assert self.process.wait(10) == 0

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@contextmanager
def member(data_dir: Path, models_dir: Path) -> Iterator[Member]:
    command = [sys.executable, "-W", "error", "-m", "tests.providers.member", str(data_dir), str(models_dir)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=PROJECT) as process:
        started = Member(process)
        try:
            yield started
        finally:
            if process.poll() is None:
                started.close()


def gone(pid: int, seconds: float) -> bool:
    """Whether the process ends within so many seconds."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.05)
    return False


async def main(data_dir: str, models_dir: str) -> None:
    weights = CATALOGUE["smollm2-135m-instruct"]
    model = EmbeddedModel(weights, data_dir=Path(data_dir), models_dir=Path(models_dir), fetch=False)
    await model.start()
    closed = asyncio.ensure_future(asyncio.to_thread(sys.stdin.read))
    last = ""
    while not closed.done():
        seen = {"owner": model.owner, "ready": model.status.endpoint is not None, "reason": model.status.reason}
        if (line := json.dumps(seen)) != last:
            print(last := line, flush=True)
        await asyncio.sleep(0.02)
    await model.aclose()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
