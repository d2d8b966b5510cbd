"""Schemathesis makes subscriptions from our own schema, too, which it takes for queries; the socket answers them.

Nearly every id that it makes up is nobody's, and tells nothing: for two of three there is something, which happens.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any

import httpx
import pytest
import schemathesis
from graphql import (
    ArgumentNode,
    ConstValueNode,
    IntValueNode,
    NullValueNode,
    ObjectFieldNode,
    StringValueNode,
    Visitor,
    parse,
    print_ast,
    visit,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol

from tests.conftest import Account, Register
from tests.graph.client import PROTOCOL
from tests.graph.http_client import Json
from tests.hostile.operations import roots
from tests.hostile.test_schemathesis import QUIET, fair
from tests.server import ROOT, Server

FIELDS = [name for kind, name in roots() if kind == "Subscription"]
ENDING = {"runEvents", "chat"}
"""They end by themselves; the others go on, until the client has heard enough."""
SECONDS, SILENCE = 10.0, 0.1
TOLD = 30
"""Events that have to be heard in all; of one's own typing nobody is told."""
START = """mutation { createConversation(input: { title: "heard" }) { conversation { id } }
    chat(input: { messages: [{ role: USER, content: "one two" }], model: "scripted" }) { runId } }"""
HAPPEN = """mutation ($id: ID!) { updateConversation(input: { id: $id, title: "again" }) { conversation { id } }
    setTyping(input: { conversationId: $id }) { delivered }
    sendMessage(input: { conversationId: $id, content: "one", model: "scripted" }) { run { id } } }"""
"""The last of it is refused while the answer to the one before it is being written."""


class Aim(Visitor):
    """Puts these values where the document has any for an argument, or a field of an input, of that name."""

    def __init__(self, real: dict[str, ConstValueNode]) -> None:
        super().__init__()
        self._real = real

    def enter_argument(self, node: ArgumentNode, *_: Any) -> ArgumentNode | None:
        value = self._real.get(node.name.value)
        return None if value is None else ArgumentNode(name=node.name, value=value)

    def enter_object_field(self, node: ObjectFieldNode, *_: Any) -> ObjectFieldNode | None:
        value = self._real.get(node.name.value)
        return None if value is None else ObjectFieldNode(name=node.name, value=value)


@contextmanager
def opened(server: Server, account: Account) -> Iterator[ClientConnection]:
    init = {"type": "connection_init", "payload": {"authorization": f"Bearer {account.token}"}}
    protocols = [Subprotocol(PROTOCOL)]
    # A thread that sends pings would draw from `random` while Hypothesis does.
    with connect(f"{server.ws}/graphql", subprotocols=protocols, proxy=None, ping_interval=None) as socket:
        socket.send(json.dumps(init))
        assert json.loads(socket.recv(10)) == {"type": "connection_ack"}
        yield socket


def heard(socket: ClientConnection, key: str, patience: float) -> list[Json]:
    """What is said to this subscription, until its end, or until so many seconds are silent."""
    messages: list[Json] = []
    while not messages or messages[-1]["type"] == "next":
        try:
            message = json.loads(socket.recv(patience))
        except TimeoutError:
            break
        if message["id"] == key:
            messages.append(message)
    return messages


def errors_in(message: Json) -> list[Json]:
    payload = message.get("payload", {})
    errors: list[Json] = payload if message["type"] == "error" else payload.get("errors", [])
    return errors


@pytest.mark.soak
@pytest.mark.parametrize("name", FIELDS)
def test_the_socket_answers_whatever_subscription_fits_the_schema(
    name: str, server: Server, register: Register
) -> None:
    account = register()
    text = (ROOT / "schema.graphql").read_text()
    schema = schemathesis.graphql.from_file(f"{text}\nschema {{ query: Subscription }}")
    types: Counter[str] = Counter()
    with (
        httpx.Client(base_url=server.url, timeout=30, headers=account.headers) as client,
        opened(server, account) as socket,
    ):
        made = client.post("/graphql", json={"query": START}).json()["data"]
        conversation = made["createConversation"]["conversation"]["id"]
        texts = {"runId": made["chat"]["runId"], "conversationId": conversation, "model": "scripted"}
        real: dict[str, ConstValueNode] = {key: StringValueNode(value=value) for key, value in texts.items()}
        real["after"] = IntValueNode(value="0") if name == "runEvents" else NullValueNode()

        @settings(QUIET, max_examples=300)
        @given(case=schema["Subscription"][name].as_strategy(), aimed=st.sampled_from((True, True, False)))
        def follow(case: Any, aimed: bool) -> None:
            key = str(types.total())
            document = visit(parse(case.body), Aim(real)) if aimed else parse(case.body)
            query = f"subscription {print_ast(document)}"
            socket.send(json.dumps({"id": key, "type": "subscribe", "payload": {"query": query}}))
            if name not in ENDING:
                happened = client.post("/graphql", json={"query": HAPPEN, "variables": {"id": conversation}}).json()
                assert {each["extensions"]["code"] for each in happened.get("errors", ())} <= {"RUN_ACTIVE"}, happened
            messages = heard(socket, key, SECONDS if name in ENDING else SILENCE)
            types.update(message["type"] for message in messages or [{"type": "silence"}])
            for error in chain.from_iterable(map(errors_in, messages)):
                assert fair(error, query), (error, query)
            if not messages or messages[-1]["type"] == "next":
                assert name not in ENDING, messages
                socket.send(json.dumps({"id": key, "type": "complete"}))

        follow()
    assert name == "typing" or types["next"] >= TOLD, types
    assert "Traceback" not in server.log()
