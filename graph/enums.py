"""The schema's enums: the same objects that the product uses."""

import strawberry

from errors import ErrorCode
from models.member import MemberRole
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


strawberry.enum(
    MemberRole,
    description="VIEWER reads and follows; EDITOR also sends, edits, regenerates, cancels, sets the head, renames; "
    "OWNER also deletes, replaces and manages members. Anyone may leave.",
)

__all__ = ["ErrorCode", "FinishReason", "MemberRole", "MessageStatus", "Role", "RunStatus", "UserRole"]
