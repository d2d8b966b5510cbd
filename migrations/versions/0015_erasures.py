"""Erasures

Revision ID: 0015
Revises: 0014
"""

import sqlalchemy as sa
from alembic import op

from models.columns import Millis, Text

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "erasure",
        sa.Column("user_id", Text(), nullable=False),
        sa.Column("asked_at", Millis(), nullable=False),
        sa.PrimaryKeyConstraint("user_id", name=op.f("pk_erasure")),
    )
    with op.batch_alter_table("message", schema=None) as batch_op:
        batch_op.create_index("ix_message_author", ["author_id"], unique=False)


def downgrade() -> None:
    with op.batch_alter_table("message", schema=None) as batch_op:
        batch_op.drop_index("ix_message_author")

    op.drop_table("erasure")
