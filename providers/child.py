"""`python -m providers.child`: the one process that runs the embedded model, behind an OpenAI-compatible endpoint.

It is started by the owner (providers/supervisor.py), but belongs to the data directory: it lives exactly as long
as any server process there does. So it ignores the signals of a terminal or a service manager, which reach the
whole group while the servers still finish their streams; whoever must end it early kills it.
"""

import os
import signal
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import orjson
import xllamacpp  # 70 ms and a pool of native threads: imported in this process only

from providers.rendezvous import ChildConfig, Discovery, Rendezvous

WATCH = 0.5  # seconds between two looks for living servers
LOG_LIMIT = 1 << 20  # bytes
# Tokens decoded in one step: a cancel, and every other stream, waits for the step. On 2 cores 64 reads a prompt
# as fast as 128 (105–127 tokens/s) and a cancel takes up to 1 s instead of 3; with 2,048 it takes 35.
BATCH = 64
IGNORED = ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK")


def main() -> int:
    for name in IGNORED:
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    config = ChildConfig(**orjson.loads(sys.stdin.buffer.read()))
    place = Rendezvous(Path(config.root))
    lock = _wait_for_lock(place)
    if lock is None:
        return 3
    _announce(place, config, port=0)
    threading.Thread(target=_watch, args=(place,), daemon=True).start()
    server = xllamacpp.Server(_parameters(config))
    _announce(place, config, port=int(str(server.listening_address).rsplit(":", 1)[1]))
    while True:
        signal.pause() if hasattr(signal, "pause") else time.sleep(3600)


def _wait_for_lock(place: Rendezvous, patience: float = 10) -> object | None:
    """The lock, once the child before us is gone."""
    deadline = time.monotonic() + patience
    while (lock := place.try_be_child()) is None and time.monotonic() < deadline:
        time.sleep(0.1)
    return lock


def _announce(place: Rendezvous, config: ChildConfig, port: int) -> None:
    place.announce(
        Discovery(
            pid=os.getpid(),
            port=port,
            secret=config.secret,
            model=config.model,
            identity=config.identity,
            slots=config.slots,
            context=config.context,
            started=time.time(),
        )
    )


def _watch(place: Rendezvous) -> None:
    """Ends the process, without waiting for a decoding step, when no server of the directory lives (or the
    directory is gone)."""
    with suppress(OSError):
        while place.anyone_lives():
            _bound_log()
            time.sleep(WATCH)
        place.forget()
    os._exit(0)


def _bound_log() -> None:
    with suppress(OSError):  # not a file when started by hand
        if os.fstat(2).st_size > LOG_LIMIT:
            os.ftruncate(2, 0)


def _parameters(config: ChildConfig) -> xllamacpp.CommonParams:
    parameters = xllamacpp.CommonParams()
    parameters.model.path = config.path
    parameters.model_alias = {config.model}
    parameters.hostnames = ["127.0.0.1"]
    parameters.port = 0
    parameters.api_keys = [config.secret]
    parameters.ui = False
    parameters.endpoint_slots = True  # for the tests: whether a slot is free again
    parameters.verbosity = 1  # errors only: no text of a user reaches the log
    parameters.n_parallel = config.slots
    parameters.n_ctx = config.slots * config.context  # each slot has its own: one long chat cannot starve another
    parameters.n_batch = parameters.n_ubatch = BATCH
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = config.threads
    parameters.cache_ram_mib = 0  # its default may grow to 8 GiB; a slot still reuses its own last prompt
    return parameters


if __name__ == "__main__":
    sys.exit(main())
