import gc
import inspect
import json
import logging
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pytest
from uvicorn import Config
from uvicorn.protocols.http import httptools_impl
from uvicorn.supervisors.multiprocess import SIGNALS, Process
from websockets.sync.client import connect

from errors import StartError
from models.address import PostgresAddress
from serve import (
    CUT_STREAM,
    YOUNG_OBJECTS,
    CutStreams,
    WithoutQueries,
    Workers,
    banner,
    check_port,
    port_of_command,
    print_once,
    settle_memory,
)
from tests.conftest import StartServer, register_on
from tests.databases import look
from tests.server import ROOT, Server, environment, free_port, unprivileged

ROOT_S_PORTS = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start")
PYTHON = [sys.executable, "app.py"]
UVICORN = [sys.executable, "-m", "uvicorn", "app:app", "--host", "127.0.0.1", "--port", "{port}"]
COMMANDS = pytest.mark.parametrize("command", [PYTHON, UVICORN], ids=["python", "uvicorn"])
BANNER = """\
🚀 启动 AI Chat Studio Backend...
📝 API文档: http://localhost:{port}/docs
🔌 WebSocket: ws://localhost:{port}/ws/{{user_id}}
🍓 GraphQL: http://localhost:{port}/graphql
🤖 Model: scripted
"""


