"""How many answers each user has begun lately

Revision ID: 0016
Revises: 0015
"""

import sqlalchemy as sa
from alembic import op

from models.columns import Text

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "run_rate",
        sa.Column("user_id", Text(), nullable=False),
        sa.Column("begun_at", sa.BigInteger(), nullable=False),
        sa.Column("begun", sa.BigInteger(), nullable=False),
        sa.Column("before", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["user_id"], ["user_account.id"], name=op.f("fk_run_rate_user_id_user_account")),
        sa.PrimaryKeyConstraint("user_id", name=op.f("pk_run_rate")),
    )


def downgrade() -> None:
    op.drop_table("run_rate")
