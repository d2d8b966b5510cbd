"""Sessions

Revision ID: 0008
Revises: 0007
"""

import sqlalchemy as sa
from alembic import op

from models.columns import Millis, Text

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "user_session",
        sa.Column("id", Text(), nullable=False),
        sa.Column("user_id", Text(), nullable=False),
        sa.Column("created_at", Millis(), nullable=False),
        sa.Column("last_seen_at", Millis(), nullable=False),
        sa.Column("expires_at", Millis(), nullable=False),
        sa.Column("user_agent", Text(), nullable=True),
        sa.Column("address", Text(), nullable=True),
        sa.Column("family_hash", Text(), nullable=True),
        sa.Column("token_hash", Text(), nullable=True),
        sa.Column("previous_hash", Text(), nullable=True),
        sa.Column("salt", Text(), nullable=True),
        sa.Column("rotated_at", Millis(), nullable=True),
        sa.ForeignKeyConstraint(["user_id"], ["user_account.id"], name=op.f("fk_user_session_user_id_user_account")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_user_session")),
        sa.UniqueConstraint("family_hash", name=op.f("uq_user_session_family_hash")),
    )
    with op.batch_alter_table("user_session", schema=None) as batch_op:
        batch_op.create_index("ix_user_session_expires", ["expires_at"], unique=False)
        batch_op.create_index("ix_user_session_user", ["user_id", "expires_at"], unique=False)


def downgrade() -> None:
    with op.batch_alter_table("user_session", schema=None) as batch_op:
        batch_op.drop_index("ix_user_session_user")
        batch_op.drop_index("ix_user_session_expires")

    op.drop_table("user_session")
