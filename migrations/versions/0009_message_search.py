"""Messages found by their words

Revision ID: 0009
Revises: 0008
"""

from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import TSVECTOR

from models.columns import Serial, Text
from models.words import Words

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

READ_AT_ONCE = 500

# The words are kept once, in our own table; FTS5 has its index of them, and is told of every change.
FTS5 = (
    """CREATE VIRTUAL TABLE message_fts USING fts5(owner_id, conversation_id, words, content='message_search',
    content_rowid='seq', tokenize="ascii tokenchars '_'", prefix='2 3 4')""",
    """CREATE TRIGGER message_search_added AFTER INSERT ON message_search BEGIN
    INSERT INTO message_fts(rowid, owner_id, conversation_id, words)
    VALUES (new.seq, new.owner_id, new.conversation_id, new.words); END""",
    """CREATE TRIGGER message_search_removed AFTER DELETE ON message_search BEGIN
    INSERT INTO message_fts(message_fts, rowid, owner_id, conversation_id, words)
    VALUES ('delete', old.seq, old.owner_id, old.conversation_id, old.words); END""",
    """CREATE TRIGGER message_search_changed AFTER UPDATE ON message_search BEGIN
    INSERT INTO message_fts(message_fts, rowid, owner_id, conversation_id, words)
    VALUES ('delete', old.seq, old.owner_id, old.conversation_id, old.words);
    INSERT INTO message_fts(rowid, owner_id, conversation_id, words)
    VALUES (new.seq, new.owner_id, new.conversation_id, new.words); END""",
)


def upgrade() -> None:
    op.create_table(
        "message_search",
        sa.Column("seq", Serial(), nullable=False),
        sa.Column("message_id", Text(), nullable=False),
        sa.Column("conversation_id", Text(), nullable=False),
        sa.Column("owner_id", Text(), nullable=False),
        sa.Column("words", sa.String().with_variant(TSVECTOR(), "postgresql"), nullable=False),
        sa.ForeignKeyConstraint(
            ["message_id"], ["message.id"], name=op.f("fk_message_search_message_id_message"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_message_search")),
        sa.UniqueConstraint("message_id", name=op.f("uq_message_search_message_id")),
        sqlite_autoincrement=True,
    )
    if _on_sqlite():
        for statement in FTS5:
            op.execute(statement)
    _fill()
    # Behind the rows: an index that is built at once is smaller, and takes a tenth of the time.
    op.create_index("ix_message_search_owner", "message_search", ["owner_id", "seq"])
    op.create_index("ix_message_search_conversation", "message_search", ["conversation_id", "seq"])
    if not _on_sqlite():
        # Not longer than what a search reads in a millisecond.
        pending = {"fastupdate": True, "gin_pending_list_limit": 256}
        op.create_index(
            "ix_message_search_words", "message_search", ["words"], postgresql_using="gin", postgresql_with=pending
        )


def _on_sqlite() -> bool:
    return op.get_bind().dialect.name == "sqlite"


def _fill() -> None:
    """The messages that are there, oldest first; answers under way are added at their end."""
    words = ":words" if _on_sqlite() else "CAST(CAST(:words AS text) AS tsvector)"
    insert = sa.text(f"""INSERT INTO message_search (message_id, conversation_id, owner_id, words)
        VALUES (:message_id, :conversation_id, :owner_id, {words})""")  # noqa: S608
    for portion in _portions():
        rows = []
        for message_id, conversation_id, owner_id, content in portion:
            found = Words.of(content)
            stored = found.for_sqlite() if _on_sqlite() else found.for_postgres()
            row = {"message_id": message_id, "conversation_id": conversation_id, "owner_id": owner_id, "words": stored}
            rows += [row] if found.ordered else []
        if rows:
            op.get_bind().execute(insert, rows)


def _portions() -> Iterator[Any]:
    query = sa.text("""SELECT m.id, m.conversation_id, c.owner_id, m.content FROM message m
        JOIN conversation c ON c.id = m.conversation_id WHERE m.id > :after AND m.content <> ''
        ORDER BY m.id LIMIT :most""")
    after = ""
    while rows := op.get_bind().execute(query, {"after": after, "most": READ_AT_ONCE}).all():
        after = rows[-1][0]
        yield rows


def downgrade() -> None:
    if _on_sqlite():
        op.execute("DROP TABLE message_fts")
    op.drop_table("message_search")
