"""Sockets of each worker, and notices from one worker to the others

Revision ID: 0014
Revises: 0013
"""

import sqlalchemy as sa
from alembic import op

from models.columns import Serial, Text

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("worker", sa.Column("sockets", sa.Integer(), nullable=False, server_default="0"))
    op.create_table(
        "notice",
        sa.Column("id", Serial(), nullable=False),
        sa.Column("origin", Text(), nullable=False),
        sa.Column("channel", Text(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("until", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_notice")),
        sqlite_autoincrement=True,
    )


def downgrade() -> None:
    op.drop_table("notice")
    with op.batch_alter_table("worker", schema=None) as batch_op:
        batch_op.drop_column("sockets")
