"""What every request passes before it is anyone's: the host it names, its size and its time, browsers' rules, gzip."""

import re
from urllib.parse import urlsplit, urlunsplit

from fastapi import FastAPI
from starlette.datastructures import MutableHeaders
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from graph.pages import OwnOriginOnly
from rest.limits import BodyLimit
from serve import OneLineStart
from settings import Settings

GZIP_FROM = 1_000
"""Bytes, the guide's. Streams of events are never compressed: each of them would wait for the next."""
GZIP_LEVEL = 4
"""A list of 300 KB of conversations: level 9 takes three times as long as 4 for 3% less."""
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
}
HSTS = "max-age=31536000"
SLASH_REDIRECT = 307
"""The framework's own, from a path with a slash too many or too few; ours are 303."""
HOST = re.compile(rb"(?:[\w.-]+|\[[\da-fA-F:.]+\])(?::\d{0,5})?")
"""A name or an address, and a port. What a URL may have besides is in no name that anybody looks up."""


def surround(app: FastAPI, settings: Settings) -> None:
    """Add the middlewares, the innermost first."""
    app.add_middleware(
        BodyLimit,
        limit=settings.max_body_bytes,
        conversation_limit=settings.max_conversation_bytes,
        seconds=settings.body_seconds,
    )
    app.add_middleware(GZipMiddleware, minimum_size=GZIP_FROM, compresslevel=GZIP_LEVEL)
    app.add_middleware(
        CORSMiddleware,
        allow_origins=list(settings.allowed_origins),
        allow_credentials=True,
        allow_methods=["*"],
        allow_headers=["*"],
    )
    app.add_middleware(OwnOriginOnly)
    app.add_middleware(SafeHeaders)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(settings.allowed_hosts), www_redirect=False)
    app.add_middleware(OneHost)
    app.add_middleware(ProxyHeadersMiddleware, trusted_hosts=list(settings.trusted_proxies))
    app.add_middleware(OneLineStart)


def _on_this_host(location: str) -> str:
    """Without the name that the request gave us: a cache would send others to it."""
    parts = urlsplit(location)
    return urlunsplit(("", "", f"/{parts.path.lstrip('/')}", parts.query, ""))


class OneHost:
    """400 for a request that does not say once, and well-formed, what host it is for (RFC 9112, 3.2): of two a proxy in
    front may have taken the other. HTTP/1.0 needs none: load balancers ask so whether we are well."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self.app
        if scope["type"] in {"http", "websocket"}:
            hosts = [value for name, value in scope["headers"] if name == b"host"]
            missing = not hosts and scope["http_version"] != "1.0"
            if missing or len(hosts) > 1 or not all(map(HOST.fullmatch, hosts)):
                app = PlainTextResponse("Invalid host header", 400)
        await app(scope, receive, send)


class SafeHeaders:
    """What browsers are told with every answer. No answer may be kept by a cache that does not say so itself: nearly
    all of them are somebody's own."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def safe(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                if "etag" not in headers:
                    headers.setdefault("Cache-Control", "no-store")
                if scope["scheme"] == "https":
                    headers.setdefault("Strict-Transport-Security", HSTS)
                if message["status"] == SLASH_REDIRECT:
                    headers["Location"] = _on_this_host(headers["Location"])
            await send(message)

        await self.app(scope, receive, safe)
