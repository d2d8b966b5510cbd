"""What a document may look like, before it is validated: one walk, as long as the document is.

Validation compares all fields of the same name with each other: 900 times `id` in one selection took it 0.3 s, and 240
times `me { id }` 0.7 s, within a thousand tokens.
"""

from collections import Counter
from dataclasses import dataclass
from typing import Any

from graphql import (
    DocumentNode,
    FieldNode,
    FragmentSpreadNode,
    InlineFragmentNode,
    OperationDefinitionNode,
    SelectionNode,
    SelectionSetNode,
)

from errors import QueryTooComplex

MAX_INTROSPECTION_DEPTH = 20
"""The usual introspection query has 13 levels."""
MAX_ITEMS, MAX_FIELDS, MAX_VALUES = 10_000, 250, 60_000
"""Of variables: 10,000 messages fit, as many as a conversation is stored with at once. A document has room for 250."""


@dataclass(frozen=True, slots=True)
class QueryLimits:
    """`chars`: of the document; reading takes 1 µs each, and holds the loop. What is long belongs into variables.

    Counts of one document, and of one operation with its fragments unfolded. `depth`: of fields within each other,
    introspection apart. `repeats`: of one field, or one fragment, in one selection."""

    tokens: int = 1_000
    chars: int = 65_536
    depth: int = 12
    aliases: int = 15
    roots: int = 20
    directives: int = 30
    repeats: int = 15


def check_variables(variables: dict[str, Any] | None) -> None:
    """Before graphql-core looks at them: 100,000 ids, or 60,000 fields that there are not, took it a second.

    Raises:
        QueryTooComplex
    """
    waiting: list[Any] = [variables]
    count = 0
    while waiting:
        value = waiting.pop()
        if not isinstance(value, dict | list):
            continue
        count += len(value)
        if len(value) > (MAX_FIELDS if isinstance(value, dict) else MAX_ITEMS) or count > MAX_VALUES:
            raise QueryTooComplex(
                f"variables are read up to {MAX_ITEMS} items of a list, {MAX_FIELDS} of an object, {MAX_VALUES} in all"
            )
        waiting += value.values() if isinstance(value, dict) else value


def check_shape(document: DocumentNode, limits: QueryLimits) -> None:
    """
    Raises:
        QueryTooComplex
    """
    directives = 0
    waiting: list[SelectionSetNode] = []
    for definition in document.definitions:
        directives += len(getattr(definition, "directives", None) or ())
        if isinstance(definition, OperationDefinitionNode):
            directives += sum(len(item.directives or ()) for item in definition.variable_definitions or ())
        if (selections := getattr(definition, "selection_set", None)) is not None:
            waiting.append(selections)
    while waiting:
        seen: Counter[str] = Counter()
        for selection in waiting.pop().selections:
            directives += len(selection.directives or ())
            seen[_key(selection)] += 1
            if (below := getattr(selection, "selection_set", None)) is not None:
                waiting.append(below)
        if seen and max(seen.values()) > limits.repeats:
            raise QueryTooComplex(f"One field is asked for more than {limits.repeats} times in the same place")
    if directives > limits.directives:
        raise QueryTooComplex(f"The query has {directives} directives; at most {limits.directives} are read")


def _key(selection: SelectionNode) -> str:
    if isinstance(selection, FieldNode):
        return (selection.alias or selection.name).value
    if isinstance(selection, FragmentSpreadNode):
        return f"...{selection.name.value}"
    condition = selection.type_condition if isinstance(selection, InlineFragmentNode) else None
    return f"... on {'' if condition is None else condition.name.value}"
