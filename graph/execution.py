"""Runs documents on graphql-core: parse and validate once per text, execute, or subscribe and answer each event.

Strawberry's own executor is not used for three measured reasons: it validates a document at every request (1.5 ms of a
trivial query's 1.6), it keeps one context for all the operations of a socket, and it leaks about 1.3 KB per event.
"""

import inspect
from collections import OrderedDict
from collections.abc import AsyncGenerator, AsyncIterable
from dataclasses import dataclass
from typing import Any

from graphql import (
    DocumentNode,
    ExecutionResult,
    Executor,
    GraphQLError,
    GraphQLSchema,
    OperationType,
    create_source_event_stream,
    execute,
    execute_subscription_event,
    get_operation_ast,
    parse,
    validate,
)

from errors import BadUserInput, ChatError, QueryTooComplex
from graph.compiled import Selection, Unusual
from graph.context import Context
from graph.errors import format_chat_error, format_error, masked
from graph.limits import check
from graph.shape import QueryLimits, check_shape, check_variables
from graph.sizes import check_answer

CACHED_DOCUMENTS = 512
CACHED_CHARS = 16_384
"""Longer texts are not kept, so that the cache stays under 512 × 16 KB of text (and about ten times that of nodes)."""

Result = dict[str, Any]


class StreamExecutor(Executor[Any]):
    """graphql-core 3.3.2 shares one memo of collected sub-fields between all the events of a subscription, keyed by
    lists that are made anew for each event: it only grows (1.3 KB an event)."""

    def build_per_event_executor(self, payload: Any) -> Executor[Any]:
        executor = super().build_per_event_executor(payload)
        executor._relevant_sub_fields = {}
        return executor


class RequestRefused(Exception):
    """The request never got to run: `errors` are ready to be sent. `malformed`: it was not even a request."""

    def __init__(self, errors: list[dict[str, Any]], *, malformed: bool = False) -> None:
        super().__init__("refused")
        self.errors = errors
        self.malformed = malformed


@dataclass(frozen=True, slots=True)
class Operation:
    """A document that may be run."""

    document: DocumentNode
    kind: OperationType
    variables: dict[str, Any] | None
    name: str | None

    @property
    def streams(self) -> bool:
        return self.kind is OperationType.SUBSCRIPTION


