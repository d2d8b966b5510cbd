"""Counters of usage

Revision ID: 0006
Revises: 0005
"""

import math
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa
from alembic import op

from models.columns import Text

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

DAY = 86_400_000  # milliseconds
READ_AT_ONCE = 5_000
MOST_MODELS, OTHERS = 200, "other"

FIGURES = "id user_id model provider created_at time_to_first_token_ms prompt_tokens completion_tokens cost_nanos"


def upgrade() -> None:
    daily = op.create_table(
        "daily_usage",
        sa.Column("user_id", Text(), nullable=False),
        sa.Column("day", sa.Integer(), nullable=False),
        sa.Column("messages", sa.Integer(), nullable=False),
        *_spent(),
        sa.ForeignKeyConstraint(["user_id"], ["user_account.id"], name=op.f("fk_daily_usage_user_id_user_account")),
        sa.PrimaryKeyConstraint("user_id", "day", name=op.f("pk_daily_usage")),
    )
    by_model = op.create_table(
        "model_usage",
        sa.Column("user_id", Text(), nullable=False),
        sa.Column("model", Text(), nullable=False),
        sa.Column("provider", Text(), nullable=False),
        sa.Column("bucket", sa.Integer(), nullable=False),
        sa.Column("runs", sa.Integer(), nullable=False),
        *_spent(),
        sa.ForeignKeyConstraint(["user_id"], ["user_account.id"], name=op.f("fk_model_usage_user_id_user_account")),
        sa.PrimaryKeyConstraint("user_id", "model", "provider", "bucket", name=op.f("pk_model_usage")),
    )
    _count_what_has_ended(daily, by_model)


def _spent() -> list[sa.Column[Any]]:
    return [
        sa.Column("unpriced", sa.Integer(), nullable=False),
        sa.Column("tokens", sa.BigInteger(), nullable=False),
        sa.Column("cost_nanos", sa.BigInteger(), nullable=False),
    ]


def _count_what_has_ended(daily: sa.Table, by_model: sa.Table) -> None:
    """Once: from now on each run adds itself at its end. Those that a stopped server left active will do so too."""
    days: dict[tuple[Any, ...], list[int]] = defaultdict(lambda: [0, 0, 0, 0])
    models: dict[tuple[Any, ...], list[int]] = defaultdict(lambda: [0, 0, 0, 0])
    names: dict[str, set[tuple[str, str]]] = defaultdict(set)
    for run in _ended():
        asked = run.prompt_tokens is not None
        unpriced = asked and run.cost_nanos is None
        amounts = 1, int(unpriced), (run.prompt_tokens or 0) + (run.completion_tokens or 0), run.cost_nanos or 0
        model = run.model, run.provider
        known = names[run.user_id]
        if model not in known and len(known) >= MOST_MODELS:
            model = OTHERS, OTHERS
        known.add(model)
        _add(days[run.user_id, run.created_at // DAY], amounts)
        _add(models[run.user_id, *model, _bucket(run.time_to_first_token_ms)], amounts)
    keys = ("user_id", "day"), ("user_id", "model", "provider", "bucket")
    for table, key, count, found in ((daily, keys[0], "messages", days), (by_model, keys[1], "runs", models)):
        columns = *key, count, "unpriced", "tokens", "cost_nanos"
        rows = [dict(zip(columns, (*place, *amounts), strict=True)) for place, amounts in found.items()]
        op.bulk_insert(table, rows)


def _ended() -> Iterator[Any]:
    run = sa.table("run", *map(sa.column, [*FIGURES.split(), "status"]))
    query = sa.select(*[run.c[name] for name in FIGURES.split()]).order_by(run.c.id).limit(READ_AT_ONCE)
    query = query.where(run.c.user_id.is_not(None), run.c.status.not_in(["QUEUED", "RUNNING"]))
    rows = op.get_bind().execute(query).all()
    while rows:
        yield from rows
        rows = op.get_bind().execute(query.where(run.c.id > rows[-1].id)).all()


def _add(sums: list[int], amounts: tuple[int, ...]) -> None:
    for place, amount in enumerate(amounts):
        sums[place] += amount


def _bucket(milliseconds: float | None) -> int:
    """As chat/latency.py counts them."""
    if milliseconds is None:
        return -1
    return 0 if milliseconds <= 1 else int(min(4 * math.log2(milliseconds), 107))


def downgrade() -> None:
    op.drop_table("model_usage")
    op.drop_table("daily_usage")
