"""The composition root: settings → everything long-lived (assembly.py) → the application. `python app.py` serves it."""

import preflight  # noqa: F401

# isort: split

import gc

# What is imported stays. Walking it meanwhile and at the exit took 0.9 of the 2.3 s that starting and stopping take.
gc.disable()

import asyncio
import logging
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import uvicorn
from fastapi import FastAPI
from fastapi_offline import FastAPIOffline

import bounds
import edge
import graph.routes
import rest.routes
from assembly import build_services, prepare
from errors import StartError, Unavailable
from models.migrate import unusable
from protocols import BoundedHttp, BoundedSocket
from serve import (
    banner,
    check_port,
    configure_logging,
    is_worker,
    on_stop,
    port_of_command,
    print_once,
    serve_workers,
    settle_memory,
    stop_with_parent,
)
from services import Services
from setting_groups import ROOT
from settings import Settings, load_settings

gc.freeze()
gc.enable()

logger = logging.getLogger(__name__)

VERSION = "2.0.0"
HANGING_SECONDS = 20
"""A worker that says nothing for so long is replaced. Starting takes seconds where many start at once."""
MAX_FRAME_FACTOR = 16
"""The server's frame limit over ours: what is between the two is answered by an error, what is beyond closes 1009."""


def create_app(settings: Settings) -> FastAPI:
    """The application; nothing is opened before its lifespan starts."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        configure_logging(settings.log_level)
        stop_with_parent()
        for line in settings.warnings():
            logger.warning(line)
        if settings.workers > 1 and not is_worker():
            logger.warning("WORKERS is for `python app.py`: this command takes --workers %d", settings.workers)
        try:
            stack = AsyncExitStack()
            services = await stack.enter_async_context(build_services(settings))
        except (StartError, OSError) as error:
            app.state.start_error = error
            raise
        except Unavailable as error:
            app.state.start_error = unusable(settings.database, error)
            raise
        async with stack:
            app.state.services = services
            port = getattr(app.state, "port", None) or port_of_command(sys.argv)
            settle_memory()
            print_once(banner(port, _model_line(services)), settings.data_dir)
            async with _drained_on_stop(services):
                yield

    app = FastAPIOffline(
        title="AI Chat Studio API",
        version=VERSION,
        description="REST beside the GraphQL API at /graphql. The streaming protocol is in docs/protocol.md.",
        lifespan=lifespan,
    )
    edge.surround(app, settings)
    rest.routes.mount(app)
    graph.routes.mount(app, ROOT / "web" / "dist", bounds.query_limits(settings))
    return app


@asynccontextmanager
async def _drained_on_stop(services: Services) -> AsyncIterator[None]:
    """Runs begin to end when the signal comes, not when the last connection has closed: their followers hold those."""
    loop = asyncio.get_running_loop()

    def stop() -> None:
        loop.call_soon_threadsafe(services.closing.set)

    async def drain() -> None:
        await services.closing.wait()
        await services.engine.drain()

    draining = asyncio.create_task(drain(), name="drain")
    try:
        with on_stop(stop):
            yield
    finally:
        services.closing.set()
        await draining


def _model_line(services: Services) -> str:
    models = services.catalog.models()
    if not models:
        return "none"
    reason = models[0].unavailable_reason
    return models[0].id if reason is None else f"{models[0].id} ({reason})"


def _own(settings: Settings) -> FastAPI:
    application = create_app(settings)
    application.state.port = settings.port
    return application


def own() -> FastAPI:
    """What each worker of `python app.py` serves: its port is the setting's, not the command's."""
    return _own(load_settings())


def main() -> int:
    """Serve until told to stop. Exit code 1 and one line when it cannot start."""
    try:
        settings = load_settings()
        check_port(settings.host, settings.port)
    except StartError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    several = settings.workers > 1
    config = uvicorn.Config(
        "app:own" if several else _own(settings),
        factory=several,
        workers=settings.workers,
        timeout_worker_healthcheck=HANGING_SECONDS,
        host=settings.host,
        port=settings.port,
        log_level=settings.log_level,
        proxy_headers=False,  # ours stands in the application, and knows TRUSTED_PROXIES
        http=BoundedHttp,
        ws=BoundedSocket,
        ws_max_size=settings.max_frame_bytes * MAX_FRAME_FACTOR,
        timeout_keep_alive=settings.keep_alive_seconds,
        timeout_graceful_shutdown=int(settings.shutdown_grace_seconds) + 10,
    )
    try:
        if several:
            prepare(settings)
            return serve_workers(config)
        uvicorn.Server(config).run()
    except StartError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except SystemExit:
        return 1  # uvicorn's own codes tell nothing that its line does not
    except KeyboardInterrupt:
        return 130
    return 0


def __getattr__(name: str) -> FastAPI:
    """`app`, made when `uvicorn app:app` asks for it, so that `python app.py` does not make it twice."""
    if name != "app":
        raise AttributeError(name)
    try:
        application = create_app(load_settings())
    except StartError as error:
        raise SystemExit(str(error)) from None
    globals()["app"] = application
    return application


if __name__ == "__main__":
    sys.exit(main())
