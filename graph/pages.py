"""The pages for people: GraphiQL, built from web/ and served from here, and the seal on Swagger UI and ReDoc."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from starlette.datastructures import MutableHeaders
from starlette.responses import HTMLResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

ASSETS_PATH = "/graphiql"  # `base` in web/vite.config.ts

_COMMON_POLICY = "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
# Monaco sets styles inline; its fonts are data: URLs in GraphiQL's style sheet.
_BUILT_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; font-src 'self' data:; "
    f"img-src 'self' data:; worker-src 'self'; connect-src 'self' ws: wss:; {_COMMON_POLICY}"
)
# Swagger UI starts from an inline script; ReDoc's search is a worker made from a blob.
_DOCS_POLICY = (
    "default-src 'none'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; font-src 'self' data:; "
    "img-src 'self' data: blob:; worker-src 'self' blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)


def graphiql_page(dist: Path) -> Response:
    """What a browser gets at GET /graphql: web/dist's page, or one that says it is not built and uses a CDN."""
    index = dist / "index.html"
    try:
        built_at = index.stat().st_mtime_ns
    except OSError:
        return HTMLResponse(_FALLBACK_PAGE, headers=_page_headers(_FALLBACK_POLICY))
    return HTMLResponse(_read(index, built_at), headers=_page_headers(_BUILT_POLICY))


def graphiql_assets(dist: Path) -> ASGIApp:
    """What the built page loads, to be mounted at ASSETS_PATH. The folder may be built while the server runs."""
    return _Assets(directory=dist, check_dir=False)


class OwnOriginOnly:
    """Seals pages that others wrote: a browser may load nothing for them but from here.

    fastapi-offline serves all that Swagger UI and ReDoc need, yet ReDoc still asks a CDN for its maker's logo.
    """

    def __init__(self, app: ASGIApp, paths: frozenset[str] = frozenset({"/docs", "/redoc"})) -> None:
        self.app = app
        self.paths = paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] not in self.paths:
            await self.app(scope, receive, send)
            return

        async def sealed(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_page_headers(_DOCS_POLICY))
            await send(message)

        await self.app(scope, receive, sealed)


class _Assets(StaticFiles):
    async def check_config(self) -> None:
        """Starlette's raises while the folder is missing; here its files are not found, until they are built."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        # Vite puts a hash of the content into each name below assets/.
        hashed = path.startswith("assets") and response.status_code in (200, 304)
        response.headers["Cache-Control"] = "public, max-age=31536000, immutable" if hashed else "no-cache"
        response.headers["Content-Security-Policy"] = _BUILT_POLICY
        return response


@lru_cache(maxsize=4)
def _read(index: Path, _built_at: int) -> bytes:
    return index.read_bytes()


def _page_headers(policy: str) -> Mapping[str, str]:
    # The same address answers GraphQL to a client that asks for JSON.
    return {"Content-Security-Policy": policy, "Cache-Control": "no-cache", "Vary": "Accept"}


class _Pinned(NamedTuple):
    """A file of an npm package, as the CDN serves it, and the hash of that file in the package itself."""

    path: str
    sha384: str

    @property
    def url(self) -> str:
        return f"https://cdn.jsdelivr.net/npm/{self.path}"

    @property
    def integrity(self) -> str:
        return f'integrity="sha384-{self.sha384}" crossorigin="anonymous"'


# GraphiQL 4 is the last one that comes as a script a page can load with an integrity hash; React 18 likewise.
_STYLE = _Pinned("graphiql@4.1.2/graphiql.min.css", "1el1QShFBnnXTx9x/Cprg82hZWKt0ry29OAYIXt05swbi0KcZDFoj0CWguMpopJr")
_SCRIPTS = (
    _Pinned(
        "react@18.3.1/umd/react.production.min.js",
        "DGyLxAyjq0f9SPpVevD6IgztCFlnMF6oW/XQGmfe+IsZ8TqEiDrcHkMLKI6fiB/Z",
    ),
    _Pinned(
        "react-dom@18.3.1/umd/react-dom.production.min.js",
        "gTGxhz21lVGYNMcdJOyq01Edg0jhn/c22nsx0kyqP0TxaV5WVdsSH1fSDUf5YJj1",
    ),
    _Pinned(
        "graphql-ws@6.4.2/umd/graphql-ws.min.js",
        "mxvR4Mzbsb6QVx/9xI2gtQikQA6m8zMDBFnu3l//4/ROsWt7y2sUGWd+/tYQqDm7",
    ),
    _Pinned("graphiql@4.1.2/graphiql.min.js", "9XdHu7ajgGJziD4J1zNBKQ842Q/+zZfDv+ib1eMhZWBH6hPAs806x+Jbcf0yNO6B"),
)

# web/src/fetcher.ts in small.
_FALLBACK_SCRIPT = """
const path = location.pathname;
const overHttp = GraphiQL.createFetcher({ url: path, enableIncrementalDelivery: false });
const isSubscription = (params, options) => (options?.documentAST?.definitions ?? []).some((definition) =>
  definition.operation === "subscription" &&
  (!params.operationName || definition.name?.value === params.operationName));
