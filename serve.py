"""What surrounds the application when it is served: the socket, the banner, the logs, the signals."""

import errno
import gc
import logging
import multiprocessing
import os
import pickle
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from weakref import WeakKeyDictionary, WeakSet

from filelock import FileLock
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn import Config, Server
from uvicorn.config import STARTUP_FAILURE
from uvicorn.logging import DefaultFormatter
from uvicorn.supervisors import Multiprocess
from uvicorn.supervisors.multiprocess import Process

from errors import StartError

logger = logging.getLogger(__name__)
supervision = logging.getLogger("uvicorn.error")

DEFAULT_PORT = 8000
QUERY = re.compile(r"\?\S+")
CUT_STREAM = "ASGI callable returned without completing response."
"""As uvicorn says it."""
YOUNG_OBJECTS = 50_000
"""Made and not yet gone, at which they are searched for rings: 5 MB, 2 ms. At Python's 700 all that lives for a window
of the log is walked before it goes, which took 2 to 3 µs a token."""
OUR_LOGGERS = (
    "graph",
    "rest",
    "chat",
    "auth",
    "providers",
    "bus",
    "models",
    "app",
    "serve",
    "sharing",
    "model_providers",
)
STARTING_SECONDS = 300
"""That a worker may take to its first answer. On a busy machine four of them import for half a minute, and none that is
killed for it is ever ready."""
Handler = Callable[[int, FrameType | None], None]


def check_port(host: str, port: int) -> None:
    """Know that the port is taken before anything is started: the server binds it last.

    Raises:
        StartError: one line that names PORT or HOST.
    """
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM) as probe:
        if os.name != "nt":
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except socket.gaierror as error:
            raise StartError(f"HOST: {host!r} is not an address of this machine") from error
        except OSError as error:
            if error.errno == errno.EADDRNOTAVAIL:
                raise StartError(f"HOST: {host!r} is not an address of this machine") from error
            better = "one above 1023" if error.errno == errno.EACCES else "a free one"
            why = f"cannot listen on {host}:{port} ({error.strerror})"
            raise StartError(f"PORT: {why}; set PORT to {better}") from error


def port_of_command(arguments: list[str]) -> int:
    """The port that `uvicorn app:app` was told, by its argument or its variable."""
    for index, argument in enumerate(arguments):
        name, _, value = argument.partition("=")
        if name == "--port":
            value = value or (arguments[index + 1] if index + 1 < len(arguments) else "")
            return int(value) if value.isdigit() else DEFAULT_PORT
    value = os.environ.get("UVICORN_PORT", "")
    return int(value) if value.isdigit() else DEFAULT_PORT


def settle_memory() -> None:
    """What start-up made lives as long as the process: without this, each full collection walks it for 100 ms."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS)


def banner(port: int, model: str) -> str:
    return (
        "🚀 启动 AI Chat Studio Backend...\n"
        f"📝 API文档: http://localhost:{port}/docs\n"
        f"🔌 WebSocket: ws://localhost:{port}/ws/{{user_id}}\n"
        f"🍓 GraphQL: http://localhost:{port}/graphql\n"
        f"🤖 Model: {model}\n"
    )


def print_once(text: str, directory: Path) -> None:
    """Print for the whole server: of the workers that one parent started, the first one does."""
    if is_worker():
        parent = _parent()
        with FileLock(directory / "banner.lock"):
            mark = directory / "banner"
            if mark.exists() and mark.read_text() == parent:
                return
            mark.write_text(parent)
    encoding = sys.stdout.encoding or "utf-8"
    sys.stdout.write(text.encode(encoding, "replace").decode(encoding))
    sys.stdout.flush()


def _parent() -> str:
    """The parent's number and, where it can be known, when it started: in a container the number is always the same."""
    number = os.getppid()
    try:
        status = Path(f"/proc/{number}/stat").read_text()
    except OSError:
        return str(number)
    return f"{number} {status.rpartition(')')[2].split()[19]}"


def is_worker() -> bool:
    """Whether this process serves for one that started it and others."""
    # uvicorn's workers and reloaders are spawned by multiprocessing, whose start-up leaves this name.
    return "multiprocessing.spawn" in sys.modules and "__mp_main__" in sys.modules


def stop_with_parent() -> None:
    """A worker whose parent was killed stops as if told to: nobody is left who could, and it would keep the port."""
    parent = multiprocessing.parent_process()
    if parent is None or not is_worker():
        return

    def watch() -> None:
        parent.join()
        logger.warning("the process that started this worker is gone: stopping")
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="parent", daemon=True).start()


class Workers(Multiprocess):
    """uvicorn's, but for its waiting: it asks one worker after the other, and one that was killed before it answered
    (at its start), or stood still, kept it for the whole of `timeout_worker_healthcheck`. Meanwhile nobody who died
    was replaced, and no signal was heard."""

    def __init__(self, config: Config, sockets: list[socket.socket]) -> None:
        super().__init__(config, sockets)
        self._asked: WeakKeyDictionary[Process, float] = WeakKeyDictionary()
        self._up: WeakSet[Process] = WeakSet()

    def keep_subprocess_alive(self) -> None:
        if self.should_exit.is_set():
            return
        for index, worker in enumerate(self.processes):
            if worker.process.is_alive() and not self.hangs(worker):
                continue
            worker.kill()
            worker.join()
            if worker.exitcode == STARTUP_FAILURE:
                supervision.error("Child process [%s] failed to start, stopping the parent process.", worker.pid)
                self.should_exit.set()
                return
            supervision.info("Child process [%s] died", worker.pid)
            self.processes[index] = Process(self.config, self.sockets)
            self.processes[index].start()

    def hangs(self, worker: Process) -> bool:
        """Whether it has left a question unanswered for too long. Asks the next one; does not wait."""
        try:
            if worker not in self._asked:
                worker.parent_conn.send(b"ping")
                self._asked[worker] = time.monotonic()
            elif worker.parent_conn.poll():
                worker.parent_conn.recv()
                self._up.add(worker)
                del self._asked[worker]
        except (OSError, EOFError, pickle.UnpicklingError):
            return True
        asked = self._asked.get(worker)
        patience = self.config.timeout_worker_healthcheck if worker in self._up else STARTING_SECONDS
        return asked is not None and time.monotonic() - asked > patience


