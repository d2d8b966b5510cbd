"""Purposes of runs

Revision ID: 0011
Revises: 0010
"""

import sqlalchemy as sa
from alembic import op

from models.columns import Text

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("run", schema=None) as batch_op:
        batch_op.add_column(sa.Column("purpose", Text(), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("run", schema=None) as batch_op:
        batch_op.drop_column("purpose")
