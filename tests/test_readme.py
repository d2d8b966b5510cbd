"""What the READMEs show works as printed: copied, with the ids that come back in their places, and run."""

from __future__ import annotations

import re

import httpx
import pytest

from models.ids import new_id
from tests.graph.http_client import Graph
from tests.server import ROOT

NAMED = re.compile(r"^(mutation|subscription)(?: (\w+))? \{", re.MULTILINE)


@pytest.mark.parametrize("readme", ["README.md", "README.zh.md"])
async def test_every_operation_of_the_first_subscription(client: httpx.AsyncClient, readme: str) -> None:
    register, chat, conversation = re.findall(r"```graphql\n(.*?)```", (ROOT / readme).read_text("utf-8"), re.DOTALL)
    name = new_id("reader")
    register = re.sub(r'username: "\w+", email: "\w+@', f'username: "{name}", email: "{name}@', register)
    token = (await Graph(client).data(register))["register"]["accessToken"]
    reader = Graph(client, token)

    events = [event["chat"] async for event in reader.events(chat)]
    assert events[-1]["status"] == "COMPLETED"
    assert any(event.get("text") for event in events)

    create, send, follow = re.split(r"(?=^mutation Send|^subscription Follow)", conversation, flags=re.MULTILINE)
    assert [found.group(2) for found in NAMED.finditer(conversation)] == ["Create", "Send", "Follow"]
    conversation_id = (await reader.data(create))["createConversation"]["conversation"]["id"]
    run_id = (await reader.data(send.replace("conv_…", conversation_id)))["sendMessage"]["run"]["id"]
    events = [event["runEvents"] async for event in reader.events(follow.replace("run_…", run_id))]
    assert events[-1] == {"__typename": "RunFinished", "seq": events[-1]["seq"], "status": "COMPLETED"}
