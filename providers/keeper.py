"""The owner's work: have the model's file, have one child, and have it again when it dies."""

import asyncio
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from secrets import token_urlsafe

import httpx
import orjson

from providers.loopback import healthy, loopback_client
from providers.rendezvous import DETACHED, ChildConfig, Discovery, Notice, Rendezvous
from providers.weights import EmbeddedWeights, WeightsError
from providers.weights_store import WeightsStore

PROJECT = Path(__file__).resolve().parent.parent
WATCH = 0.5  # seconds between two looks at the child
HEALTH_EVERY = 10  # looks: a request each 5 s
HEALTH_STRIKES = 3
STEADY = 60.0  # seconds of life after which a death is not the last one's consequence
LONGEST_RESTART = 30.0  # seconds

LOADING = Notice("The embedded model is loading", passing=True)
RESTARTING = Notice("The embedded model is being restarted", passing=True)

logger = logging.getLogger(__name__)

Publish = Callable[[Discovery | Notice], None]


class ChildFailed(Exception):
    """The child could not be started. The text is for the log."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What the child should be."""

    weights: EmbeddedWeights
    models_dir: Path
    slots: int
    context: int
    threads: int
    fetch: bool
    hub: str
    start_timeout: float

    @property
    def identity(self) -> str:
        return self.weights.identity(self.models_dir)

    def fits(self, found: Discovery) -> bool:
        return (found.identity, found.slots, found.context) == (self.identity, self.slots, self.context)

    def config(self, root: Path, path: Path) -> ChildConfig:
        return ChildConfig(
            root=str(root),
            path=str(path),
            model=self.weights.name,
            identity=self.identity,
            slots=self.slots,
            context=self.context,
            threads=self.threads,
            secret=token_urlsafe(32),
        )


class Keeper:
    """`publish` is called in the event loop, at each change, with where the child listens or why there is none."""

    def __init__(self, plan: Plan, place: Rendezvous, publish: Publish) -> None:
        self._plan = plan
        self._place = place
        self._publish = publish
        self._store = WeightsStore(plan.weights, plan.models_dir, fetch=plan.fetch, hub=plan.hub)
        self._process: subprocess.Popen[bytes] | None = None
        self._client: httpx.AsyncClient | None = None
        self._said = ""

    async def run(self) -> None:
        """Never returns; cancel it. The child lives on."""
        deaths = 0
        async with loopback_client() as self._client:
            while True:
                try:
                    child = await self._adopt() or await self._spawn()
                except WeightsError as exc:
                    self._say(Notice(exc.reason, passing=False), exc.hint)
                    await self._store.new_chance(exc)
                    continue
                except ChildFailed as exc:
                    self._say(Notice("The embedded model could not be started", passing=False), str(exc))
                    deaths += 1
                else:
                    deaths = deaths + 1 if await self._attend(child) < STEADY else 0
                    self._say(RESTARTING)
                await asyncio.sleep(min(0.25 * 2 ** min(deaths, 10), LONGEST_RESTART))

    def let_go(self) -> None:
        """Ends the child if this process started it and no server process needs it; it would end by itself within
        a second. Blocks for milliseconds."""
        process, self._process = self._process, None
        if process is None or process.poll() is not None:
            return
        if self._place.anyone_lives():
            process.returncode = 0  # another's now: says so to the destructor, which warns of a child not waited for
        else:
            process.kill()
            process.wait()
            self._place.forget()

    def _say(self, news: Discovery | Notice, hint: str = "") -> None:
        """Tells this process, the others, and the log: once per change, with a hint that users do not see."""
        self._publish(news)
        line = "The embedded model is ready"
        if isinstance(news, Notice):
            self._place.post(news)
            line = ". ".join(filter(None, (news.reason, hint)))
        if line != self._said:
            self._said = line
            logger.log(logging.INFO if isinstance(news, Discovery) or news.passing else logging.WARNING, line)

    async def _adopt(self) -> Discovery | None:
        """A living child, if it is the one we want; a child that is not is ended."""
        deadline = time.monotonic() + self._plan.start_timeout
        found = None
        while self._place.child_lives() and time.monotonic() < deadline:
            found = self._place.discover()
            if found is not None and found.port:
                if self._plan.fits(found) and await self._healthy(found):
                    return found
                break
            await asyncio.sleep(0.1)
        await self._end(found)
        return None

    async def _end(self, found: Discovery | None) -> None:
        """Makes sure that no child lives. Raises ChildFailed."""
        deadline = time.monotonic() + 5
        while self._place.child_lives():
            if self._process is not None:
                self._process.kill()
            elif found is not None and _is_child(found.pid):
                os.kill(found.pid, getattr(signal, "SIGKILL", signal.SIGTERM))
            if time.monotonic() > deadline:
                raise ChildFailed("Another process holds the data directory's child.lock")
            await asyncio.sleep(0.1)
        self._reap()
        self._place.forget()

    def _reap(self) -> None:
        if self._process is not None and self._process.poll() is not None:
            self._process = None

    async def _spawn(self) -> Discovery:
        """Raises WeightsError, ChildFailed."""
        path = await self._store.get(self._tell_progress)
        self._say(LOADING)
        config = self._plan.config(self._place.root, path)
        process = self._process = self._launch(config)
        deadline = time.monotonic() + self._plan.start_timeout
        while process.poll() is None and time.monotonic() < deadline:
            found = self._place.discover()
            if found is not None and found.port and found.secret == config.secret:
                return found
            await asyncio.sleep(0.05)
        code = process.poll()
        await self._end(None)
        why = "It took too long" if code is None else f"It ended with code {code}"
        raise ChildFailed(f"{why}: see {self._place.log}")

    def _launch(self, config: ChildConfig) -> subprocess.Popen[bytes]:
        """3 ms."""
        descriptor = os.open(self._place.log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
        with os.fdopen(descriptor, "wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "providers.child"],
                cwd=PROJECT,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                **DETACHED,
            )
        assert process.stdin is not None
        with process.stdin as pipe:
            pipe.write(orjson.dumps(asdict(config)))
        return process

    async def _attend(self, child: Discovery) -> float:
        """Watches the child until it is dead, or does not answer and is ended; the seconds it was seen alive."""
        self._say(child)
        since = time.monotonic()
        looks = strikes = 0
        while self._place.child_lives() and strikes < HEALTH_STRIKES:
            await asyncio.sleep(WATCH)
            looks += 1
            if looks % HEALTH_EVERY == 0:
                strikes = 0 if await self._healthy(child) else strikes + 1
        await self._end(child)
        return time.monotonic() - since

    async def _healthy(self, child: Discovery) -> bool:
        assert self._client is not None
        return await healthy(self._client, child.base_url)

    def _tell_progress(self, percent: int) -> None:
        news = Notice(f"The embedded model is being fetched ({percent}%)", passing=False)
        self._place.post(news)
        self._publish(news)


def _is_child(pid: int) -> bool:
    """Whether `pid` can be the child. The number is the child's own word, and may be another container's."""
    try:
        return b"providers.child" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return not Path("/proc/self").exists()