class Runner:
    def __init__(self, schema: GraphQLSchema, limits: QueryLimits) -> None:
        self._schema = schema
        self._limits = limits
        self._documents: OrderedDict[str, tuple[DocumentNode | None, list[dict[str, Any]]]] = OrderedDict()

    def prepare(self, request: object) -> Operation:
        """An operation from a decoded request body: `query`, `variables`, `operationName`.

        Raises:
            RequestRefused: not a request, not GraphQL, or not valid on this schema.
        """
        try:
            query, variables, name = _parts(request)
        except ChatError as error:
            raise RequestRefused([format_chat_error(error)], malformed=True) from None
        document, errors = self._document(query)
        if document is None:
            raise RequestRefused(errors)
        operation = get_operation_ast(document, name)
        if operation is None:
            message = f"There is no operation {name!r}" if name else "Say which operation by operationName"
            raise RequestRefused([format_chat_error(BadUserInput(message, field="operationName"))])
        try:
            check_variables(variables)
            check(document, operation, variables, self._limits)
        except ChatError as error:
            raise RequestRefused([format_chat_error(error)]) from None
        return Operation(document, operation.operation, variables, name)

    def _document(self, query: str) -> tuple[DocumentNode | None, list[dict[str, Any]]]:
        known = self._documents.get(query)
        if known is not None:
            self._documents.move_to_end(query)
            return known
        checked = self._check(query)
        if len(query) <= CACHED_CHARS:
            self._documents[query] = checked
            if len(self._documents) > CACHED_DOCUMENTS:
                self._documents.popitem(last=False)
        return checked

    def _check(self, query: str) -> tuple[DocumentNode | None, list[dict[str, Any]]]:
        if len(query) > self._limits.chars:
            message = f"The document has more than {self._limits.chars} characters; put long texts into variables"
            return None, [format_chat_error(QueryTooComplex(message))]
        try:
            document = parse(query, max_tokens=self._limits.tokens)
            check_shape(document, self._limits)
            found = validate(self._schema, document, max_errors=20)
        except GraphQLError as error:
            return None, [format_error(error)]
        except QueryTooComplex as error:
            return None, [format_chat_error(error)]
        except RecursionError:
            return None, [format_chat_error(QueryTooComplex("The query is nested too deeply"))]
        if found:
            return None, [format_error(error) for error in found]
        return document, []

    async def execute(self, operation: Operation, context: Context) -> Result:
        """The answer to a query or a mutation."""
        result = execute(
            self._schema,
            operation.document,
            context_value=context,
            variable_values=operation.variables,
            operation_name=operation.name,
        )
        try:
            return format_result(await result if inspect.isawaitable(result) else result)
        finally:
            context.let_go()

    async def subscribe(self, operation: Operation, context: Context) -> AsyncGenerator[Result, None]:
        """The answers of a subscription. Closing the generator closes its source.

        Raises:
            RequestRefused: it could not start.
        """
        executor = StreamExecutor.build(
            self._schema,
            operation.document,
            context_value=context,
            raw_variable_values=operation.variables,
            operation_name=operation.name,
        )
        if isinstance(executor, list):
            raise RequestRefused([format_error(error) for error in executor])
        stream = create_source_event_stream(executor)
        if inspect.isawaitable(stream):
            stream = await stream
        if isinstance(stream, ExecutionResult):
            raise RequestRefused([format_error(error) for error in stream.errors or []])
        selection = Selection(executor)
        try:
            async for event in stream:
                try:
                    result = {"data": selection(event)}
                except Unusual:
                    result = await _execute_event(executor, event)
                yield result
        except ChatError as error:
            raise RequestRefused([format_chat_error(error)]) from None
        except Exception as error:
            raise RequestRefused([masked(error)]) from None
        finally:
            await _aclose(stream)


async def _execute_event(executor: Executor[Any], event: object) -> Result:
    executor.context_value.spent = executor.context_value.held = 0
    result = execute_subscription_event(executor.build_per_event_executor(event))
    try:
        return format_result(await result if inspect.isawaitable(result) else result)
    finally:
        executor.context_value.let_go()


async def _aclose(stream: AsyncIterable[Any]) -> None:
    if isinstance(stream, AsyncGenerator):
        await stream.aclose()


def format_result(result: ExecutionResult) -> Result:
    """The answer as it is sent: `data`, and `errors` where there are any. One that is too long is an error; what a
    mutation did is done."""
    try:
        check_answer(result.data)
    except QueryTooComplex as error:
        return {"errors": [format_chat_error(error)], "data": None}
    if not result.errors:
        return {"data": result.data}
    errors = [format_error(error) for error in result.errors]
    for failed in result.errors:
        _let_go(failed)
    # Errors without a path are the request's own: then there is no data, not even null.
    if result.data is None and all(error.path is None for error in result.errors):
        return {"errors": errors}
    return {"errors": errors, "data": result.data}


def _let_go(error: GraphQLError) -> None:
    """What the resolvers had read stands in the frames of their errors, which refer to each other: nobody would let go
    of it before the next search for rings."""
    for each in (error, error.original_error):
        if each is not None:
            each.__traceback__ = None


def _parts(request: object) -> tuple[str, dict[str, Any] | None, str | None]:
    if not isinstance(request, dict):
        raise BadUserInput("The request must be an object with a query")
    query, variables, name = request.get("query"), request.get("variables"), request.get("operationName")
    if not isinstance(query, str) or not query.strip():
        raise BadUserInput("query must be a document", field="query")
    if variables is not None and not isinstance(variables, dict):
        raise BadUserInput("variables must be an object", field="variables")
    if name is not None and not isinstance(name, str):
        raise BadUserInput("operationName must be text", field="operationName")
    if not isinstance(request.get("extensions"), dict | None):
        raise BadUserInput("extensions must be an object", field="extensions")
    return query, variables, name or None
