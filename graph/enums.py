"""The schema's enums: the same objects that the product uses."""

from enum import StrEnum

import strawberry

from errors import ErrorCode
from models.message import MessageStatus
from models.run import RunStatus
from models.user import UserRole
from providers.base import FinishReason, Role

strawberry.enum(ErrorCode)
strawberry.enum(MessageStatus)
strawberry.enum(RunStatus)
strawberry.enum(UserRole)
strawberry.enum(FinishReason)
strawberry.enum(Role, name="MessageRole")


@strawberry.enum(description="OWNER also deletes and replaces. Anyone may leave.")
class MemberRole(StrEnum):
    OWNER = "OWNER"
    EDITOR = "EDITOR"
    VIEWER = "VIEWER"


__all__ = ["ErrorCode", "FinishReason", "MemberRole", "MessageStatus", "Role", "RunStatus", "UserRole"]
