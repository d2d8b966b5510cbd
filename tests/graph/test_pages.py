from __future__ import annotations

import base64
import hashlib
import os
import re
from pathlib import Path

import httpx
import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route
from starlette.types import ASGIApp

from graph.pages import ASSETS_PATH, OwnOriginOnly, graphiql_assets, graphiql_page

WEB = Path(__file__).parents[2] / "web"


@pytest.fixture
def dist(tmp_path: Path) -> Path:
    (tmp_path / "assets").mkdir()
    (tmp_path / "index.html").write_text("<p>built</p>")
    (tmp_path / "assets/index-4f2a.js").write_text("void 0")
    return tmp_path


def _client(app: ASGIApp) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://studio")


@pytest.fixture
def client(dist: Path) -> httpx.AsyncClient:
    return _client(Starlette(routes=[Mount(ASSETS_PATH, graphiql_assets(dist))]))


def _policy(page: object) -> dict[str, str]:
    headers = page.headers  # type: ignore[attr-defined]  # Starlette's and httpx's responses share no base
    directives = headers["content-security-policy"].split(";")
    return {name: sources for name, _, sources in (each.strip().partition(" ") for each in directives)}


def test_the_built_page_may_load_from_here_only(dist: Path) -> None:
    page = graphiql_page(dist)
    assert page.body == b"<p>built</p>"
    assert page.headers["content-type"].startswith("text/html")
    policy = _policy(page)
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == "'self'"
    assert "http" not in page.headers["content-security-policy"]


def test_a_build_while_the_server_runs_is_served(dist: Path) -> None:
    graphiql_page(dist)
    index = dist / "index.html"
    index.write_text("<p>built again</p>")
    os.utime(index, ns=(1, 1))
    assert graphiql_page(dist).body == b"<p>built again</p>"


def test_without_a_build_the_page_says_so(tmp_path: Path) -> None:
    page = bytes(graphiql_page(tmp_path).body).decode()
    assert "GraphiQL has not been built here: run <code>make web</code>; loading it from a CDN." in page


def test_the_fallback_runs_only_what_it_pins(tmp_path: Path) -> None:
    """Each file of the CDN has a version and a hash; the policy allows those files and the one inline script."""
    response = graphiql_page(tmp_path)
    page, policy = bytes(response.body).decode(), _policy(response)

    loaded = re.findall(r'<(?:script src|link rel="stylesheet" href)="([^"]+)" ([^>]+)>', page)
    assert len(loaded) == 5
    for url, attributes in loaded:
        assert re.fullmatch(r"https://cdn\.jsdelivr\.net/npm/[a-z-]+@\d+\.\d+\.\d+/[\w./-]+\.min\.(js|css)", url)
        digest = re.fullmatch(r'integrity="sha384-([^"]+)" crossorigin="anonymous"', attributes)
        assert digest
        assert len(base64.b64decode(digest.group(1), validate=True)) == 48

    (script,) = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    digest_of_script = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    scripts = [url for url, _ in loaded if url.endswith(".js")]
    assert policy["script-src"].split() == [*scripts, f"'sha256-{digest_of_script}'"]


async def test_hashed_names_are_cached_for_good(client: httpx.AsyncClient) -> None:
    asset = await client.get(f"{ASSETS_PATH}/assets/index-4f2a.js")
    assert asset.headers["cache-control"] == "public, max-age=31536000, immutable"
    again = await client.get(f"{ASSETS_PATH}/assets/index-4f2a.js", headers={"If-None-Match": asset.headers["etag"]})
    assert again.status_code == 304


async def test_other_names_are_not_and_the_page_keeps_its_policy(client: httpx.AsyncClient) -> None:
    page = await client.get(f"{ASSETS_PATH}/index.html")
    assert page.headers["cache-control"] == "no-cache"
    assert _policy(page)["script-src"] == "'self'"


async def test_assets_of_a_build_that_is_not_there_are_not_found(tmp_path: Path) -> None:
    client = _client(Starlette(routes=[Mount(ASSETS_PATH, graphiql_assets(tmp_path / "dist"))]))
    assert (await client.get(f"{ASSETS_PATH}/assets/index-4f2a.js")).status_code == 404


def test_vite_builds_for_the_path_they_are_mounted_at() -> None:
    assert f"base: '{ASSETS_PATH}/'" in (WEB / "vite.config.ts").read_text()


async def test_the_seal_is_on_the_pages_of_others_and_nothing_else() -> None:
    async def answer(_request: object) -> PlainTextResponse:
        return PlainTextResponse("ok")

    client = _client(OwnOriginOnly(Starlette(routes=[Route("/docs", answer), Route("/health", answer)])))
    policy = _policy(await client.get("/docs"))
    assert policy["default-src"] == "'none'"
    assert policy["img-src"] == "'self' data: blob:"
    assert "content-security-policy" not in (await client.get("/health")).headers
