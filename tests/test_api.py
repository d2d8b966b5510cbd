"""The guide's test script: its seven points against a running server, and a test of the same under pytest.

    python tests/test_api.py [URL]        http://localhost:8000 by default; exit code 1 when a point fails

It needs nothing but Python. Colours are left out with NO_COLOR and where the output is no terminal.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from tests.server import Server

DEFAULT_URL = "http://localhost:8000"
SECONDS = 300
"""A model that is still being fetched, or runs on a small machine, takes its time."""
GREEN, RED, BOLD, PLAIN = "\x1b[32m", "\x1b[31m", "\x1b[1m", "\x1b[0m"


class Failed(Exception):
    """A point of the guide does not hold; the message says what came instead."""


@dataclass
class Api:
    """A client of the server at `url`. What a point finds out, the next ones use."""

    url: str
    token: str | None = None
    user: dict[str, Any] = field(default_factory=dict)
    conversation: dict[str, Any] = field(default_factory=dict)

    def ask(self, method: str, path: str, body: object = None) -> Any:
        """The JSON of a 200.

        Raises:
            Failed
        """
        headers = {"Content-Type": "application/json"}
        if self.token is not None:
            headers["Authorization"] = f"Bearer {self.token}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=SECONDS) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                raise Failed(f"{method} {path}: {error.code} {error.read(500).decode(errors='replace')}") from None
        except (OSError, ValueError) as error:
            raise Failed(f"{method} {path}: {error}") from None


def expect(right: bool, found: object) -> None:
    if not right:
        raise Failed(f"unexpected answer: {found!r}")


def health(api: Api) -> None:
    found = api.ask("GET", "/health")
    figures = [found.get(name) for name in ("active_connections", "total_users", "total_conversations")]
    expect(found.get("status") == "healthy" and "timestamp" in found, found)
    expect(all(isinstance(figure, int) for figure in figures), found)


def register(api: Api) -> None:
    name = f"testuser_{uuid.uuid4().hex[:12]}"
    api.user = {"username": name, "email": f"{name}@example.com"}
    found = api.ask("POST", "/api/auth/register", {**api.user, "password": "securepassword123"})
    expect(found.get("token_type") == "bearer" and isinstance(found.get("access_token"), str), list(found))
    api.token = found["access_token"]


def me(api: Api) -> None:
    found = api.ask("GET", "/api/auth/me")
    expect(set(found) >= {"id", "created_at"} and found | api.user == found, found)
    api.user = found


def create_conversation(api: Api) -> None:
    now = time.time_ns() // 1_000_000
    api.conversation = {
        "id": f"conv_{uuid.uuid4().hex}",
        "title": "新对话",
        "messages": [{"id": "msg1", "content": "你好，请介绍一下React", "role": "user", "timestamp": now}],
        "createdAt": now,
        "updatedAt": now,
        "model": "gpt-3.5-turbo",
        "userId": api.user["id"],
    }
    found = api.ask("POST", "/api/conversations", api.conversation)
    expect(found | api.conversation == found, found)


def list_conversations(api: Api) -> None:
    found = api.ask("GET", "/api/conversations")
    expect(isinstance(found, list) and api.conversation["id"] in [item["id"] for item in found], found)


def chat(api: Api) -> None:
    body = {
        "messages": api.conversation["messages"],
        "model": "gpt-3.5-turbo",
        "temperature": 0.7,
        "max_tokens": 64,
        "stream": False,
    }
    found = api.ask("POST", "/api/chat", body)
    expect(bool(found.get("content")) and found.get("tokens", 0) > 0 and bool(found.get("model")), found)


def stats(api: Api) -> None:
    found = api.ask("GET", "/api/stats")
    expect((found.get("total_conversations"), found.get("total_messages")) == (1, 1), found)
    expect(found.get("total_tokens", 0) > 0 and found.get("average_messages_per_conversation") == 1.0, found)


POINTS: list[tuple[str, Callable[[Api], None]]] = [
    ("健康检查 (/health)", health),
    ("用户注册 (/api/auth/register)", register),
    ("获取用户信息 (/api/auth/me)", me),
    ("创建对话 (/api/conversations)", create_conversation),
    ("获取对话列表 (/api/conversations)", list_conversations),
    ("聊天API (/api/chat)", chat),
    ("统计信息 (/api/stats)", stats),
]


def check(url: str) -> Iterator[tuple[str, str | None]]:
    """Each point and what is wrong with it (None: nothing), as it is found out."""
    api = Api(url.rstrip("/"))
    for name, point in POINTS:
        problem = None
        try:
            point(api)
        except Failed as error:
            problem = str(error)
        except (AttributeError, KeyError, TypeError) as error:
            problem = f"cannot be tried, or the answer has another shape: {error!r}"
        yield name, problem


def main(url: str, output: TextIO = sys.stdout) -> int:
    """Check and tell; the exit code."""
    coloured = output.isatty() and "NO_COLOR" not in os.environ

    def say(text: str, colour: str = "") -> None:
        line = f"{colour}{text}{PLAIN}" if coloured and colour else text
        encoding = output.encoding or "utf-8"
        output.write(line.encode(encoding, "replace").decode(encoding) + "\n")
        output.flush()

    say(f"AI Chat Studio API · {url}", BOLD)
    failed = 0
    for number, (name, problem) in enumerate(check(url), 1):
        if problem is None:
            say(f"✓ {number}. {name}", GREEN)
        else:
            failed += 1
            say(f"✗ {number}. {name}\n    {problem}", RED)
    passed = len(POINTS) - failed
    say(f"{passed}/{len(POINTS)} 通过", GREEN if not failed else RED)
    return 1 if failed else 0


def run_script(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONUTF8": "1", **variables}
    command = [sys.executable, __file__, *arguments]
    return subprocess.run(command, capture_output=True, text=True, encoding="utf-8", env=environment, timeout=60)


def test_the_guides_seven_points(server: Server) -> None:
    assert [problem for _, problem in check(server.url)] == [None] * 7


def test_the_script_tells_each_point_and_exits_0(server: Server) -> None:
    done = run_script(server.url)
    assert (done.returncode, done.stderr) == (0, "")
    assert [line[0] for line in done.stdout.splitlines()[1:-1]] == ["✓"] * 7
    assert "\x1b" not in done.stdout


def test_the_script_exits_1_when_nothing_answers() -> None:
    done = run_script("http://127.0.0.1:1")
    assert (done.returncode, done.stderr) == (1, "")
    assert [line[0] for line in done.stdout.splitlines() if line[0] in "✓✗"] == ["✗"] * 7


def test_an_output_that_cannot_encode_it_gets_replacements(server: Server) -> None:
    done = run_script(server.url, PYTHONUTF8="0", PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, "")


class Terminal:
    """An output that says it is a terminal."""

    encoding = "utf-8"

    def __init__(self) -> None:
        self.text = ""

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> None:
        self.text += text

    def flush(self) -> None: ...


def test_colours_are_for_terminals_and_honour_no_color(server: Server, monkeypatch: Any) -> None:
    for refused in (False, True):
        terminal = Terminal()
        if refused:
            monkeypatch.setenv("NO_COLOR", "1")
        else:
            monkeypatch.delenv("NO_COLOR", raising=False)
        assert main(server.url, terminal) == 0  # type: ignore[arg-type]
        assert (GREEN in terminal.text) is not refused


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else DEFAULT_URL))
