"""How much one operation may ask for, counted before anything of it runs.

The schema has cycles (run → message → run), and a fragment that is spread twice doubles what is below it: a document
of a thousand tokens can ask for 2⁵⁰ fields. Each fragment is weighed once: weighing takes as long as the document is.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from graphql import (
    DocumentNode,
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    GraphQLResolveInfo,
    InlineFragmentNode,
    IntValueNode,
    ListValueNode,
    OperationDefinitionNode,
    SelectionSetNode,
    ValueNode,
    VariableNode,
)

from chat.stats import DEFAULT_DAYS, MOST_DAYS
from errors import QueryTooComplex
from graph.paging import DEFAULT_SIZE, MAX_SIZE
from graph.shape import MAX_INTROSPECTION_DEPTH, QueryLimits

MAX_COST = 30_000
"""In plain fields of the answer, which take 13 to 20 µs each: half a second. 100 conversations with 20 messages fit."""
COSTS = {
    **dict.fromkeys(("author", "usage", "run", "parent", "message", "conversation", "head", "activeRun", "members"), 8),
    "siblings": 20,
    **dict.fromkeys(("messages", "daily", "byModel", "quota", "searchMessages"), 60),
    **dict.fromkeys(("sessions", "apiKeys", "identities"), 60),
}
"""Of fields that are looked up, 0.1 ms each in batches, of siblings, 0.2 ms, of those that take a read of their own,
1 ms each."""
LISTS = {
    **dict.fromkeys(("conversations", "messages", "searchMessages"), DEFAULT_SIZE),
    **{"siblings": 5, "members": 5, "parts": 5, "daily": DEFAULT_DAYS, "byModel": 10},
    **dict.fromkeys(("sessions", "apiKeys", "identities"), 10),
    **{"types": 120, "fields": 5, "directives": 5},
}
"""How many there are of what is below these fields, unless one of `SIZES` says it; of what there are more when it runs,
`surplus` counts the rest. The last three are introspection's, whose fields take 3 µs each: fifteen times all types took
seconds."""
WRAPPER = "ofType"
"""Most types wrap no other: half of what is asked of the inner one is counted. Tools ask nine levels down."""
SIZES = {"first": MAX_SIZE, "last": MAX_SIZE, "ids": MAX_SIZE, "days": MOST_DAYS}


class Weight(NamedTuple):
    """Of a selection with its fragments unfolded. `meta`: the depth of introspection in it."""

    cost: int = 0
    depth: int = 0
    meta: int = 0
    aliases: int = 0
    fields: int = 0


def check(
    document: DocumentNode,
    operation: OperationDefinitionNode,
    variables: Mapping[str, Any] | None,
    limits: QueryLimits,
) -> None:
    """For a document that is valid: without cycles of fragments.

    Raises:
        QueryTooComplex
    """
    fragments = {item.name.value: item for item in document.definitions if isinstance(item, FragmentDefinitionNode)}
    weight = _Scale(fragments, operation, variables or {}).weigh(operation.selection_set)
    if weight.depth > limits.depth:
        raise QueryTooComplex(f"The query is {weight.depth} levels deep; at most {limits.depth} are answered")
    if weight.meta > MAX_INTROSPECTION_DEPTH:
        raise QueryTooComplex(f"Introspection is answered {MAX_INTROSPECTION_DEPTH} levels deep")
    if weight.aliases > limits.aliases:
        raise QueryTooComplex(f"The query has {weight.aliases} aliases; at most {limits.aliases} are answered")
    if weight.fields > limits.roots:
        raise QueryTooComplex(f"The query asks {weight.fields} things at once; at most {limits.roots} are answered")
    if weight.cost > MAX_COST:
        raise QueryTooComplex("The query may answer too much at once; ask for fewer fields, or for smaller pages")


def surplus(info: GraphQLResolveInfo[Any], items: int) -> int:
    """What a list of so many costs beyond what `check` has counted for it."""
    beyond = items - LISTS[info.field_name]
    if beyond <= 0:
        return 0
    scale = _Scale(info.fragments, info.operation, info.variable_values.coerced)
    return beyond * sum(scale.weigh(node.selection_set).cost for node in info.field_nodes if node.selection_set)


class _Scale:
    def __init__(
        self,
        fragments: Mapping[str, FragmentDefinitionNode],
        operation: OperationDefinitionNode,
        variables: Mapping[str, Any],
    ) -> None:
        self._variables = variables
        self._defaults = {item.variable.name.value: item.default_value for item in operation.variable_definitions or ()}
        self._fragments = fragments
        self._weighed: dict[str, Weight] = {}

    def weigh(self, selections: SelectionSetNode) -> Weight:
        cost = depth = meta = aliases = fields = 0
        for selection in selections.selections:
            if isinstance(selection, FieldNode):
                weight = self._field(selection)
            elif isinstance(selection, FragmentSpreadNode):
                weight = self._fragment(selection.name.value)
            else:
                assert isinstance(selection, InlineFragmentNode)
                weight = self.weigh(selection.selection_set)
            cost += weight.cost
            depth = max(depth, weight.depth)
            meta = max(meta, weight.meta)
            aliases += weight.aliases
            fields += weight.fields
        return Weight(cost, depth, meta, aliases, fields)

    def _fragment(self, name: str) -> Weight:
        if name not in self._weighed:
            self._weighed[name] = self.weigh(self._fragments[name].selection_set)
        return self._weighed[name]

    def _field(self, field: FieldNode) -> Weight:
        alias = field.alias is not None
        if field.selection_set is None:
            return Weight(1, 1, 0, alias, 1)
        below = self.weigh(field.selection_set)
        name = field.name.value
        each = below.cost // 2 if name == WRAPPER else below.cost
        cost = COSTS.get(name, 1) + self._items(field) * each
        if name in {"__schema", "__type"}:
            return Weight(cost, 1, below.depth + 1, below.aliases + alias, 1)
        return Weight(cost, below.depth + 1, below.meta, below.aliases + alias, 1)

    def _items(self, field: FieldNode) -> int:
        """0: by a size that there is not, the field itself is refused, and nothing of what is below it runs."""
        given = {item.name.value: self._size(item.value) for item in field.arguments or () if item.name.value in SIZES}
        sizes = {name: size for name, size in given.items() if size is not None}
        if not sizes:
            return LISTS.get(field.name.value, 1)
        (name, size), *more = sizes.items()
        return size if not more and 1 <= size <= SIZES[name] else 0

    def _size(self, value: ValueNode | None) -> int | None:
        """The number, or the length of the list, that an argument has."""
        if isinstance(value, VariableNode):
            name = value.name.value
            if name not in self._variables:
                return self._size(self._defaults.get(name))
            given = self._variables[name]
            return len(given) if isinstance(given, list) else given if isinstance(given, int) else None
        if isinstance(value, ListValueNode):
            return len(value.values)
        return int(value.value) if isinstance(value, IntValueNode) else None
