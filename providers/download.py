"""A large file over HTTP: broken off, it goes on where it was; what it brings is checked before anyone uses it."""

import asyncio
import re
import shutil
import threading
from collections.abc import Coroutine
from dataclasses import dataclass
from hashlib import file_digest
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import orjson

from providers.progress import Report
from providers.weights import Interrupted, SourceFailed

POLL = 0.1  # seconds between two looks at whether to stop
TRIES = 5  # in a row that bring nothing worth mentioning
TRIES_UNHEARD = 2  # of a host that has never answered
WORTH = 1 << 20  # bytes
PAUSE, LONGEST_PAUSE = 1.0, 30.0  # seconds; doubles
TIMEOUT = httpx.Timeout(30.0, connect=10.0)
PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
PARTIAL = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")
NOT_THE_FILE = "what {host} sent is not the file we know ({found})"


@dataclass(frozen=True, slots=True)
class Remote:
    """A file that is known before it is fetched: where it is, its size and SHA-256."""

    url: str
    bytes: int
    sha256: str

    @property
    def host(self) -> str:
        """For messages: an address may carry a password."""
        return urlsplit(self.url).hostname or "the hub"

    @property
    def place(self) -> str:
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{self.host}:{parts.port or ''}{parts.path}"


class _Broken(Exception):
    """A try that failed in a way that may pass. `pause`: seconds the server asked for."""

    def __init__(self, why: str, pause: float = 0) -> None:
        self.pause = pause
        super().__init__(why)


def mark_of(part: Path) -> Path:
    """Beside a part: which version of which address it is of."""
    return part.with_name(f"{part.name}.json")


def download(remote: Remote, part: Path, report: Report, stop: threading.Event) -> None:
    """Makes `part` the whole file, its size and digest checked. What there is of it already is gone on with, and what
    was got before a failure is kept. Blocks for minutes: run it in a thread.

    Raises SourceFailed, OSError, and Interrupted within POLL of `stop`.
    """
    asyncio.run(_until(stop, _download(remote, part, report)))
    mark_of(part).unlink(missing_ok=True)


async def _until(stop: threading.Event, work: Coroutine[None, None, None]) -> None:
    task = asyncio.ensure_future(work)
    while not task.done():
        if stop.is_set():
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            raise Interrupted
        await asyncio.wait([task], timeout=POLL)
    task.result()


async def _download(remote: Remote, part: Path, report: Report) -> None:
    try:
        client = httpx.AsyncClient(timeout=TIMEOUT, follow_redirects=True)
    except (ImportError, ValueError) as exc:  # a proxy in the environment that cannot be one
        raise SourceFailed(f"the proxy settings cannot be used ({exc})") from exc
    async with client:
        patched = await _transfer(client, remote, part, report)
        found = await _digest(part)
        if found != remote.sha256 and patched:
            # The pieces may be of two versions, or the first may have lost its end in a crash: once more, from nothing.
            _discard(part)
            await _transfer(client, remote, part, report)
            found = await _digest(part)
    if found != remote.sha256:
        _discard(part)
        raise SourceFailed(NOT_THE_FILE.format(host=remote.host, found=f"SHA-256 {found[:12]}…"))


async def _transfer(client: httpx.AsyncClient, remote: Remote, part: Path, report: Report) -> bool:
    """Until all bytes are there, in as many tries as bring something; whether they came in more than one piece."""
    begun = furthest = _size(part)
    fruitless = 0
    while True:
        try:
            return await _try(client, remote, part, report) > 0
        except (httpx.HTTPError, httpx.StreamError, httpx.InvalidURL, _Broken) as exc:
            reached = _size(part)
            fruitless = 0 if reached >= furthest + WORTH else fruitless + 1
            furthest = max(furthest, reached)
            unheard = isinstance(exc, httpx.ConnectError | httpx.ConnectTimeout) and furthest == begun
            if fruitless >= (TRIES_UNHEARD if unheard else TRIES) or isinstance(exc, httpx.InvalidURL):
                raise SourceFailed(_explain(exc, remote, furthest)) from exc
            pause = exc.pause if isinstance(exc, _Broken) else 0
            await asyncio.sleep(min(pause or PAUSE * 2 ** max(fruitless - 1, 0), LONGEST_PAUSE))