def serve_workers(config: Config) -> int:
    """Serve by `config.workers` processes on one socket, until told to stop; those that die are replaced. The exit
    code: 1 when they could not start."""
    supervisor = Workers(config, [config.bind_socket()])
    supervisor.run()
    return int(any(process.exitcode == STARTUP_FAILURE for process in supervisor.processes))


class LateStderr(logging.StreamHandler):  # type: ignore[type-arg]
    """Writes to what sys.stderr is at the moment: a progress bar takes its place while it is drawn."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self):  # type: ignore[no-untyped-def]
        return sys.stderr


class WithoutQueries(logging.Filter):
    """Access logs hold addresses, and what is behind their `?` may be a token (the legacy socket's, however its name is
    escaped), or a GraphQL document with a password in it."""

    def filter(self, record: logging.LogRecord) -> bool:
        if isinstance(record.args, tuple):
            record.args = tuple(QUERY.sub("?…", arg) if isinstance(arg, str) else arg for arg in record.args)
        return True


class OneLineForClients(logging.Filter):
    """A frame that is not UTF-8 is a client's mistake: uvicorn closes its socket with 1007, and logs a traceback."""

    def filter(self, record: logging.LogRecord) -> bool:
        if isinstance(record.exc_info, tuple) and isinstance(record.exc_info[1], UnicodeDecodeError):
            record.exc_info, record.levelno, record.levelname = None, logging.WARNING, "WARNING"
        return True


class CutStreams(logging.Filter):
    """A stream that a stopping server cuts, so that its reader goes on elsewhere, is no error: there was one for each,
    at every deploy."""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.msg == CUT_STREAM:
            record.levelno, record.levelname = logging.INFO, "INFO"
        return True


def configure_logging(level: str) -> None:
    """Our loggers in uvicorn's format; libraries speak up from warnings on. May be called again."""
    root = logging.getLogger()
    if not any(isinstance(handler, LateStderr) for handler in root.handlers):
        handler = LateStderr()
        handler.setFormatter(DefaultFormatter("%(levelprefix)s %(message)s", use_colors=sys.stderr.isatty()))
        root.addHandler(handler)
    root.setLevel(logging.WARNING)
    for name in OUR_LOGGERS:
        logging.getLogger(name).setLevel(level.upper())
    logging.getLogger("httpx").setLevel(logging.WARNING)
    # It warns of every retry without saying of what; chat.attempts does.
    logging.getLogger("stamina").setLevel(logging.ERROR)
    # At debug uvicorn's WebSocket library prints every frame and header: users' texts, and tokens.
    logging.getLogger("uvicorn.error").setLevel(max(logging.INFO, logging.getLevelName(level.upper())))
    for name in ("uvicorn.access", "uvicorn.error"):
        logger = logging.getLogger(name)
        for kind in (WithoutQueries, OneLineForClients, CutStreams):
            if not any(isinstance(item, kind) for item in logger.filters):
                logger.addFilter(kind())


@contextmanager
def on_stop(call: Callable[[], None]) -> Iterator[None]:
    """Call when SIGTERM or SIGINT comes, before the server's own handler: uvicorn tells the application only after
    the last open stream has ended, and a stream that is not told never ends."""
    previous: dict[signal.Signals, Handler] = {}

    def handle(number: int, frame: FrameType | None) -> None:
        call()
        handler = previous.get(signal.Signals(number))
        server = getattr(handler, "__self__", None)
        if isinstance(server, Server) and not server.should_exit:
            # As its handler does, which would also raise the signal again at the end: an asked-for stop is exit code 0.
            server.should_exit = True
        elif callable(handler):
            handler(number, frame)

    for name in (signal.SIGTERM, signal.SIGINT):
        current = signal.getsignal(name)
        if callable(current):
            previous[name] = current
            try:
                signal.signal(name, handle)
            except ValueError:  # not the main thread: an embedding test, say
                previous.pop(name)
    try:
        yield
    finally:
        for name, handler in previous.items():
            if signal.getsignal(name) is handle:
                signal.signal(name, handler)


@contextmanager
def stopped_by_sigterm() -> Iterator[None]:
    """As by Ctrl-C: a command that only dies leaves half-written files, and its pip or pg_dump at work."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class OneLineStart:
    """A start that cannot work is told in one line, not in a traceback."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            await self.app(scope, receive, send)
            return

        async def tell(message: Message) -> None:
            error = getattr(scope["app"].state, "start_error", None)
            if message["type"] == "lifespan.startup.failed" and error is not None:
                message = {**message, "message": str(error)}
            await send(message)

        await self.app(scope, receive, tell)
