"""A subscription's selection, compiled once into a plain function from an event to its answer.

graphql-core collects fields and executes again for each event, which costs more than all else that an event meets. What
is selected of each type is collected here by graphql-core's own code, once, with the variables as they are; so
fragments, aliases, @skip, @include and merged fields mean the same. Whatever is more than reading attributes (a
resolver, an argument, a value that is not what its type promises) is left to the executor, event by event, and so are
all errors.
"""

from collections.abc import Callable
from datetime import datetime
from enum import Enum
from typing import Any

from graphql import (
    Executor,
    GraphQLBoolean,
    GraphQLField,
    GraphQLID,
    GraphQLInt,
    GraphQLLeafType,
    GraphQLList,
    GraphQLNonNull,
    GraphQLObjectType,
    GraphQLOutputType,
    GraphQLScalarType,
    GraphQLSchema,
    GraphQLString,
    is_abstract_type,
    is_leaf_type,
)
from graphql.execution.collect_fields import FieldDetailsList, collect_fields
from strawberry.schema.schema_converter import GraphQLCoreConverter
from strawberry.types.field import StrawberryField

Complete = Callable[[Any], Any]
"""From a value to how it stands in the answer; raises Unusual."""
Member = tuple[str, str, Complete]
"""Response key, attribute, and what becomes of its value."""

EXACT = {GraphQLString: str, GraphQLID: str, GraphQLBoolean: bool}
"""Scalars whose values go out as they are when they have exactly this type."""
PLAIN = (str, int, float, datetime, Enum)
INT_END = 2**31


class Unusual(Exception):
    """This value is the executor's."""


class Selection:
    """Of one subscription: made from its executor, good for all its events."""

    def __init__(self, executor: Executor[Any]) -> None:
        self._executor = executor
        self._classes = classes_of(executor.schema)
        self._key, self._complete = self._root()

    def __call__(self, event: Any) -> dict[str, Any]:
        """The `data` of the answer that the event makes.

        Raises:
            Unusual: the executor has to make it.
        """
        try:
            return {self._key: self._complete(event)}
        except AttributeError as error:
            raise Unusual from error

    def _root(self) -> tuple[str, Complete]:
        executor = self._executor
        root = executor.schema.subscription_type
        assert root is not None
        collected = collect_fields(
            executor.schema, executor.fragments, executor.variable_values, root, executor.operation
        )
        fields = collected.grouped_field_set
        if len(fields) != 1 or collected.new_defer_usages or executor.middleware_manager is not None:
            return "", refuse
        key, details = next(iter(fields.items()))
        field = executor.schema.get_field(root, details[0].node.name.value)
        made = None if field is None else field.extensions.get(GraphQLCoreConverter.DEFINITION_BACKREF)
        if field is None or not isinstance(made, StrawberryField) or not made.is_subscription:
            return "", refuse
        return key, self._completion(field.type, details)

    def _completion(self, kind: GraphQLOutputType, details: FieldDetailsList) -> Complete:
        if isinstance(kind, GraphQLNonNull):
            return self._present(kind.of_type, details)
        present = self._present(kind, details)
        return lambda value: None if value is None else present(value)

    def _present(self, kind: GraphQLOutputType, details: FieldDetailsList) -> Complete:
        """For a value that is there: None is Unusual."""
        if isinstance(kind, GraphQLList):
            return _list_of(self._completion(kind.of_type, details))
        if is_leaf_type(kind):
            return _leaf(kind)
        if is_abstract_type(kind):
            return self._by_class(set(self._executor.schema.get_possible_types(kind)), details)
        assert isinstance(kind, GraphQLObjectType)
        return self._by_class({kind}, details)

    def _by_class(self, possible: set[GraphQLObjectType], details: FieldDetailsList) -> Complete:
        known: dict[type, Complete] = {}

        def complete(value: Any) -> Any:
            made = known.get(type(value))
            if made is None:
                kind = self._classes.get(type(value))
                made = known[type(value)] = self._object(kind, details) if kind in possible else refuse
            return made(value)

        return complete

    def _object(self, kind: GraphQLObjectType, details: FieldDetailsList) -> Complete:
        collected = self._executor.collect_subfields(kind, details)
        if collected.new_defer_usages:
            return refuse
        members: list[Member] = []
        for key, chosen in collected.grouped_field_set.items():
            name = chosen[0].node.name.value
            if name == "__typename":
                members.append((key, "__class__", _always(kind.name)))
                continue
            field = self._executor.schema.get_field(kind, name)
            attribute = None if field is None or chosen[0].node.arguments else attribute_of(field)
            if field is None or attribute is None:
                return refuse
            members.append((key, attribute, self._completion(field.type, chosen)))
        return lambda value: {key: complete(getattr(value, attribute)) for key, attribute, complete in members}


def classes_of(schema: GraphQLSchema) -> dict[type, GraphQLObjectType]:
    """The object type of each class; values of a subclass are not looked for."""
    known = schema.extensions.get(__name__)
    if known is None:
        known = schema.extensions[__name__] = {
            kind.extensions[GraphQLCoreConverter.DEFINITION_BACKREF].origin: kind
            for kind in schema.type_map.values()
            if isinstance(kind, GraphQLObjectType) and GraphQLCoreConverter.DEFINITION_BACKREF in kind.extensions
        }
    found: dict[type, GraphQLObjectType] = known
    return found


def attribute_of(field: GraphQLField) -> str | None:
    """The attribute that the field reads; None when it does more than that."""
    made = field.extensions.get(GraphQLCoreConverter.DEFINITION_BACKREF)
    if not isinstance(made, StrawberryField) or not made.is_basic_field or field.args:
        return None
    plain = getattr(field.resolve, "_is_default", False) and made.default_resolver is getattr
    return made.python_name if plain else None


def refuse(_value: object) -> Any:
    raise Unusual


def _always(value: str) -> Complete:
    return lambda _: value


def _list_of(item: Complete) -> Complete:
    def complete(value: Any) -> Any:
        if type(value) is not list:
            raise Unusual
        return [item(entry) for entry in value]

    return complete


def _leaf(kind: GraphQLLeafType) -> Complete:
    if isinstance(kind, GraphQLScalarType) and (exact := EXACT.get(kind)) is not None:
        return _exactly(exact)
    return _int if kind is GraphQLInt else _coerced(kind)


def _exactly(kind: type) -> Complete:
    def complete(value: Any) -> Any:
        if type(value) is not kind:
            raise Unusual
        return value

    return complete


def _int(value: Any) -> Any:
    if type(value) is not int or not -INT_END <= value < INT_END:
        raise Unusual
    return value


def _coerced(kind: GraphQLLeafType) -> Complete:
    def complete(value: Any) -> Any:
        if not isinstance(value, PLAIN):
            raise Unusual
        try:
            coerced = kind.coerce_output_value(value)
        except Exception as error:
            raise Unusual from error
        if coerced is None:
            raise Unusual
        return coerced

    return complete
