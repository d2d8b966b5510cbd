"""The front end that the integration guide tells people to write, to the letter, in a browser, against the server."""

from __future__ import annotations

import asyncio
import hashlib
import json
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, Page

Frame = dict[str, Any]

SOURCES = Path(__file__).parent / "guide/src"
AS_IN_THE_GUIDE = {
    "services/backendApi.ts": "d35eea13628731da56c4cc8edb0ea8e928c1942387a1af1df6c15fe199bdba8c",
    "hooks/useWebSocket.ts": "27646b94b47530d4e003f1e68ab6d42e25e9ac35555e49c9b59b99346d980ca2",
    "components/ChatComponent.tsx": "643dedd9308bcd3c4ad765eed52ffaaa0875410413e23afbf0e71a076a080cab",
}


@pytest.mark.parametrize("source", AS_IN_THE_GUIDE)
def test_the_front_end_is_the_guides(source: str) -> None:
    """Mending these files to make a test pass would mend nothing: people have them as they are."""
    assert hashlib.sha256((SOURCES / source).read_bytes()).hexdigest() == AS_IN_THE_GUIDE[source]


@pytest.fixture
async def page(browser: Browser, guide_page: str, guide_backend: str) -> Page:
    return await _open(browser, guide_page, "guest_one")


async def test_every_method_of_the_service(page: Page) -> None:
    name = f"guide_{secrets.token_hex(4)}"
    registered = await _call(page, "register", name, f"{name}@example.com", "password123")
    assert registered["token_type"] == "bearer"
    user = await _call(page, "getCurrentUser")
    assert (user["username"], user["email"]) == (name, f"{name}@example.com")
    assert await _call(page, "login", name, "password123")

    conversation = {
        "id": f"conv_{name}",
        "title": "新对话",
        "messages": [{"id": "msg1", "content": "你好", "role": "user", "timestamp": 1697467200000}],
        "createdAt": 1697467200000,
        "updatedAt": 1697467200000,
        "model": "gpt-3.5-turbo",
        "userId": user["id"],
    }
    created = await _call(page, "createConversation", conversation)
    assert {**created, "userId": user["id"]} == {**created, **conversation}
    assert [each["id"] for each in await _call(page, "getConversations")] == [conversation["id"]]

    renamed = {**conversation, "title": "关于React的讨论", "updatedAt": 1697467300000}
    assert (await _call(page, "updateConversation", conversation["id"], renamed))["title"] == "关于React的讨论"

    answer = await _call(page, "sendMessage", conversation["messages"])
    assert answer["content"]
    assert answer["tokens"] > 0
    assert answer["model"]

    stats = await _call(page, "getStats")
    assert stats["total_conversations"] == 1
    assert stats["total_tokens"] > 0
    assert await _call(page, "deleteConversation", conversation["id"]) == {"message": "对话已删除"}
    assert await _call(page, "getConversations") == []


async def test_a_failure_reaches_the_page_as_a_status_and_a_detail(page: Page) -> None:
    """Axios sees them only if CORS headers are on errors too."""
    failure = await page.evaluate(
        "backendApi.login('nobody', 'password123').catch(e => [e.response.status, e.response.data.detail])"
    )
    assert failure == [401, "用户名或密码错误"]


async def test_the_hook_connects_pings_and_chats(page: Page) -> None:
    await page.evaluate("hook.sendMessage({ type: 'ping' })")
    await _frames_until(page, lambda frames: frames[-1]["type"] == "pong")

    await page.evaluate("hook.sendChat('你好，这是一条实时消息')")
    frames = await _frames_until(page, lambda frames: frames[-1]["type"] == "chat_complete")
    chat = [frame for frame in frames if frame["type"].startswith("chat")]
    assert {frame["type"] for frame in chat[:-1]} == {"chat_chunk"}
    assert "".join(frame["content"] for frame in chat[:-1]).strip()


async def test_typing_reaches_the_others(page: Page, browser: Browser, guide_page: str) -> None:
    other = await _open(browser, guide_page, "guest_two")
    await page.evaluate("hook.sendTyping()")
    frames = await _frames_until(other, lambda frames: frames[-1]["type"] == "user_typing")
    assert frames[-1]["user_id"] == "guest_one"
    assert await _frames(page) == []


async def test_the_guides_component(page: Page) -> None:
    """It logs in and gets its answer over REST; what comes over its socket it keeps to itself."""
    await page.evaluate("backendApi.register('testuser', 'testuser@example.com', 'password123').catch(() => null)")
    console: list[str] = []
    page.on("console", lambda message: console.append(message.text))

    await page.get_by_text("WebSocket状态: 已连接").wait_for()
    await page.get_by_role("button", name="登录").click()
    await _until(lambda: any(line.startswith("登录成功:") for line in console), console)
    await page.get_by_role("button", name="发送消息").click()
    await _until(lambda: any(line.startswith("AI响应:") for line in console), console)


async def _open(browser: Browser, address: str, user: str) -> Page:
    page = await browser.new_page()
    page.set_default_timeout(20_000)
    await page.goto(f"{address}/?user={user}")
    await page.locator("#hook[data-connected=true]").wait_for(state="attached")
    return page


async def _call(page: Page, method: str, *arguments: object) -> Any:
    return await page.evaluate("([method, args]) => backendApi[method](...args)", [method, list(arguments)])


async def _frames(page: Page) -> list[Frame]:
    return [json.loads(line) for line in await page.locator("#hook p").all_text_contents()]


async def _frames_until(page: Page, done: Callable[[list[Frame]], bool]) -> list[Frame]:
    deadline = time.monotonic() + 30
    while not ((frames := await _frames(page)) and done(frames)):
        assert time.monotonic() < deadline, frames
        await asyncio.sleep(0.05)
    return frames


async def _until(done: Callable[[], bool], state: object) -> None:
    deadline = time.monotonic() + 30
    while not done():
        assert time.monotonic() < deadline, state
        await asyncio.sleep(0.05)
