"""`node` and `nodes`: anything by its id, as far as the viewer may see it."""

import asyncio

import strawberry
from strawberry import ID

from errors import BadUserInput
from graph.api_keys import ApiKey
from graph.context import Context, Info
from graph.node_type import Node
from graph.types import User, load_conversation, load_message, load_run

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
        case "key" if context.viewer is not None and not context.by_key:
            found = await context.services.api_keys.get(context.viewer.id, key)
            return None if found is None else ApiKey.of(found)
    return None
