"""Costs

Revision ID: 0004
Revises: 0003
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("run", schema=None) as batch_op:
        batch_op.add_column(sa.Column("cost_nanos", sa.BigInteger(), nullable=True))
        batch_op.add_column(sa.Column("prompt_estimate", sa.Integer(), nullable=True))
    run = sa.table("run", sa.column("provider"), sa.column("prompt_tokens"), sa.column("cost_nanos"))
    # What the embedded model wrote cost nothing; what anything else did, nobody knows any more.
    op.execute(run.update().where(run.c.provider == "local", run.c.prompt_tokens.is_not(None)).values(cost_nanos=0))


def downgrade() -> None:
    with op.batch_alter_table("run", schema=None) as batch_op:
        batch_op.drop_column("prompt_estimate")
        batch_op.drop_column("cost_nanos")