def _explain(exc: Exception, remote: Remote, furthest: int) -> str:
    if isinstance(exc, _Broken):
        return str(exc)
    if furthest:
        return f"the connection to {remote.host} keeps breaking; {furthest / remote.bytes:.0%} is kept"
    return f"no network, or {remote.host} does not answer"


async def _try(client: httpx.AsyncClient, remote: Remote, part: Path, report: Report) -> int:
    """Where the last piece began."""
    offset = _size(part)
    if offset == remote.bytes:
        return offset
    if offset > remote.bytes:
        _discard(part)
        offset = 0
    headers = {"Accept-Encoding": "identity"}
    if offset:
        headers["Range"] = f"bytes={offset}-"
        # Without a mark, or at another mirror, the digest at the end says whether the two halves belong together.
        if (version := _mark(remote, part)) is not None:
            headers["If-Range"] = version
    async with client.stream("GET", remote.url, headers=headers) as response:
        start = _start(response, remote, part, offset)
        free = shutil.disk_usage(part.parent).free
        if free < remote.bytes - start:
            needed = (remote.bytes - start) / 1e6
            raise SourceFailed(f"the disk is full ({needed:.0f} MB are needed, {free / 1e6:.0f} MB are free)")
        if not start:
            _discard(part)
            _keep_mark(response, remote, part)
        await _write(response, remote, part, start, report)
        return start


def _start(response: httpx.Response, remote: Remote, part: Path, offset: int) -> int:
    """Where in the file the body begins. Raises SourceFailed, _Broken."""
    status = response.status_code
    if status == 200:
        _check_size(response.headers.get("content-length"), response, remote)
        return 0
    if status == 206 and offset:
        told = PARTIAL.fullmatch(response.headers.get("content-range", ""))
        if told is not None:
            _check_size(told[2], response, remote)
        if told is not None and int(told[1]) == offset:
            return offset
    if status in (206, 416):
        _discard(part)
        raise _Broken(f"{remote.host} cannot send a part of the file")
    if status in PASSING:
        asked = response.headers.get("retry-after", "")
        raise _Broken(f"{remote.host} cannot send the file now ({status})", float(asked) if asked.isdecimal() else 0)
    raise SourceFailed(f"{remote.host} does not send the file ({status})")


def _check_size(told: str | None, response: httpx.Response, remote: Remote) -> None:
    encoded = response.headers.get("content-encoding", "identity") != "identity"
    if told is not None and told.isdecimal() and int(told) != remote.bytes and not encoded:
        raise SourceFailed(NOT_THE_FILE.format(host=remote.host, found=f"{int(told):,} bytes"))


async def _write(response: httpx.Response, remote: Remote, part: Path, start: int, report: Report) -> None:
    done = start
    with part.open("ab") as sink:
        async for data in response.aiter_bytes():
            done += len(data)
            if done > remote.bytes:
                break
            sink.write(data)
            report(done, remote.bytes)
    if done > remote.bytes:
        _discard(part)
        raise SourceFailed(NOT_THE_FILE.format(host=remote.host, found=f"more than {remote.bytes:,} bytes"))
    if done < remote.bytes:
        raise _Broken(f"{remote.host} ends the file at {done:,} of {remote.bytes:,} bytes")


async def _digest(part: Path) -> str:
    """1 s for a gigabyte."""
    with part.open("rb") as file:
        return (await asyncio.to_thread(file_digest, file, "sha256")).hexdigest()


def _size(part: Path) -> int:
    try:
        return part.stat().st_size
    except FileNotFoundError:
        return 0


def _discard(part: Path) -> None:
    part.unlink(missing_ok=True)
    mark_of(part).unlink(missing_ok=True)


def _mark(remote: Remote, part: Path) -> str | None:
    try:
        stored = orjson.loads(mark_of(part).read_bytes())
        version = stored["version"] if stored["place"] == remote.place else None
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return version if isinstance(version, str) else None


def _keep_mark(response: httpx.Response, remote: Remote, part: Path) -> None:
    version = response.headers.get("etag", "")
    if version.startswith('"') and version.isascii():  # a weak one is none: RFC 9110, 13.1.5
        mark_of(part).write_bytes(orjson.dumps({"place": remote.place, "version": version}))
