"""A database with many rows in it, made by the database itself: a million in seconds."""

from sqlalchemy import text
from sqlmodel.ext.asyncio.session import AsyncSession

from models.database import Database

VIEWER, OTHERS = "user_viewer", 100
LONG = "conv_0long"
"""The viewer's: half of all messages stand in it, one under the other."""

FILLER = "we talked about databases and how to find things in them without reading everything again and again"
# Every message has `common`, a thousandth of them `topic7`, ten of them, spread evenly, `needle`.
CONTENT = "'common topic' || (n % 1000) || ' item' || n || CASE WHEN n % {tenth} = 1 THEN ' needle ' ELSE ' ' END"
NUMBERS = {
    "sqlite": "(WITH RECURSIVE number(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM number WHERE n < :rows) "
    "SELECT n FROM number)",
    "postgresql": "generate_series(1, CAST(:rows AS int)) AS number(n)",
}
WORDS = {"sqlite": "' ' || replace({content}, ' ', '  ') || ' '", "postgresql": "to_tsvector('simple', {content})"}
PADDED = {"sqlite": "printf('%010d', {})", "postgresql": "lpad(CAST({} AS text), 10, '0')"}

STATEMENTS = """
INSERT INTO user_account (id, username, username_key, email, email_key, password_hash, role, disabled, created_at,
    conversation_count, message_count, total_tokens)
SELECT 'user_' || n, '' || n, '' || n, '' || n, '' || n, '-', 'USER', {no}, 0, 0, 0, 0 FROM {others};
INSERT INTO conversation (id, owner_id, title, model, created_at, updated_at, archived, pinned, version, message_count,
    head_id)
SELECT 'conv_' || {padded}, {owner}, 'about ' || n, 'scripted', n, n, {no}, {no}, 1, 1, 'msg_0' || {padded}
FROM {numbers};
INSERT INTO conversation (id, owner_id, title, model, created_at, updated_at, archived, pinned, version, message_count,
    head_id)
VALUES ('{long}', '{viewer}', 'long', 'scripted', 0, 0, {no}, {no}, 1, :half, 'msg_1' || {last});
INSERT INTO message (id, conversation_id, parent_id, depth, active, role, content, status, created_at)
SELECT 'msg_0' || {padded}, 'conv_' || {padded}, NULL, 0, {yes}, 'USER', {content}, 'COMPLETE', n FROM {numbers};
INSERT INTO message (id, conversation_id, parent_id, depth, active, role, content, status, created_at)
SELECT 'msg_1' || {padded}, '{long}', CASE WHEN n > 1 THEN 'msg_1' || {before} END, n - 1, {yes}, 'USER', {content},
    'COMPLETE', n FROM {numbers} {half};
INSERT INTO message_search (message_id, conversation_id, owner_id, words)
SELECT 'msg_1' || {padded}, '{long}', '{viewer}', {words} FROM {numbers} {half};
INSERT INTO message_search (message_id, conversation_id, owner_id, words)
SELECT 'msg_0' || {padded}, 'conv_' || {padded}, {owner}, {words} FROM {numbers};
INSERT INTO run (id, user_id, conversation_id, status, requested_model, model, provider, created_at, usage_estimated,
    attempts, last_seq, cancel_requested, reserved_tokens, reserved_nanos, prompt_tokens, completion_tokens)
SELECT 'run_' || {padded}, {owner}, 'conv_' || {padded}, 'COMPLETED', 'scripted', 'scripted', 'scripted', n, {no},
    '[]', 10, {no}, 0, 0, 10, 20 FROM {numbers};
UPDATE user_account SET conversation_count = :half, message_count = :rows, total_tokens = 30 * :rows
WHERE id = '{viewer}'
"""


async def fill(database: Database, rows: int) -> None:
    """So many conversations, runs, and one and a half times as many messages with their entries in the index; half of
    all belong to VIEWER, the rest to others."""
    async with database.read() as session:
        dialect = session.get_bind().dialect.name
    statements = _statements(dialect, rows)
    if dialect == "postgresql":
        # Built at once at the end: a tenth of the time, and as it is when the server has tidied it up.
        index = "CREATE INDEX ix_message_search_words ON message_search USING gin (words)"
        statements = ["DROP INDEX ix_message_search_words", *statements, index, "ANALYZE"]
    for statement in statements:
        async with database.write() as session:
            await _run(session, statement, rows)


async def _run(session: AsyncSession, statement: str, rows: int) -> None:
    connection = await session.connection()
    every = {"rows": rows, "half": rows // 2, "others": OTHERS}
    query = text(statement)
    await connection.execute(query, {name: every[name] for name in query._bindparams})


def _statements(dialect: str, rows: int) -> list[str]:
    padded, words = PADDED[dialect], WORDS[dialect]
    content = CONTENT.format(tenth=max(rows // 10, 1)) + f" || '{FILLER}'"
    boolean = {"sqlite": ("1", "0"), "postgresql": ("true", "false")}[dialect]
    filled = STATEMENTS.format(
        yes=boolean[0],
        no=boolean[1],
        padded=padded.format("n"),
        before=padded.format("n - 1"),
        last=f"'{rows // 2:010}'",
        content=content,
        words=words.format(content=content),
        owner=f"CASE WHEN n % 2 = 0 THEN '{VIEWER}' ELSE 'user_' || (1 + n % {OTHERS}) END",
        numbers=NUMBERS[dialect],
        others=NUMBERS[dialect].replace(":rows", ":others"),
        half="WHERE n <= :half",
        long=LONG,
        viewer=VIEWER,
    )
    first = f"""INSERT INTO user_account (id, username, username_key, email, email_key, password_hash, role, disabled,
        created_at, conversation_count, message_count, total_tokens)
        VALUES ('{VIEWER}', 'viewer', 'viewer', 'viewer', 'viewer', '-', 'USER', {boolean[1]}, 0, 0, 0, 0)"""
    return [first, *filled.split(";")]
