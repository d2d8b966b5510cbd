"""`node` and `nodes`: anything by its id, as far as the viewer may see it."""

import asyncio

import strawberry
from strawberry import ID

from errors import BadUserInput
from graph.context import Context, Info
from graph.types import Node, User, load_conversation, load_message, load_run

MAX_NODES = 100


@strawberry.type
class NodeQuery:
    @strawberry.field
    async def node(self, info: Info, id: ID) -> Node | None:
        return await _load(info.context, id)

    @strawberry.field(description="At most 100, in the order asked for.")
    async def nodes(self, info: Info, ids: list[ID]) -> list[Node | None]:
        if len(ids) > MAX_NODES:
            raise BadUserInput(f"At most {MAX_NODES} ids", field="ids")
        return list(await asyncio.gather(*(_load(info.context, key) for key in ids)))


async def _load(context: Context, key: str) -> Node | None:
    match key.partition("_")[0]:
        case "conv":
            return await load_conversation(context, key)
        case "msg":
            return await load_message(context, key)
        case "run":
            return await load_run(context, key)
        case "user" if context.viewer is not None and context.viewer.id == key:
            row = await context.users.load(key)
            return None if row is None else User.of(row, context)
    return None
