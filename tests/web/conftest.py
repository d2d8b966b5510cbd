"""A browser with every other host cut off, and the two pages that npm builds."""

from __future__ import annotations

import shutil
import socket
import subprocess
import threading
from collections.abc import AsyncIterator, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from filelock import FileLock
from playwright.async_api import Browser, BrowserContext, Route, async_playwright

from tests.server import Server, running

ROOT = Path(__file__).parents[2]
CHROMIUM_ARGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
# The two that the guide's front end and ALLOWED_ORIGINS agree on.
FRONTEND_PORT = 3000
BACKEND_PORT = 8000


def npm(project: Path, *arguments: str) -> None:
    executable = shutil.which("npm")
    if executable is None:
        pytest.skip("npm is not installed")
    done = subprocess.run([executable, *arguments], cwd=project, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"npm {' '.join(arguments)}:\n{done.stdout}{done.stderr}"


def install(project: Path) -> None:
    """`npm ci`, unless node_modules already is what the lock says. Another test process may be at it."""
    installed, lock = project / "node_modules/.package-lock.json", project / "package-lock.json"
    with FileLock(project / ".install.lock"):
        if not installed.exists() or installed.stat().st_mtime < lock.stat().st_mtime:
            npm(project, "ci")


@pytest.fixture
def base_url(server: Server) -> str:
    """The address of a running server."""
    return server.url


@pytest.fixture(scope="session")
def guide_backend(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server at the address that the guide's front end has built in."""
    with socket.socket() as probe:
        if not probe.connect_ex(("127.0.0.1", BACKEND_PORT)):
            pytest.skip(f"port {BACKEND_PORT}, which the guide's front end has built in, is taken")
    with running(tmp_path_factory.mktemp("guide-backend"), PORT=str(BACKEND_PORT), HOST="0.0.0.0"):
        yield f"http://localhost:{BACKEND_PORT}"


@pytest.fixture(scope="session")
def graphiql_built() -> None:
    web = ROOT / "web"
    with FileLock(web / ".build.lock"):
        if not (web / "dist/index.html").exists():
            install(web)
            npm(web, "run", "build")


@pytest.fixture(scope="session")
def guide_dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    project, out = ROOT / "tests/web/guide", tmp_path_factory.mktemp("guide")
    install(project)
    npm(project, "run", "build", "--", "--outDir", str(out), "--emptyOutDir")
    return out


@pytest.fixture
def guide_page(guide_dist: Path) -> Iterator[str]:
    handler = partial(_QuietHandler, directory=str(guide_dist))
    try:
        server = ThreadingHTTPServer(("127.0.0.1", FRONTEND_PORT), handler)
    except OSError as error:
        pytest.skip(f"port {FRONTEND_PORT}: {error}")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://localhost:{FRONTEND_PORT}"
    server.shutdown()
    thread.join()
    server.server_close()


class _QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    executable = shutil.which("chromium")
    if executable is None:
        pytest.skip("Chromium is not installed")
    async with async_playwright() as playwright:
        chromium = await playwright.chromium.launch(executable_path=executable, args=CHROMIUM_ARGS)
        yield chromium
        await chromium.close()


class Cut:
    """The network beyond this machine: not there, and it remembers who asked for it."""

    def __init__(self) -> None:
        self.asked_for: list[str] = []

    async def __call__(self, route: Route) -> None:
        if self.is_ours(route.request.url):
            await route.continue_()
        else:
            self.asked_for.append(route.request.url)
            await route.abort()

    @staticmethod
    def is_ours(url: str) -> bool:
        address = urlsplit(url)
        return address.scheme in {"data", "blob"} or address.hostname in {"localhost", "127.0.0.1"}


@pytest.fixture
def cut() -> Cut:
    return Cut()


@pytest.fixture
async def offline(browser: Browser, cut: Cut) -> BrowserContext:
    context = await browser.new_context(viewport={"width": 1400, "height": 900})
    context.set_default_timeout(20_000)
    await context.route("**/*", cut)
    await context.grant_permissions(["clipboard-read", "clipboard-write"])
    return context