def fail_to_start(folder: Path, command: list[str], **settings: str) -> tuple[int, str]:
    """Exit code and everything that was printed."""
    port = int(settings.pop("PORT", 0)) or free_port()
    values = environment(folder, port, EMBEDDED_MODEL="false", SCRIPTED_MODEL="true", **settings)
    arguments = [argument.replace("{port}", str(port)) for argument in command]
    done = subprocess.run(arguments, cwd=ROOT, env=values, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout + done.stderr


@contextmanager
def open_stream(server: Server) -> Iterator[Iterator[str]]:
    """The lines of a streamed chat that has begun and would go on for a minute."""
    body = {
        "messages": [{"id": "1", "content": "x", "role": "user", "timestamp": 1}],
        "model": "scripted:text=begun,wait=60",
        "stream": True,
    }
    headers = register_on(server).headers
    with httpx.stream("POST", f"{server.url}/api/chat", json=body, headers=headers, timeout=30) as stream:
        assert stream.status_code == 200
        lines = (line for line in stream.iter_lines() if line)
        assert "begun" in next(lines)
        yield lines


class TestBanner:
    def test_is_the_guides_three_lines_then_ours(self) -> None:
        assert banner(8000, "scripted") == BANNER.format(port=8000)

    @pytest.mark.parametrize("more", [[], ["--workers", "2"], ["--reload", "--reload-dir", "models"]])
    def test_is_printed_once_with_the_real_port(self, start_server: StartServer, more: list[str]) -> None:
        server = start_server(command=[*UVICORN, *more], WORKERS="2")
        if "--workers" in more:
            deadline = time.monotonic() + 20
            while server.log().count("startup complete") < 2 and time.monotonic() < deadline:
                time.sleep(0.05)
        assert BANNER.format(port=server.port) in server.log()
        assert server.log().count("🚀") == 1
        assert ("WORKERS is for `python app.py`" in server.log()) == (not more), "it would be silently ignored"

    def test_does_not_need_an_output_that_can_say_it(self, start_server: StartServer) -> None:
        server = start_server(PYTHONIOENCODING="ascii", PYTHONUTF8="0")
        assert f"ws://localhost:{server.port}/ws/{{user_id}}" in server.log()
        assert "🚀" not in server.log()

    def test_of_a_worker_is_left_to_the_first_one(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr("serve.is_worker", lambda: True)
        for parent in ("7 100", "7 100", "7 200"):  # the same number, another start
            monkeypatch.setattr("serve._parent", lambda parent=parent: parent)
            print_once("hello\n", tmp_path)
        assert capsys.readouterr().out == "hello\n" * 2


@pytest.mark.parametrize(
    ("arguments", "variable", "port"),
    [
        ("uvicorn app:app", None, 8000),
        ("uvicorn app:app --port 9000", None, 9000),
        ("uvicorn --port=9000 app:app", None, 9000),
        ("uvicorn app:app", "9001", 9001),
        ("uvicorn app:app --port 9000", "9001", 9000),
        ("uvicorn app:app --port", None, 8000),
        ("uvicorn app:app --port x", "x", 8000),
    ],
)
def test_the_port_is_the_command_s(
    arguments: str, variable: str | None, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("UVICORN_PORT", raising=False)
    if variable is not None:
        monkeypatch.setenv("UVICORN_PORT", variable)
    assert port_of_command(arguments.split()) == port


class TestStart:
    def test_serves_the_pages_that_describe_it(self, server: Server) -> None:
        """The offline copies: no page of a server loads from elsewhere."""
        page = httpx.get(f"{server.url}/docs")
        assert (page.status_code, "swagger" in page.text.lower()) == (200, True)
        assert "cdn" not in page.text
        assert httpx.get(f"{server.url}/redoc").status_code == 200
        described = httpx.get(f"{server.url}/openapi.json").json()
        assert described["info"] == {**described["info"], "title": "AI Chat Studio API", "version": "2.0.0"}
        assert {"/api/auth/login", "/api/chat", "/api/conversations", "/health"} <= set(described["paths"])

    def test_again_is_quick_and_prints_its_banner_again(self, start_server: StartServer, tmp_path: Path) -> None:
        """Under 3 s on a quiet machine; the bound here is for one that is not. A container's process has the same
        number after each restart, and its data directory stays."""
        for _ in range(2):
            begun = time.perf_counter()
            server = start_server(data_dir=tmp_path / "data")
            taken = time.perf_counter() - begun
            begun = time.perf_counter()
            assert server.stop() == 0
            assert time.perf_counter() - begun < 5, "nobody was connected"
        print(f"the second start answered after {taken:.2f} s")
        assert taken < 10
        assert server.log().count("🚀") == 2

    @pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "::1"])
    def test_on_a_taken_port_is_one_line_that_names_it(self, tmp_path: Path, host: str) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family) as taken:
            taken.bind((host, 0))
            taken.listen()
            port = taken.getsockname()[1]
            with pytest.raises(StartError, match=f"PORT: cannot listen on .*{port}"):
                check_port(host, port)
            if host == "127.0.0.1":
                code, printed = fail_to_start(tmp_path, PYTHON, PORT=str(port))
                assert (code, printed.count("\n")) == (1, 1)
                assert printed.startswith("PORT:")

    @pytest.mark.skipif(not ROOT_S_PORTS.exists() or int(ROOT_S_PORTS.read_text()) <= 80, reason="anybody may have it")
    def test_on_a_port_of_root_s_is_told_which_ones_are_not(self) -> None:
        with unprivileged(), pytest.raises(StartError, match=r"Permission denied\); set PORT to one above 1023$"):
            check_port("127.0.0.1", 80)

    def test_on_an_address_that_is_not_here_is_one_line(self) -> None:
        for host in ("192.0.2.1", "nowhere.invalid"):
            with pytest.raises(StartError, match=r"^HOST: "):
                check_port(host, free_port())

    def test_on_a_standby_is_one_line_that_says_so(self, tmp_path: Path, postgres_address: PostgresAddress) -> None:
        """It reads, has all migrations and takes no writes."""
        name = postgres_address.dsn.rpartition("/")[2]
        look(postgres_address, f"ALTER DATABASE {name} SET default_transaction_read_only = on")
        code, printed = fail_to_start(tmp_path, PYTHON, DATABASE_URL=postgres_address.dsn)
        assert code == 1
        assert "DATABASE_URL: cannot use" in printed
        assert "read-only" in printed
        assert "Traceback" not in printed

    @COMMANDS
    @pytest.mark.parametrize("workers", ["1", "4"])
    @pytest.mark.parametrize("name", ["DATABASE_URL", "DATA_DIR"])
    def test_that_cannot_work_is_one_line_that_names_the_variable(
        self, tmp_path: Path, command: list[str], name: str, workers: str
    ) -> None:
        (tmp_path / "file").write_text("not a directory")
        bad = {
            "DATABASE_URL": f"sqlite:///{tmp_path}/file/chat.db",
            "DATA_DIR": f"{tmp_path}/file/data",
        }
        code, printed = fail_to_start(tmp_path / "data", command, **{name: bad[name], "WORKERS": workers})
        assert code == (1 if command is PYTHON else 3), "3 is uvicorn's own"
        assert "Traceback" not in printed
        lines = [line for line in printed.splitlines() if name in line]
        assert len(lines) == 1
        assert not [line for line in printed.splitlines() if "Error" in line and line not in lines]


class TestStop:
    @COMMANDS
    def test_with_an_open_stream_ends_within_the_grace(self, start_server: StartServer, command: list[str]) -> None:
        """Trap 17: an open stream would hold the server until it is killed."""
        server = start_server(command=command, SHUTDOWN_GRACE_SECONDS="0.5")
        with open_stream(server) as stream:
            begun = time.monotonic()
            server.process.send_signal(signal.SIGTERM)
            rest = list(stream)
        assert server.process.wait(20) == 0
        assert time.monotonic() - begun < 8
        assert rest, "the reader was told of the end"
        types = [json.loads(line.removeprefix("data: "))["type"] for line in rest if line.startswith("data: ")]
        assert types[-1] == "chat_complete"
        assert "Traceback" not in server.log()
        assert "Application shutdown complete" in server.log()

    @COMMANDS
    def test_by_ctrl_c_is_quiet(self, start_server: StartServer, command: list[str]) -> None:
        server = start_server(command=command)
        assert server.stop(signal.SIGINT) == 0
        assert "Traceback" not in server.log()


