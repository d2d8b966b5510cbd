"""How long the fullest answer to a document may take, by the schema's types: not as `graph/limits.py` counts it."""

from __future__ import annotations

from graphql import (
    DocumentNode,
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    GraphQLField,
    GraphQLList,
    GraphQLNonNull,
    InlineFragmentNode,
    IntValueNode,
    OperationDefinitionNode,
    SelectionSetNode,
    get_named_type,
    is_composite_type,
)

from tests.hostile.operations import SCHEMA

FIELD, LOOKED_UP, READ = 15e-6, 1e-4, 1e-3
"""Seconds: of a value, of an object that is looked up with others, of a list or a page that is read for itself."""
PAGE, FULL_PAGE, FEW = 20, 100, 5


def seconds(document: DocumentNode) -> float:
    """For a document without variables: what is generated has its values in it."""
    (operation,) = (item for item in document.definitions if isinstance(item, OperationDefinitionNode))
    fragments = {
        item.name.value: item.selection_set for item in document.definitions if isinstance(item, FragmentDefinitionNode)
    }
    root = {"query": "Query", "mutation": "Mutation", "subscription": "Subscription"}[operation.operation.value]
    return _Answer(fragments).below(operation.selection_set, root, 0)


class _Answer:
    def __init__(self, fragments: dict[str, SelectionSetNode]) -> None:
        self._fragments = fragments

    def below(self, selections: SelectionSetNode, kind: str, page: int) -> float:
        """Of this selection on an object of this type. `page`: how many edges there are, if it is a connection."""
        taken = 0.0
        for selection in selections.selections:
            if isinstance(selection, FragmentSpreadNode):
                taken += self.below(self._fragments[selection.name.value], kind, page)
            elif isinstance(selection, InlineFragmentNode):
                condition = selection.type_condition
                taken += self.below(selection.selection_set, condition.name.value if condition else kind, page)
            else:
                assert isinstance(selection, FieldNode)
                taken += self._field(selection, kind, page)
        return taken

    def _field(self, node: FieldNode, kind: str, page: int) -> float:
        name = node.name.value
        if node.selection_set is None:
            return FIELD
        field: GraphQLField = SCHEMA.type_map[kind].fields[name]  # type: ignore[attr-defined]
        named = get_named_type(field.type)
        assert is_composite_type(named)
        if named.name.endswith("Connection"):
            size = _size(node)
            return READ + (self.below(node.selection_set, named.name, size) if size else 0)
        if name == "edges":
            return page * (FIELD + self.below(node.selection_set, named.name, 0))
        below = self.below(node.selection_set, named.name, 0)
        inner = field.type.of_type if isinstance(field.type, GraphQLNonNull) else field.type
        return READ + FEW * below if isinstance(inner, GraphQLList) else LOOKED_UP + below


def _size(node: FieldNode) -> int:
    """Of the page; 0 where it is none that is answered."""
    asked = [
        int(item.value.value)
        for item in node.arguments or ()
        if item.name.value in {"first", "last"} and isinstance(item.value, IntValueNode)
    ]
    if len(asked) > 1 or (asked and not 1 <= asked[0] <= FULL_PAGE):
        return 0
    return asked[0] if asked else PAGE
