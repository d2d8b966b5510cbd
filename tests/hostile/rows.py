"""What each place that takes an id is tried with, and where the rest is tested."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from tests.conftest import Account
from tests.graph.documents import create, ended, send
from tests.graph.http_client import Graph

_numbers = itertools.count(1)

ROWS: dict[str, tuple[str, ...]] = {
    "Query.node(id)": ("conversation", "message", "answer", "run", "user", "api_key"),
    "Query.nodes(ids)": ("conversation", "message", "answer", "run", "user", "api_key"),
    "Query.conversation(id)": ("conversation", "external", "message"),
    "Query.run(id)": ("run", "conversation"),
    "Mutation.revokeApiKey(input.id)": ("api_key",),
    "Mutation.revokeSession(input.id)": ("session", "api_key"),
    "Mutation.createConversation(input.externalId)": ("external", "conversation"),
    "Mutation.createConversation(input.messages.externalId)": ("external_message", "message"),
    "Mutation.updateConversation(input.id)": ("conversation", "external"),
    "Mutation.updateConversation(input.headMessageId)": ("message", "answer"),
    "Mutation.replaceConversation(input.id)": ("conversation", "external"),
    "Mutation.replaceConversation(input.messages.externalId)": ("external_message", "message"),
    "Mutation.deleteConversation(input.id)": ("conversation", "external"),
    "Mutation.deleteMessage(input.id)": ("message", "conversation"),
    "Mutation.addMember(input.conversationId)": ("conversation",),
    "Mutation.removeMember(input.conversationId)": ("conversation",),
    "Mutation.removeMember(input.userId)": ("user",),
    "Mutation.sendMessage(input.conversationId)": ("conversation", "external"),
    "Mutation.sendMessage(input.parentId)": ("message", "answer"),
    "Mutation.sendMessage(input.idempotencyKey)": ("key",),
    "Mutation.editMessage(input.messageId)": ("message", "answer"),
    "Mutation.editMessage(input.idempotencyKey)": ("key",),
    "Mutation.regenerate(input.messageId)": ("answer", "message"),
    "Mutation.regenerate(input.idempotencyKey)": ("key",),
    "Mutation.cancelRun(input.runId)": ("run",),
    "Mutation.setTyping(input.conversationId)": ("conversation",),
    "Mutation.chat(input.idempotencyKey)": ("key",),
    "Subscription.runEvents(runId)": ("run",),
    "Subscription.conversationEvents(conversationId)": ("conversation",),
    "Subscription.typing(conversationId)": ("conversation",),
}
"""The first kind is what belongs there: with it the owner has to get an answer. A new kind is a field of `World`."""

ELSEWHERE = {
    "Mutation.unlinkIdentity(input.id)": "test_oauth: test_an_identity_is_linked_by_who_is_signed_in",
    "Subscription.chat(input.idempotencyKey)": "graph/test_chat: test_the_same_key_of_another_user_is_another_key",
}
"""Places whose answers are never the same twice, and the test that has them."""

OWNER_ELSEWHERE = {
    "Mutation.revokeSession(input.id)": "auth/test_sessions: the viewer would be signed out of all the others",
    "Mutation.createConversation(input.externalId)": "rest/test_conversations: the owner has it already, a CONFLICT",
    "Mutation.chat(input.idempotencyKey)": "graph/test_chat: the key was used for something else, a CONFLICT",
    "Mutation.addMember(input.conversationId)": "people/test_rights: needs a second user's name",
    "Mutation.removeMember(input.conversationId)": "people/test_rights: needs a second user's name",
    "Mutation.removeMember(input.userId)": "people/test_rights: an owner cannot be put out",
}

NULL = "null for whoever is nobody"
PUBLIC = {
    "Query.me": NULL,
    "Query.node": NULL,
    "Query.nodes": NULL,
    "Query.conversation": NULL,
    "Query.run": NULL,
    "Query.models": "what can be asked for",
    "Query.identityProviders": "how one becomes somebody",
    "Mutation.oauthLogin": "how one becomes somebody",
    "Mutation.register": "how one becomes somebody",
    "Mutation.login": "how one becomes somebody",
}
"""The root fields that anyone may ask for, and why. All others say UNAUTHENTICATED."""


@dataclass(frozen=True)
class World:
    """What one user has: a conversation with a question and its answer, and the run that wrote it."""

    user: str
    conversation: str
    external: str
    message: str
    external_message: str
    answer: str
    run: str
    key: str
    api_key: str
    session: str

    def of(self, kind: str) -> str:
        """The id of this kind."""
        found: str = getattr(self, kind)
        return found


async def make_world(graph: Graph, account: Account) -> World:
    """All of it new, and at rest."""
    number = next(_numbers)
    names = {"external": f"own-{number}", "external_message": f"own-message-{number}", "key": f"key-{number}"}
    first = {"role": "USER", "content": "one", "externalId": names["external_message"]}
    conversation = await create(graph, externalId=names["external"], model="scripted:words=1", messages=[first])
    sent = await send(graph, conversation["id"], idempotencyKey=names["key"])
    run = await ended(graph, sent["run"]["id"])
    return World(
        user=account.id,
        conversation=conversation["id"],
        message=sent["message"]["id"],
        answer=run["message"]["id"],
        run=run["id"],
        api_key=await _only_key(graph),
        session=(await graph.data("{ me { sessions { id } } }"))["me"]["sessions"][0]["id"],
        **names,
    )


async def _only_key(graph: Graph) -> str:
    """A new API key; the earlier ones go, since a user may have so many."""
    for old in (await graph.data("{ me { apiKeys { id } } }"))["me"]["apiKeys"]:
        await graph.data("mutation ($id: ID!) { revokeApiKey(input: { id: $id }) { id } }", id=old["id"])
    made = await graph.data('mutation { createApiKey(input: { name: "a key" }) { apiKey { id } } }')
    return str(made["createApiKey"]["apiKey"]["id"])