class TestLog:
    def test_never_holds_a_token(self, start_server: StartServer) -> None:
        server = start_server(LOG_LEVEL="debug")
        token = register_on(server).token
        with connect(f"{server.ws}/ws/guest?x=1&token=not.a.real-token") as socket_, suppress(Exception):
            socket_.recv(timeout=5)
        with connect(f"{server.ws}/ws/guest2") as socket_:
            socket_.send('{"type": "ping"}')
            assert json.loads(socket_.recv(timeout=5))["type"] == "pong"
        httpx.get(f"{server.url}/health?access_token={token}")
        httpx.get(f"{server.url}/api/auth/me", headers={"Authorization": f"Bearer {token}"})
        server.stop()
        log = server.log()
        assert "/ws/guest?…" in log
        assert "/health?…" in log
        for private in (token, token.split(".")[2], "not.a.real", "password123"):
            assert private not in log

    @pytest.mark.parametrize(
        ("text", "told"),
        [
            ("/ws/1?token=abc.def-_", "/ws/1?…"),
            ("/ws/1?%74oken=abc", "/ws/1?…"),
            ('"GET /x?access_token=abc HTTP/1.1"', '"GET /x?… HTTP/1.1"'),
            ("no such thing", "no such thing"),
        ],
    )
    def test_queries_are_left_out(self, text: str, told: str) -> None:
        record = logging.LogRecord("x", logging.INFO, "", 0, "%s %d", (text, 1), None)
        assert WithoutQueries().filter(record)
        assert record.getMessage() == f"{told} 1"


def test_a_stream_that_a_stop_cuts_is_logged_as_no_error() -> None:
    assert CUT_STREAM in inspect.getsource(httptools_impl), "uvicorn says it otherwise now"
    record = logging.LogRecord("uvicorn.error", logging.ERROR, "", 0, CUT_STREAM, (), None)
    assert CutStreams().filter(record)
    assert (record.levelno, record.levelname) == (logging.INFO, "INFO")


def test_what_the_start_made_is_never_walked_again() -> None:
    before = gc.get_threshold()
    try:
        settle_memory()
        assert gc.get_freeze_count() > 10_000
        assert gc.get_threshold()[0] == YOUNG_OBJECTS
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()


class TestWorkers:
    """What looks after them asks, and waits for nobody: held up by one, it hears no signal and replaces none."""

    @pytest.fixture
    def workers(self) -> Iterator[Workers]:
        before = {number: signal.getsignal(number) for number in SIGNALS}
        yield Workers(Config("app:own", factory=True, workers=1, timeout_worker_healthcheck=20), [])
        for number, handler in before.items():
            signal.signal(number, handler)

    def test_one_that_does_not_answer_hangs_when_its_time_is_over(self, workers: Workers) -> None:
        worker = Process(workers.config, [])
        begun = time.monotonic()
        assert [workers.hangs(worker) for _ in range(3)] == [False] * 3
        assert time.monotonic() - begun < 5
        worker.pong()
        assert [workers.hangs(worker) for _ in range(2)] == [False] * 2
        workers.config.timeout_worker_healthcheck = 0
        assert workers.hangs(worker)

    def test_one_that_starts_is_given_its_time(self, workers: Workers) -> None:
        """Killed for it, and begun again, it would never be ready on a busy machine."""
        worker = Process(workers.config, [])
        workers.config.timeout_worker_healthcheck = 0
        assert [workers.hangs(worker) for _ in range(2)] == [False] * 2

    def test_one_that_answers_is_asked_again(self, workers: Workers) -> None:
        worker = Process(workers.config, [])
        for _ in range(2):
            assert not workers.hangs(worker)
            assert worker.child_conn.poll()
            worker.pong()
            assert not workers.hangs(worker)
        assert not worker.child_conn.poll()

    def test_one_whose_pipe_is_closed_hangs(self, workers: Workers) -> None:
        worker = Process(workers.config, [])
        worker.parent_conn.close()
        assert workers.hangs(worker)

    def test_none_is_begun_again_behind_a_signal_to_stop(self, workers: Workers) -> None:
        """A terminal's Ctrl-C reaches them all at once: they end before they are told to."""
        worker = Process(workers.config, [])
        workers.processes = [worker]
        worker.parent_conn.close()
        workers.should_exit.set()
        workers.keep_subprocess_alive()
        assert workers.processes == [worker]
