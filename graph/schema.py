"""The schema: every noun's fields under three roots."""

from collections.abc import Mapping
from typing import Any

import strawberry
from graphql import (
    GraphQLArgument,
    GraphQLInputField,
    GraphQLInputObjectType,
    GraphQLObjectType,
    GraphQLResolveInfo,
    GraphQLSchema,
    GraphQLType,
    Undefined,
)
from strawberry.schema.config import StrawberryConfig

from graph.account import AccountMutation
from graph.api_keys import ApiKey, ApiKeyMutation
from graph.auth import AuthMutation, AuthQuery
from graph.chat import ChatMutation, ChatSubscription
from graph.conversations import ConversationMutation, ConversationQuery
from graph.events import EVENT_TYPES
from graph.factors import FactorMutation
from graph.happenings import CONVERSATION_EVENT_TYPES, HappeningSubscription
from graph.identities import IdentityMutation, IdentityQuery
from graph.members import MemberMutation
from graph.models import ModelQuery
from graph.node import NodeQuery
from graph.runs import RunMutation, RunQuery, RunSubscription
from graph.search import SearchQuery
from graph.sessions import SessionMutation
from graph.stats import StatsQuery
from graph.types import Conversation, Message, Run, User
from graph.typing import TypingMutation, TypingSubscription


@strawberry.type
class Query(AuthQuery, IdentityQuery, NodeQuery, ConversationQuery, SearchQuery, RunQuery, ModelQuery, StatsQuery):
    pass


@strawberry.type
class Mutation(
    AuthMutation,
    AccountMutation,
    SessionMutation,
    FactorMutation,
    ApiKeyMutation,
    IdentityMutation,
    ConversationMutation,
    MemberMutation,
    RunMutation,
    TypingMutation,
    ChatMutation,
):
    pass


@strawberry.type
class Subscription(RunSubscription, ChatSubscription, HappeningSubscription, TypingSubscription):
    pass


schema = strawberry.Schema(
    query=Query,
    mutation=Mutation,
    subscription=Subscription,
    # Types that are met only behind an interface are not found by walking from the roots.
    types=[*EVENT_TYPES, *CONVERSATION_EVENT_TYPES, User, ApiKey, Conversation, Message, Run],
    config=StrawberryConfig(auto_camel_case=True),
)


def core_schema() -> GraphQLSchema:
    """graphql-core's own schema, which execution.py runs documents on."""
    return schema._schema


def _drop_null_defaults() -> None:
    """An optional input that is absent reaches our dataclasses as None; the schema need not say `= null` for it."""
    for kind in core_schema().type_map.values():
        if isinstance(kind, GraphQLInputObjectType):
            _drop(kind.fields)
        elif isinstance(kind, GraphQLObjectType):
            for field in kind.fields.values():
                _drop(field.args)


def _drop(inputs: Mapping[str, GraphQLArgument | GraphQLInputField]) -> None:
    for item in inputs.values():
        if item.default_value is None:
            item.default_value = Undefined


_drop_null_defaults()


def _answer_is_one_of() -> None:
    """Strawberry's resolver raises AttributeError for lists and non-null types, to whoever asks a field's type."""
    kind = core_schema().type_map["__Type"]
    assert isinstance(kind, GraphQLObjectType)
    kind.fields["isOneOf"].resolve = _is_one_of


def _is_one_of(kind: GraphQLType, _info: GraphQLResolveInfo[Any]) -> bool | None:
    return kind.is_one_of if isinstance(kind, GraphQLInputObjectType) else None


_answer_is_one_of()


def print_schema() -> str:
    """The schema language text that schema.graphql holds."""
    return schema.as_str() + "\n"
