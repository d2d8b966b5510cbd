"""The interface of all that `node` finds."""

import strawberry
from strawberry import ID


@strawberry.interface(description="Anything with an id of its own.")
class Node:
    id: ID
