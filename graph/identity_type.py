"""The type of an account elsewhere."""

from __future__ import annotations

from datetime import datetime

import strawberry
from strawberry import ID

from models import identity as identities


@strawberry.type(description="An account elsewhere that opens the viewer's account here.")
class Identity:
    id: ID
    provider: str
    label: str = strawberry.field(description="What its owner knows it by: an address, a name.")
    created_at: datetime

    @classmethod
    def of(cls, row: identities.Identity) -> Identity:
        return cls(id=ID(row.id), provider=row.provider, label=row.label, created_at=row.created_at)
