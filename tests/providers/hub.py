"""A model hub on a free port of this machine, which breaks as it is told to, over real sockets."""

import gzip
import hashlib
import os
import re
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from providers.weights import EmbeddedWeights, Hub

CONTENT = b"GGUF" + os.urandom(300_000)
SOURCE = Hub("someone/tiny-GGUF", "0123abcd", "tiny.gguf")
TINY = EmbeddedWeights(
    "tiny", "tiny.gguf", len(CONTENT), hashlib.sha256(CONTENT).hexdigest(), 128, languages=("en",), sources=(SOURCE,)
)


@dataclass(frozen=True)
class Manner:
    """How one request is answered. `cut`: bytes of the body after which the connection breaks; `stall`: after which
    nothing comes any more; `reset`: it breaks without a goodbye. `told`: a Content-Length that is not the body's; -1:
    none. `shift`: a part that begins elsewhere than it was asked to."""

    content: bytes = CONTENT
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    etag: str | None = '"v1"'
    ranges: bool = True
    cut: int | None = None
    stall: int | None = None
    reset: bool = False
    told: int | None = None
    shift: int = 0
    gzip: bool = False
    elsewhere: bool = False


@dataclass
class FakeHub:
    """`script`: how the next requests are answered, one each; afterwards as `manner` says."""

    url: str = ""
    manner: Manner = field(default_factory=Manner)
    script: list[Manner] = field(default_factory=list)
    asked: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    stalled: threading.Event = field(default_factory=threading.Event)
    release: threading.Event = field(default_factory=threading.Event)

    @property
    def ranges(self) -> list[str | None]:
        return [headers.get("range") for _, headers in self.asked]


@contextmanager
def serving() -> Iterator[FakeHub]:
    hub = FakeHub()

    class Handler(_Handler):
        fake = hub

    with _Server(("127.0.0.1", 0), Handler) as server:
        hub.url = f"http://127.0.0.1:{server.server_address[1]}"
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield hub
        hub.release.set()
        server.shutdown()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Its client goes away: that is the test."""


class _Handler(BaseHTTPRequestHandler):
    fake: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        self.fake.asked.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
        manner = self.fake.script.pop(0) if self.fake.script else self.fake.manner
        if manner.elsewhere:
            self.fake.script.insert(0, replace(manner, elsewhere=False))
            self._head(302, {"Location": f"{self.fake.url}/elsewhere?signed=1", "Content-Length": "0"})
            return
        offset = self._offset(manner)
        body = manner.content[offset + manner.shift if offset else 0 :]
        headers = dict(manner.headers)
        if manner.etag is not None:
            headers["ETag"] = manner.etag
        if offset:
            first, last = offset + manner.shift, len(manner.content) - 1
            headers["Content-Range"] = f"bytes {first}-{last}/{len(manner.content)}"
        if manner.gzip:
            body = gzip.compress(body)
            headers["Content-Encoding"] = "gzip"
        told = len(body) if manner.told is None else manner.told
        if told >= 0:
            headers["Content-Length"] = str(told)
        self._head(manner.status or (206 if offset else 200), headers)
        self._send(body, manner)

    def _offset(self, manner: Manner) -> int:
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if asked is None or not manner.ranges:
            return 0
        version = self.headers.get("If-Range")
        return int(asked[1]) if version is None or version == manner.etag else 0

    def _head(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def _send(self, body: bytes, manner: Manner) -> None:
        end = len(body)
        for point in (manner.cut, manner.stall):
            end = end if point is None else min(end, point)
        self.wfile.write(body[:end])
        if manner.stall is not None:
            self.fake.stalled.set()
            self.fake.release.wait(60)
        if manner.cut is not None or manner.told is not None:
            self.close_connection = True
        if manner.reset:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()


def left(models: Path) -> set[str]:
    """The files that are there."""
    return {path.name for path in models.iterdir()} - {".fetch.lock"}
