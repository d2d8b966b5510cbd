"""Members and changes

Revision ID: 0003
Revises: 0002
"""

import sqlalchemy as sa
from alembic import op

from models.columns import Millis, Serial, Text

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "change",
        sa.Column("id", Serial(), nullable=False),
        sa.Column("audience", Text(), nullable=False),
        sa.Column("kind", Text(), nullable=False),
        sa.Column("ref", Text(), nullable=False),
        sa.Column("at", Millis(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_change")),
        sqlite_autoincrement=True,
    )
    with op.batch_alter_table("change", schema=None) as batch_op:
        batch_op.create_index("ix_change_at", ["at"], unique=False)
        batch_op.create_index("ix_change_audience", ["audience", "id"], unique=False)

    op.create_table(
        "member",
        sa.Column("conversation_id", Text(), nullable=False),
        sa.Column("user_id", Text(), nullable=False),
        sa.Column("role", Text(), nullable=False),
        sa.Column("created_at", Millis(), nullable=False),
        sa.ForeignKeyConstraint(
            ["conversation_id"], ["conversation.id"], name=op.f("fk_member_conversation_id_conversation")
        ),
        sa.ForeignKeyConstraint(["user_id"], ["user_account.id"], name=op.f("fk_member_user_id_user_account")),
        sa.PrimaryKeyConstraint("conversation_id", "user_id", name=op.f("pk_member")),
    )
    with op.batch_alter_table("member", schema=None) as batch_op:
        batch_op.create_index("ix_member_user", ["user_id"], unique=False)


def downgrade() -> None:
    with op.batch_alter_table("member", schema=None) as batch_op:
        batch_op.drop_index("ix_member_user")

    op.drop_table("member")
    with op.batch_alter_table("change", schema=None) as batch_op:
        batch_op.drop_index("ix_change_audience")
        batch_op.drop_index("ix_change_at")

    op.drop_table("change")
