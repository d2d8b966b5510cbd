"""The first tables

Revision ID: 0001
Revises:
"""

import sqlalchemy as sa
from alembic import op

from models.columns import Millis, Text

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "user_account",
        sa.Column("id", Text(), nullable=False),
        sa.Column("username", Text(), nullable=False),
        sa.Column("username_key", Text(), nullable=False),
        sa.Column("email", Text(), nullable=False),
        sa.Column("email_key", Text(), nullable=False),
        sa.Column("password_hash", Text(), nullable=False),
        sa.Column("role", Text(), nullable=False),
        sa.Column("disabled", sa.Boolean(), nullable=False),
        sa.Column("created_at", Millis(), nullable=False),
        sa.Column("conversation_count", sa.Integer(), nullable=False),
        sa.Column("message_count", sa.Integer(), nullable=False),
        sa.Column("total_tokens", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_user_account")),
        sa.UniqueConstraint("email_key", name=op.f("uq_user_account_email_key")),
        sa.UniqueConstraint("username_key", name=op.f("uq_user_account_username_key")),
    )
    op.create_table(
        "conversation",
        sa.Column("id", Text(), nullable=False),
        sa.Column("owner_id", Text(), nullable=False),
        sa.Column("external_id", Text(), nullable=True),
        sa.Column("title", Text(), nullable=False),
        sa.Column("model", Text(), nullable=False),
        sa.Column("system_prompt", Text(), nullable=True),
        sa.Column("created_at", Millis(), nullable=False),
        sa.Column("updated_at", Millis(), nullable=False),
        sa.Column("archived", sa.Boolean(), nullable=False),
        sa.Column("pinned", sa.Boolean(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("message_count", sa.Integer(), nullable=False),
        sa.Column("head_id", Text(), nullable=True),
        sa.ForeignKeyConstraint(["owner_id"], ["user_account.id"], name=op.f("fk_conversation_owner_id_user_account")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_conversation")),
        sa.UniqueConstraint("owner_id", "external_id", name=op.f("uq_conversation_owner_id_external_id")),
    )
    with op.batch_alter_table("conversation", schema=None) as batch_op:
        batch_op.create_index("ix_conversation_owner_updated", ["owner_id", "updated_at", "id"], unique=False)

    op.create_table(
        "run",
        sa.Column("id", Text(), nullable=False),
        sa.Column("user_id", Text(), nullable=True),
        sa.Column("conversation_id", Text(), nullable=True),
        sa.Column("message_id", Text(), nullable=True),
        sa.Column("idempotency_key", Text(), nullable=True),
        sa.Column("status", Text(), nullable=False),
        sa.Column("requested_model", Text(), nullable=False),
        sa.Column("model", Text(), nullable=False),
        sa.Column("provider", Text(), nullable=False),
        sa.Column("created_at", Millis(), nullable=False),
        sa.Column("started_at", Millis(), nullable=True),
        sa.Column("finished_at", Millis(), nullable=True),
        sa.Column("time_to_first_token_ms", sa.Float(), nullable=True),
        sa.Column("finish_reason", Text(), nullable=True),
        sa.Column("error_code", Text(), nullable=True),
        sa.Column("error_message", Text(), nullable=True),
        sa.Column("error_retryable", sa.Boolean(), nullable=True),
        sa.Column("prompt_tokens", sa.Integer(), nullable=True),
        sa.Column("completion_tokens", sa.Integer(), nullable=True),
        sa.Column("cached_tokens", sa.Integer(), nullable=True),
        sa.Column("reasoning_tokens", sa.Integer(), nullable=True),
        sa.Column("usage_estimated", sa.Boolean(), nullable=False),
        sa.Column("attempts", sa.JSON(), nullable=False),
        sa.Column("last_seq", sa.Integer(), nullable=False),
        sa.Column("worker", Text(), nullable=True),
        sa.Column("lease_until", Millis(), nullable=True),
        sa.Column("cancel_requested", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(["user_id"], ["user_account.id"], name=op.f("fk_run_user_id_user_account")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_run")),
        sa.UniqueConstraint("user_id", "idempotency_key", name=op.f("uq_run_user_id_idempotency_key")),
    )
    with op.batch_alter_table("run", schema=None) as batch_op:
        batch_op.create_index("ix_run_conversation", ["conversation_id", "status"], unique=False)
        batch_op.create_index("ix_run_lease", ["status", "lease_until"], unique=False)
        batch_op.create_index("ix_run_user_status", ["user_id", "status"], unique=False)

    op.create_table(
        "message",
        sa.Column("id", Text(), nullable=False),
        sa.Column("conversation_id", Text(), nullable=False),
        sa.Column("external_id", Text(), nullable=True),
        sa.Column("parent_id", Text(), nullable=True),
        sa.Column("depth", sa.Integer(), nullable=False),
        sa.Column("active", sa.Boolean(), nullable=False),
        sa.Column("role", Text(), nullable=False),
        sa.Column("content", Text(), nullable=False),
        sa.Column("reasoning", Text(), nullable=True),
        sa.Column("status", Text(), nullable=False),
        sa.Column("created_at", Millis(), nullable=False),
        sa.Column("author_id", Text(), nullable=True),
        sa.Column("model", Text(), nullable=True),
        sa.Column("run_id", Text(), nullable=True),
        sa.ForeignKeyConstraint(["author_id"], ["user_account.id"], name=op.f("fk_message_author_id_user_account")),
        sa.ForeignKeyConstraint(
            ["conversation_id"], ["conversation.id"], name=op.f("fk_message_conversation_id_conversation")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_message")),
        sa.UniqueConstraint("conversation_id", "external_id", name=op.f("uq_message_conversation_id_external_id")),
    )
    with op.batch_alter_table("message", schema=None) as batch_op:
        batch_op.create_index("ix_message_branch", ["conversation_id", "active", "depth"], unique=False)
        batch_op.create_index("ix_message_parent", ["parent_id"], unique=False)


def downgrade() -> None:
    with op.batch_alter_table("message", schema=None) as batch_op:
        batch_op.drop_index("ix_message_parent")
        batch_op.drop_index("ix_message_branch")

    op.drop_table("message")
    with op.batch_alter_table("run", schema=None) as batch_op:
        batch_op.drop_index("ix_run_user_status")
        batch_op.drop_index("ix_run_lease")
        batch_op.drop_index("ix_run_conversation")

    op.drop_table("run")
    with op.batch_alter_table("conversation", schema=None) as batch_op:
        batch_op.drop_index("ix_conversation_owner_updated")

    op.drop_table("conversation")
    op.drop_table("user_account")