const errorsOf = (failure) => Array.isArray(failure) ? failure : [{ message: failure instanceof CloseEvent
  ? `The server closed the socket: ${failure.code} ${failure.reason || "(no reason)"}`
  : failure instanceof Error ? failure.message : "The socket could not be opened." }];

const subscription = (params, headers = {}) => ({
  subscribe(sink) {
    const client = graphqlWs.createClient({
      url: location.origin.replace(/^http/, "ws") + path, connectionParams: headers, retryAttempts: 0,
    });
    let text = "", latest = {};
    const unsubscribe = client.subscribe(params, {
      next(result) {
        for (const event of Object.values(result.data ?? {})) {
          if (["RunTextDelta", undefined].includes(event?.__typename)) text += event.text ?? "";
          if (event?.__typename === "RunSnapshot") text = event.text ?? "";
        }
        latest = text ? { ...result, extensions: { ...result.extensions, text } } : result;
        sink.next(latest);
      },
      error(failure) {
        sink.next({ ...latest, errors: errorsOf(failure) });
        sink.complete();
      },
      complete: () => sink.complete(),
    });
    return { unsubscribe };
  },
});

ReactDOM.createRoot(document.getElementById("graphiql")).render(React.createElement(GraphiQL, {
  fetcher: (params, options) => isSubscription(params, options)
    ? subscription(params, options.headers) : overHttp(params, options),
  defaultEditorToolsVisibility: "headers",
}));
"""


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


_FALLBACK_POLICY = (
    f"default-src 'none'; script-src {' '.join(script.url for script in _SCRIPTS)} "
    f"'sha256-{_digest(_FALLBACK_SCRIPT)}'; style-src {_STYLE.url} 'unsafe-inline'; font-src data:; img-src data:; "
    f"connect-src 'self' ws: wss:; {_COMMON_POLICY}"
)

_FALLBACK_PAGE = f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>GraphiQL · AI Chat Studio</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="{_STYLE.url}" {_STYLE.integrity}>
<style>
body {{ margin: 0; height: 100vh; display: flex; flex-direction: column; }}
#not-built {{ margin: 0; padding: .5rem 1rem; font: 14px/1.5 system-ui, sans-serif; background: #fff3cd; }}
#graphiql {{ flex: 1; min-height: 0; }}
</style>
</head>
<body>
<p id="not-built">GraphiQL has not been built here: run <code>make web</code>; loading it from a CDN.</p>
<div id="graphiql"></div>
{"".join(f'<script src="{script.url}" {script.integrity}></script>' for script in _SCRIPTS)}
<script>{_FALLBACK_SCRIPT}</script>
</body>
</html>
"""
