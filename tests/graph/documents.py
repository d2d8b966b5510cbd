"""The operations that many tests use, and what they are made of."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from tests.graph.http_client import Graph, Json

CONVERSATION = """
    id externalId title model systemPrompt archived pinned version messageCount createdAt updatedAt viewerRole
    messages(first: 100) { edges { cursor node { id externalId role content status createdAt } } }
"""
CREATE = f"""mutation ($input: CreateConversationInput!) {{
    createConversation(input: $input) {{ conversation {{ {CONVERSATION} }} }} }}"""
UPDATE = f"""mutation ($input: UpdateConversationInput!) {{
    updateConversation(input: $input) {{ conversation {{ {CONVERSATION} }} }} }}"""
REPLACE = f"""mutation ($input: ReplaceConversationInput!) {{
    replaceConversation(input: $input) {{ conversation {{ {CONVERSATION} }} }} }}"""
DELETE = "mutation ($input: DeleteConversationInput!) { deleteConversation(input: $input) { id } }"
ONE = f"query ($id: ID!) {{ conversation(id: $id) {{ {CONVERSATION} }} }}"

RUN = """id status requestedModel model provider createdAt startedAt finishedAt timeToFirstTokenMs finishReason lastSeq
    usage { promptTokens completionTokens totalTokens estimated } error { code message retryable }
    attempts { model provider startedAt error { code retryable retryAfter } }
    message { id content reasoning status model } conversation { id }"""
ONE_RUN = f"query ($id: ID!) {{ run(id: $id) {{ {RUN} }} }}"
SEND = f"""mutation ($input: SendMessageInput!) {{
    sendMessage(input: $input) {{ message {{ id role content }} run {{ {RUN} }} }} }}"""
CANCEL = f"mutation ($id: ID!) {{ cancelRun(input: {{ runId: $id }}) {{ run {{ {RUN} }} }} }}"
CHAT = "mutation ($input: ChatInput!) { chat(input: $input) { content tokens model runId } }"

EVENT = """__typename runId seq
    ... on RunQueued { position }
    ... on RunAttemptFailed { model provider failure: error { code message retryable } }
    ... on RunStarted { requestedModel model provider messageId }
    ... on RunTextDelta { text }
    ... on RunReasoningDelta { text }
    ... on RunSnapshot { text reasoning }
    ... on RunFinished { status finishReason usage { promptTokens completionTokens totalTokens estimated }
        error { code message retryable } message { id content status } }"""
FOLLOW = f"subscription ($id: ID!, $after: Int) {{ runEvents(runId: $id, after: $after) {{ {EVENT} }} }}"
CHAT_STREAM = f"subscription ($input: ChatInput!) {{ chat(input: $input) {{ {EVENT} }} }}"

ENDED = {"COMPLETED", "CANCELLED", "FAILED", "INTERRUPTED"}
NEVER = "conv_00000000000000000000000000"
SLOW = "scripted:every=0.02,words=400"
"""A script of eight seconds: as good as without end for a test that stops it."""


async def create(graph: Graph, **values: object) -> Json:
    conversation: Json = (await graph.data(CREATE, input=values))["createConversation"]["conversation"]
    return conversation


async def send(graph: Graph, conversation_id: str, content: str = "one two three", **values: object) -> Json:
    """The payload of sendMessage."""
    answer = await graph.data(SEND, input={"conversationId": conversation_id, "content": content, **values})
    payload: Json = answer["sendMessage"]
    return payload


async def start(graph: Graph, model: str, content: str = "hello", **values: object) -> Json:
    """A run in a conversation of its own."""
    run: Json = (await send(graph, (await create(graph))["id"], content, model=model, **values))["run"]
    return run


async def follow(graph: Graph, run_id: str, after: int | None = None) -> list[Json]:
    """All the events behind `after`, to the run's end."""
    return [data["runEvents"] async for data in graph.events(FOLLOW, id=run_id, after=after)]


async def ended(graph: Graph, run_id: str, seconds: float = 10) -> Json:
    """The run once it is over."""
    deadline = time.monotonic() + seconds
    while (run := (await graph.data(ONE_RUN, id=run_id))["run"])["status"] not in ENDED:
        assert time.monotonic() < deadline, run
        await asyncio.sleep(0.02)
    done: Json = run
    return done


def text_of(events: Sequence[Json]) -> str:
    """What a reader of these events has on the screen."""
    text = ""
    for event in events:
        if event["__typename"] == "RunSnapshot":
            text = event["text"]
        elif event["__typename"] == "RunTextDelta":
            text += event["text"]
    return text


def chat(content: str = "one two three", **values: object) -> Json:
    """A ChatInput."""
    return {"messages": [{"role": "USER", "content": content}], **values}
