"""Every operation there is, and how many SQL statements it takes at most, on SQLite and on PostgreSQL, whose locks are
statements too. The look-up of a token counts in REST, where it is part of the request."""

from __future__ import annotations

from typing import NamedTuple

CONVERSATION = "{ conversation { id title messageCount } }"
SENT = "{ message { id } run { id status } }"
PAIR = '[{role: USER, content: "a"}, {role: ASSISTANT, content: "b"}]'
ASK = '{ messages: [{role: USER, content: "hi"}], model: "scripted:words=1" }'


class Operation(NamedTuple):
    """`text`: a document, or `METHOD path body`, with names of the world in it: `$conv`, `$msg`, …"""

    name: str
    text: str
    sqlite: int
    postgres: int


def mutation(name: str, arguments: str, answer: str) -> str:
    return f"mutation {{ {name}(input: {{ {arguments} }}) {answer} }}"


QUERIES = (
    Operation("me", "{ me { id username } }", 1, 1),
    Operation("node", '{ node(id: "$conv") { id } }', 1, 1),
    Operation("nodes", '{ nodes(ids: ["$conv", "$msg", "$run"]) { id } }', 3, 3),
    Operation(
        "conversation", '{ conversation(id: "$conv") { messages(last: 50) { edges { node { content } } } } }', 2, 2
    ),
    Operation("conversations", "{ conversations(first: 20) { edges { node { id title } } } }", 2, 2),
    Operation(
        "searchMessages",
        '{ searchMessages(query: "hello") { edges { snippet node { id } conversation { id } } } }',
        5,
        5,
    ),
    Operation("run", '{ run(id: "$run") { id status } }', 1, 1),
    Operation("models", "{ models { id } }", 0, 0),
    Operation("identityProviders", "{ identityProviders { name } }", 0, 0),
    Operation("stats", "{ stats { totalTokens daily { tokens } byModel { tokens } quota { tokensLeft } } }", 4, 4),
)
MUTATIONS = (
    Operation(
        "register",
        mutation("register", 'username: "$new", email: "$new@a.b", password: "password123"', "{ expiresIn }"),
        9,
        9,
    ),
    Operation("login", mutation("login", 'username: "$name", password: "password123"', "{ expiresIn }"), 10, 10),
    Operation("createConversation", mutation("createConversation", f"messages: {PAIR}", CONVERSATION), 7, 9),
    Operation("updateConversation", mutation("updateConversation", 'id: "$conv", title: "t"', CONVERSATION), 4, 5),
    Operation(
        "replaceConversation",
        mutation("replaceConversation", f'id: "$conv", title: "t", model: "m", messages: {PAIR}', CONVERSATION),
        11,
        12,
    ),
    Operation("deleteConversation", mutation("deleteConversation", 'id: "$conv"', "{ id }"), 9, 10),
    Operation("deleteMessage", mutation("deleteMessage", 'id: "$question"', CONVERSATION), 14, 15),
    Operation(
        "addMember",
        mutation("addMember", 'conversationId: "$conv", username: "$friend", role: VIEWER', CONVERSATION),
        7,
        8,
    ),
    Operation(
        "removeMember", mutation("removeMember", 'conversationId: "$conv", userId: "$member"', CONVERSATION), 6, 7
    ),
    Operation("sendMessage", mutation("sendMessage", 'conversationId: "$conv", content: "hi"', SENT), 16, 17),
    Operation("editMessage", mutation("editMessage", 'messageId: "$question", content: "hi"', SENT), 21, 22),
    Operation("regenerate", mutation("regenerate", 'messageId: "$msg"', "{ run { id } }"), 20, 21),
    Operation("cancelRun", mutation("cancelRun", 'runId: "$active"', "{ run { status } }"), 2, 2),
    Operation("setTyping", mutation("setTyping", 'conversationId: "$conv"', "{ delivered }"), 1, 1),
    Operation("chat", mutation("chat", ASK.strip("{} "), "{ content tokens }"), 5, 6),
)
ACCOUNTS = (
    Operation("deleteAccount", mutation("deleteAccount", 'password: "password123"', "{ id }"), 36, 36),
    Operation("refreshSession", mutation("refreshSession", 'refreshToken: "$refresh"', "{ expiresIn }"), 4, 4),
    Operation(
        "changePassword",
        mutation("changePassword", 'currentPassword: "password123", newPassword: "password124"', "{ expiresIn }"),
        14,
        14,
    ),
    Operation("logout", mutation("logout", "everywhere: true", "{ sessionsEnded }"), 1, 1),
    Operation("revokeSession", mutation("revokeSession", 'id: "$session"', "{ sessionsEnded }"), 1, 1),
    Operation("beginTotp", "mutation { beginTotp { secret } }", 1, 1),
    Operation("confirmTotp", mutation("confirmTotp", 'code: "$code"', "{ recoveryCodes }"), 11, 11),
    Operation("disableTotp", mutation("disableTotp", 'code: "$recovery"', "{ user { id } }"), 12, 12),
    Operation("createApiKey", mutation("createApiKey", 'name: "k"', "{ key }"), 2, 3),
    Operation("revokeApiKey", mutation("revokeApiKey", 'id: "$key"', "{ id }"), 1, 1),
)
"""Of a user who has just registered."""
ELSEWHERE = {"oauthLogin", "beginIdentityLink", "linkIdentity", "unlinkIdentity"}
"""What takes another server's answer is in tests/auth/test_oauth.py."""
SUBSCRIPTIONS = (
    # To the first event, or for 0.3 s: what waits for news looks for them meanwhile.
    Operation("runEvents", 'subscription { runEvents(runId: "$active") { seq } }', 4, 4),
    Operation("chat", f"subscription {{ chat(input: {ASK}) {{ seq }} }}", 5, 6),
    Operation("conversationEvents", 'subscription { conversationEvents(conversationId: "$conv") { cursor } }', 16, 16),
    Operation(
        "viewerEvents",
        "subscription { viewerEvents { ... on ViewerResync { cursor } ... on ViewerRunChanged { cursor } } }",
        16,
        16,
    ),
    Operation("typing", 'subscription { typing(conversationId: "$conv") { userId } }', 3, 3),
)
REST = (
    Operation("GET /", "GET /", 0, 0),
    Operation("GET /health", "GET /health", 3, 3),
    Operation(
        "POST /api/auth/register",
        'POST /api/auth/register {"username": "$new", "email": "$new@a.b", "password": "password123"}',
        9,
        9,
    ),
    Operation("POST /api/auth/login", 'POST /api/auth/login {"username": "$name", "password": "password123"}', 10, 10),
    Operation("GET /api/auth/me", "GET /api/auth/me", 1, 1),
    Operation(
        "POST /api/chat",
        'POST /api/chat {"messages": [{"role": "user", "content": "hi"}], "model": "scripted:words=1"}',
        6,
        7,
    ),
    Operation("GET /api/conversations", "GET /api/conversations", 3, 3),
    Operation("POST /api/conversations", 'POST /api/conversations {"title": "t", "messages": [], "model": "m"}', 6, 8),
    Operation("GET /api/conversations/{conversation_id}", "GET /api/conversations/$conv", 4, 4),
    Operation(
        "PUT /api/conversations/{conversation_id}",
        'PUT /api/conversations/$conv {"title": "t", "messages": [], "model": "m"}',
        10,
        11,
    ),
    Operation("DELETE /api/conversations/{conversation_id}", "DELETE /api/conversations/$conv", 10, 11),
    Operation("GET /api/stats", "GET /api/stats", 2, 2),
)
