"""Messages found by their words."""

import strawberry

from chat.search import MAX_QUERY_CHARS
from graph.context import Info
from graph.paging import PageInfo, encode_cursor, number_in, page_info, page_size, trim_page
from graph.types import Conversation, First, Message

SNIPPET = "Plain text around the hits, without marks and markup: show it as text, never as HTML."
QUERY = f"""Messages on the active branches of conversations in which the viewer has a part, the best first. All words
have to be there; "words in quotes" side by side; the last word, or one in front of a `*`, may be the beginning of one.
At most {MAX_QUERY_CHARS} characters. Of more than 500 messages that have the words the newest 500 are ranked."""


@strawberry.type
class SnippetPart:
    text: str
    hit: bool


@strawberry.type
class MessageSearchEdge:
    cursor: str
    node: Message
    conversation: Conversation
    snippet: str = strawberry.field(description=SNIPPET)
    parts: list[SnippetPart] = strawberry.field(description="The same snippet in pieces; which of them are hits.")


@strawberry.type
class MessageSearchConnection:
    edges: list[MessageSearchEdge]
    page_info: PageInfo


@strawberry.type
class SearchQuery:
    @strawberry.field(description=" ".join(QUERY.split()))
    async def search_messages(
        self, info: Info, query: str, first: First = None, after: str | None = None
    ) -> MessageSearchConnection:
        user_id = info.context.user_id
        size = page_size(first, None)
        place = _place(after)
        async with info.context.reading():
            hits = await info.context.services.searches.messages(user_id, query, limit=size.count + 1, after=place)
            info.context.hold([hit.message for hit in hits])
        page, more, fewer = trim_page(hits, size, after=after is not None, before=False)
        edges = [
            MessageSearchEdge(
                cursor=encode_cursor(*hit.place),
                node=Message.of(hit.message),
                conversation=Conversation.of(hit.conversation),
                snippet="".join(part.text for part in hit.parts),
                parts=[SnippetPart(text=part.text, hit=part.hit) for part in hit.parts],
            )
            for hit in page
        ]
        return MessageSearchConnection(edges=edges, page_info=page_info([edge.cursor for edge in edges], more, fewer))


def _place(after: str | None) -> tuple[int, int] | None:
    rank, seq = (number_in(after, "after", part=part, parts=2) for part in (0, 1))
    return None if rank is None or seq is None else (rank, seq)
