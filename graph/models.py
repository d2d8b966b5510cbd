"""The models that can be asked for."""

import strawberry
from strawberry import ID

from graph.context import Info


@strawberry.type
class Model:
    id: ID
    provider: str
    available: bool
    unavailable_reason: str | None
    context_window: int | None
    default: bool


@strawberry.type
class ModelQuery:
    @strawberry.field(description="What can be asked for now, and where it would run.")
    async def models(self, info: Info) -> list[Model]:
        catalog = info.context.services.catalog
        default = catalog.default
        return [
            Model(
                id=ID(model.id),
                provider=model.provider,
                available=model.unavailable_reason is None,
                unavailable_reason=model.unavailable_reason,
                context_window=model.context_window,
                default=model.id == default,
            )
            for model in catalog.models()
        ]
