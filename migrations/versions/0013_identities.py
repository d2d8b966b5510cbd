"""Identities elsewhere, and accounts without a password

Revision ID: 0013
Revises: 0012
"""

import sqlalchemy as sa
from alembic import op

from models.columns import Millis, Text

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

NO_PASSWORD = "$argon2id$v=19$m=65536,t=3,p=4$bm8gcGFzc3dvcmQgZml0cw$bm8gcGFzc3dvcmQgaXMgaGFzaGVkIHRvIHRoaXMsIGV2ZQ"  # noqa: S105
"""For an older version, which knows no account without one: a hash of nothing that anybody knows."""


def upgrade() -> None:
    with op.batch_alter_table("user_account", schema=None) as batch_op:
        batch_op.alter_column("password_hash", existing_type=Text(), nullable=True)
    op.create_table(
        "identity",
        sa.Column("id", Text(), nullable=False),
        sa.Column("user_id", Text(), nullable=False),
        sa.Column("provider", Text(), nullable=False),
        sa.Column("subject", Text(), nullable=False),
        sa.Column("label", Text(), nullable=False),
        sa.Column("created_at", Millis(), nullable=False),
        sa.ForeignKeyConstraint(["user_id"], ["user_account.id"], name=op.f("fk_identity_user_id_user_account")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_identity")),
        sa.UniqueConstraint("provider", "subject", name=op.f("uq_identity_provider_subject")),
    )
    op.create_index("ix_identity_user_id", "identity", ["user_id"])
    op.create_table(
        "oauth_code",
        sa.Column("digest", Text(), nullable=False),
        sa.Column("user_id", Text(), nullable=False),
        sa.Column("purpose", Text(), nullable=False),
        sa.Column("provider", Text(), nullable=False),
        sa.Column("subject", Text(), nullable=False),
        sa.Column("label", Text(), nullable=False),
        sa.Column("challenge", Text(), nullable=True),
        sa.Column("expires_at", Millis(), nullable=False),
        sa.ForeignKeyConstraint(["user_id"], ["user_account.id"], name=op.f("fk_oauth_code_user_id_user_account")),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_oauth_code")),
    )
    op.create_index("ix_oauth_code_user_id", "oauth_code", ["user_id"])
    op.create_index("ix_oauth_code_expires_at", "oauth_code", ["expires_at"])


def downgrade() -> None:
    op.drop_table("oauth_code")
    op.drop_table("identity")
    users = sa.table("user_account", sa.column("password_hash", sa.String()))
    op.execute(users.update().where(users.c.password_hash.is_(None)).values(password_hash=NO_PASSWORD))
    with op.batch_alter_table("user_account", schema=None) as batch_op:
        batch_op.alter_column("password_hash", existing_type=Text(), nullable=False)
