"""The GraphQL operations of the schema, made from it: what takes an id, and a document for each root field."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from graphql import (
    GraphQLArgument,
    GraphQLEnumType,
    GraphQLInputField,
    GraphQLInputObjectType,
    GraphQLInputType,
    GraphQLList,
    GraphQLNonNull,
    GraphQLSchema,
    get_named_type,
    is_composite_type,
    is_required_argument,
    is_required_input_field,
)

from graph.schema import core_schema
from tests.graph.http_client import Json

SCHEMA: GraphQLSchema = core_schema()
NAMING = ("Id", "Ids", "Key")
"""How the names of texts end that name something of somebody's: externalId, idempotencyKey."""
VALUES: Json = {"String": "text", "ID": "nothing", "Int": 1, "Float": 1.0, "Boolean": True}
SPECIAL: Json = {"email": "a@example.com", "password": "password123", "role": "USER", "model": "scripted:words=1"}
"""What would be refused as any text."""


@dataclass(frozen=True)
class Place:
    """An argument, or a field of an input, that takes an id: `Mutation.editMessage(input.messageId)`."""

    kind: str
    field: str
    path: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.kind}.{self.field}({'.'.join(self.path)})"


def roots() -> Iterator[tuple[str, str]]:
    """`("Query", "me")` and so on."""
    for kind in ("Query", "Mutation", "Subscription"):
        for name in SCHEMA.type_map[kind].fields:  # type: ignore[attr-defined]
            yield kind, name


def places() -> list[Place]:
    found: list[Place] = []
    for kind, name in roots():
        arguments = SCHEMA.type_map[kind].fields[name].args  # type: ignore[attr-defined]
        found += [Place(kind, name, path) for path in _paths(arguments)]
    return found


def _paths(items: dict[str, GraphQLArgument] | dict[str, GraphQLInputField]) -> Iterator[tuple[str, ...]]:
    for name, item in items.items():
        named = get_named_type(item.type)
        if isinstance(named, GraphQLInputObjectType):
            yield from ((name, *below) for below in _paths(named.fields))
        elif named.name == "ID" or (named.name == "String" and name.endswith(NAMING)):
            yield (name,)


def document(kind: str, name: str, given: Json) -> str:
    """The field with these arguments as variables; nothing is selected below it but the type."""
    field = SCHEMA.type_map[kind].fields[name]  # type: ignore[attr-defined]
    passed = [argument for argument in field.args if argument in given]
    head = ", ".join(f"${argument}: {field.args[argument].type}" for argument in passed)
    arguments = ", ".join(f"{argument}: ${argument}" for argument in passed)
    below = " { __typename }" if is_composite_type(get_named_type(field.type)) else ""
    call = f"({arguments})" if arguments else ""
    return f"{kind.lower()}{f' ({head})' if head else ''} {{ {name}{call}{below} }}"


def variables(kind: str, name: str, ids: dict[tuple[str, ...], str]) -> Json:
    """What the field needs: these ids at their places, and something that will do for all else that is required."""
    arguments = SCHEMA.type_map[kind].fields[name].args  # type: ignore[attr-defined]
    return _filled(arguments, (), ids)


def _filled(
    items: dict[str, GraphQLArgument] | dict[str, GraphQLInputField],
    above: tuple[str, ...],
    ids: dict[tuple[str, ...], str],
) -> Json:
    found: Json = {}
    for name, item in items.items():
        path = (*above, name)
        needed = is_required_input_field(item) if isinstance(item, GraphQLInputField) else is_required_argument(item)
        if needed or any(place[: len(path)] == path for place in ids):
            found[name] = _value(item.type, path, ids)
    return found


def _value(kind: GraphQLInputType, path: tuple[str, ...], ids: dict[tuple[str, ...], str]) -> object:
    if isinstance(kind, GraphQLNonNull):
        return _value(kind.of_type, path, ids)
    if isinstance(kind, GraphQLList):
        return [_value(kind.of_type, path, ids)]
    if isinstance(kind, GraphQLInputObjectType):
        return _filled(kind.fields, path, ids)
    if path in ids:
        return ids[path]
    if isinstance(kind, GraphQLEnumType):
        wanted = SPECIAL.get(path[-1])
        return wanted if wanted in kind.values else next(iter(kind.values))
    return SPECIAL.get(path[-1], VALUES[kind.name])
