"""The stored run log

Revision ID: 0002
Revises: 0001
"""

import sqlalchemy as sa
from alembic import op

from models.columns import Serial, Text

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "run_journal",
        sa.Column("id", Serial(), nullable=False),
        sa.Column("worker", Text(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_run_journal")),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "run_segment",
        sa.Column("run_id", Text(), nullable=False),
        sa.Column("first_seq", sa.Integer(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("run_id", "first_seq", name=op.f("pk_run_segment")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "worker",
        sa.Column("id", Text(), nullable=False),
        sa.Column("lease_until", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_worker")),
    )
    with op.batch_alter_table("worker", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_worker_lease_until"), ["lease_until"], unique=False)

    with op.batch_alter_table("run", schema=None) as batch_op:
        batch_op.add_column(sa.Column("temperature", sa.Float(), nullable=True))
        batch_op.add_column(sa.Column("max_tokens", sa.Integer(), nullable=True))
        batch_op.drop_index(batch_op.f("ix_run_lease"))
        batch_op.create_index("ix_run_status_worker", ["status", "worker"], unique=False)
        batch_op.drop_column("lease_until")


def downgrade() -> None:
    with op.batch_alter_table("run", schema=None) as batch_op:
        batch_op.add_column(sa.Column("lease_until", sa.BIGINT(), nullable=True))
        batch_op.drop_index("ix_run_status_worker")
        batch_op.create_index(batch_op.f("ix_run_lease"), ["status", "lease_until"], unique=False)
        batch_op.drop_column("max_tokens")
        batch_op.drop_column("temperature")

    with op.batch_alter_table("worker", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_worker_lease_until"))

    op.drop_table("worker")
    op.drop_table("run_segment")
    op.drop_table("run_journal")
