"""API keys

Revision ID: 0012
Revises: 0011
"""

import sqlalchemy as sa
from alembic import op

from models.columns import Millis, Text

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "api_key",
        sa.Column("id", Text(), nullable=False),
        sa.Column("user_id", Text(), nullable=False),
        sa.Column("name", Text(), nullable=False),
        sa.Column("prefix", Text(), nullable=False),
        sa.Column("digest", Text(), nullable=False),
        sa.Column("created_at", Millis(), nullable=False),
        sa.Column("last_used_at", Millis(), nullable=True),
        sa.Column("expires_at", Millis(), nullable=True),
        sa.ForeignKeyConstraint(["user_id"], ["user_account.id"], name=op.f("fk_api_key_user_id_user_account")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_api_key")),
        sa.UniqueConstraint("digest", name=op.f("uq_api_key_digest")),
    )
    op.create_index("ix_api_key_user_id", "api_key", ["user_id"])


def downgrade() -> None:
    op.drop_index("ix_api_key_user_id", "api_key")
    op.drop_table("api_key")
