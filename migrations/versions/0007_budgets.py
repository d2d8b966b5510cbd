"""Budgets

Revision ID: 0007
Revises: 0006
"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("daily_usage", schema=None) as batch_op:
        batch_op.add_column(sa.Column("reserved_tokens", sa.BigInteger(), nullable=False, server_default="0"))
        batch_op.add_column(sa.Column("reserved_nanos", sa.BigInteger(), nullable=False, server_default="0"))
    with op.batch_alter_table("run", schema=None) as batch_op:
        batch_op.add_column(sa.Column("reserved_tokens", sa.BigInteger(), nullable=False, server_default="0"))
        batch_op.add_column(sa.Column("reserved_nanos", sa.BigInteger(), nullable=False, server_default="0"))


def downgrade() -> None:
    for table in ("run", "daily_usage"):
        with op.batch_alter_table(table, schema=None) as batch_op:
            batch_op.drop_column("reserved_nanos")
            batch_op.drop_column("reserved_tokens")
