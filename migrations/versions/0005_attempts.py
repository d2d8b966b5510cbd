"""Attempts that are counted

Revision ID: 0005
Revises: 0004
"""

import sqlalchemy as sa
from alembic import op

from models.columns import Millis, Text

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "attempt",
        sa.Column("key", Text(), nullable=False),
        sa.Column("moments", sa.JSON(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("until", Millis(), nullable=False),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_attempt")),
    )
    with op.batch_alter_table("attempt", schema=None) as batch_op:
        batch_op.create_index(op.f("ix_attempt_until"), ["until"], unique=False)


def downgrade() -> None:
    with op.batch_alter_table("attempt", schema=None) as batch_op:
        batch_op.drop_index(op.f("ix_attempt_until"))

    op.drop_table("attempt")
