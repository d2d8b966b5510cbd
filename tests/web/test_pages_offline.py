"""/docs, /redoc and /graphql with the network cut: they work, and ask nobody else for anything."""

from __future__ import annotations

import asyncio
import re
import secrets
import time
from typing import Any

import pytest
from playwright.async_api import BrowserContext, Locator, Page, Response

from tests.web.conftest import Cut

REGISTER = """mutation Register {
  register(input: { username: "%s", email: "%s@example.com", password: "correct horse" }) { accessToken }
}
"""
CHAT = """subscription Chat {
  chat(input: { messages: [{ role: USER, content: "Hello!" }] }) {
    __typename
    seq
    ... on RunTextDelta { text }
    ... on RunFinished { status usage { totalTokens } }
  }
}
"""


@pytest.mark.parametrize(
    ("path", "operation"),
    [
        pytest.param("/docs", ".opblock-summary:has-text('/api/chat')", id="swagger"),
        pytest.param("/redoc", "[data-section-id*='operation/']:has-text('/api/chat')", id="redoc"),
    ],
)
async def test_the_rest_reference_is_readable(
    base_url: str, offline: BrowserContext, cut: Cut, path: str, operation: str
) -> None:
    page = await offline.new_page()
    await page.goto(base_url + path)
    await page.locator(operation).first.wait_for()
    await page.wait_for_load_state("networkidle")
    assert cut.asked_for == []


@pytest.mark.usefixtures("graphiql_built")
async def test_graphiql_opens_under_its_own_policy(base_url: str, offline: BrowserContext, cut: Cut) -> None:
    page = await offline.new_page()
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)

    await _open_graphiql(page, base_url)
    await page.get_by_role("button", name="Documentation").click()
    await page.get_by_role("link", name="Subscription").wait_for()
    await page.wait_for_load_state("networkidle")

    assert complaints == []
    assert cut.asked_for == []


@pytest.mark.usefixtures("graphiql_built")
async def test_graphiql_registers_and_shows_an_answer_as_it_comes(
    base_url: str, offline: BrowserContext, cut: Cut
) -> None:
    page = await offline.new_page()
    sockets: list[str] = []
    page.on("websocket", lambda socket: sockets.append(socket.url))
    await _open_graphiql(page, base_url)

    name = f"ada_{secrets.token_hex(4)}"
    await _paste(page, page.locator(".graphiql-query-editor .monaco-editor"), REGISTER % (name, name) + CHAT)
    async with page.expect_response(_is_answer_to("Register")) as answer:
        await _run(page, "Register")
    token = (await (await answer.value).json())["data"]["register"]["accessToken"]

    headers = page.locator(".graphiql-editor-tool .monaco-editor:visible")
    await _paste(page, headers, f'{{"Authorization": "Bearer {token}"}}')
    await _run(page, "Chat")
    seen = await _results_until(page, '"status": "COMPLETED"')

    lengths = [len(text) for text in map(_text_so_far, seen) if text]
    assert lengths == sorted(lengths)
    assert _text_so_far(seen[-1])

    assert [url.partition(":")[2] for url in sockets] == [base_url.partition(":")[2] + "/graphql"]

    # Its own fetcher takes this for a subscription, and says that the page is not configured for any.
    await _paste(page, page.locator(".graphiql-query-editor .monaco-editor"), "mutation { a }\nsubscription { b }\n")
    await _results_until(page, "This anonymous operation", press="Control+Enter")
    assert cut.asked_for == []


async def _open_graphiql(page: Page, base_url: str) -> None:
    await page.goto(f"{base_url}/graphql")
    await page.locator(".graphiql-query-editor .view-line").first.wait_for()


async def _paste(page: Page, editor: Locator, text: str) -> None:
    """Typing would set off the editor's completions and closing brackets."""
    await editor.click()
    await page.keyboard.press("Control+A")
    await page.evaluate("text => navigator.clipboard.writeText(text)", text)
    await page.keyboard.press("Control+V")


async def _run(page: Page, operation: str) -> None:
    await page.get_by_role("button", name="Execute query").click()
    await page.get_by_role("menuitem", name=operation, exact=True).click()


def _is_answer_to(operation: str) -> Any:
    def matches(response: Response) -> bool:
        body = response.request.post_data or ""
        return response.url.endswith("/graphql") and f'"operationName":"{operation}"' in body

    return matches


async def _results_until(page: Page, end: str, press: str | None = None) -> list[str]:
    """What the result pane showed, one entry per look. `press`: a key that asks, again each second: the page takes
    a moment to see what was pasted."""
    pane, seen = page.locator(".result-window .view-lines"), [""]
    deadline, again = time.monotonic() + 30, time.monotonic() + 1
    while end not in seen[-1]:
        assert time.monotonic() < deadline, seen[-1]
        if press and time.monotonic() > again:
            again = time.monotonic() + 1
            await page.keyboard.press(press)
        shown = (await pane.inner_text()).replace("\xa0", " ")
        if shown != seen[-1]:
            seen.append(shown)
        await asyncio.sleep(0.02)
    return seen


def _text_so_far(result: str) -> str:
    match = re.search(r'"extensions": \{.*"text": "(.*)"', result, re.DOTALL)
    return re.sub(r"\s+", " ", match.group(1)) if match else ""
