"""The index in which messages are found by their words: one table, which SQLite's FTS5 follows by triggers and which
PostgreSQL indexes itself. A message's entry goes with the message, by the database's own cascade."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Column, ForeignKey, Index, String, bindparam, text
from sqlalchemy.dialects.postgresql import TSVECTOR
from sqlmodel import Field, SQLModel, col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from models.columns import Serial
from models.member import Member
from models.words import Term, Words

CANDIDATES = 500
"""The newest that have the words are ranked: of 300,000 messages of one user that all had the word SQLite found
so many in 0.9 ms; the rest would only be read to stand behind them."""
LONGEST_PREFIX = 4
"""Letters of a beginning that FTS5 has an index of. Of a longer one it would put together all words that go on with it,
everybody's: 120 ms in a million messages. Those that begin with the first four are looked at instead, the newest 1,000
of them; where the word stands whole, it is found in all."""
SHARED = 1_000
"""Conversations of others that one search looks into, those first that the user joined last."""
AT_ONCE = 100
"""Messages made into words between two turns of the event loop: of 1,000 characters each, some 40 ms."""


class MessageSearch(SQLModel, table=True):
    """`seq` is the order in which texts were stored. The words are text for FTS5, or a tsvector."""

    __tablename__ = "message_search"
    __table_args__ = (
        Index("ix_message_search_owner", "owner_id", "seq"),
        Index("ix_message_search_conversation", "conversation_id", "seq"),
    )

    seq: int | None = Field(default=None, sa_column=Column(Serial(), primary_key=True))
    message_id: str = Field(
        sa_column=Column(String, ForeignKey("message.id", ondelete="CASCADE"), nullable=False, unique=True)
    )
    conversation_id: str
    owner_id: str
    words: str = Field(sa_column=Column(String().with_variant(TSVECTOR(), "postgresql"), nullable=False))


@dataclass(frozen=True, slots=True)
class Found:
    """A message that has the words. The higher `rank`, the better; of equals the one that was stored last stands first.
    Both depend on the message alone: what others write moves nothing."""

    rank: int
    seq: int
    message_id: str

    @property
    def place(self) -> tuple[int, int]:
        return self.rank, self.seq


_INDEX = """INSERT INTO message_search (message_id, conversation_id, owner_id, words)
    SELECT m.id, m.conversation_id, coalesce(CAST(:owner AS VARCHAR), c.owner_id), {words}
    FROM message m JOIN conversation c ON c.id = m.conversation_id
    WHERE m.id = :id ON CONFLICT (message_id) DO UPDATE SET words = excluded.words"""
INDEX = {
    "sqlite": text(_INDEX.format(words=":words")),
    "postgresql": text(_INDEX.format(words="CAST(CAST(:words AS text) AS tsvector)")),
}


async def index_messages(
    session: AsyncSession, contents: Iterable[tuple[str, str]], owner_id: str | None = None
) -> None:
    """Let messages that are stored be found by these texts: pairs of id and content. One that is gone stays so.
    `owner_id`: whose the conversation is going to be, if it is not yet."""
    dialect = session.get_bind().dialect.name
    rows = []
    for message_id, content in contents:
        words = Words.of(content)
        if words.ordered:
            stored = words.for_sqlite() if dialect == "sqlite" else words.for_postgres()
            rows.append({"id": message_id, "words": stored, "owner": owner_id})
    if rows:
        await (await session.connection()).execute(INDEX[dialect], rows)


async def search_messages(session: AsyncSession, user_id: str, terms: Sequence[Term]) -> list[Found]:
    """The messages on active branches that have all the terms, of conversations in which the user has a part, the best
    first."""
    query = select(Member.conversation_id).where(Member.user_id == user_id)
    shared = list(await session.exec(query.order_by(col(Member.created_at).desc()).limit(SHARED)))
    found: Iterable[Found]
    if session.get_bind().dialect.name == "sqlite":
        found = await _search_sqlite(session, user_id, shared, terms)
    else:
        found = await _search_postgres(session, user_id, shared, terms)
    return sorted(found, key=lambda each: each.place, reverse=True)


async def _search_sqlite(
    session: AsyncSession, user_id: str, shared: Sequence[str], terms: Sequence[Term]
) -> Iterable[Found]:
    whole = [Term(term.words) if _is_long(term) else term for term in terms]
    found = await _matches(session, user_id, shared, whole, _NEWEST)
    if any(map(_is_long, terms)):
        found += await _matches(session, user_id, shared, terms, _LOOKED_AT)
    return {each.seq: each for each in found}.values()


def _is_long(term: Term) -> bool:
    return term.prefix and len(term.words[-1]) > LONGEST_PREFIX


# Asked once for a search: what is left of deleted conversations is found until it is erased.
_KEPT = """s.conversation_id NOT IN (SELECT c.id FROM erasure e JOIN conversation c ON c.owner_id = e.user_id)"""
# CROSS JOIN: in the index's own order, newest first, and no further than needed.
_NEWEST = """SELECT s.seq, s.message_id, length(s.words), {counts} FROM message_fts f
    CROSS JOIN message_search s ON s.seq = f.rowid CROSS JOIN message m ON m.id = s.message_id
    WHERE f.message_fts MATCH :match AND m.active AND {kept} AND (s.owner_id = :user OR s.conversation_id IN :shared)
    ORDER BY f.rowid DESC LIMIT :most"""
_LOOKED_AT = """SELECT s.seq, s.message_id, length(s.words), {counts} FROM
    (SELECT rowid AS seq FROM message_fts WHERE message_fts MATCH :match ORDER BY rowid DESC LIMIT 2 * :most) f
    CROSS JOIN message_search s ON s.seq = f.seq CROSS JOIN message m ON m.id = s.message_id
    WHERE {there} AND m.active AND {kept} AND (s.owner_id = :user OR s.conversation_id IN :shared)
    ORDER BY s.seq DESC LIMIT :most"""


async def _matches(
    session: AsyncSession, user_id: str, shared: Sequence[str], terms: Sequence[Term], query: str
) -> list[Found]:
    numbers = range(len(terms))
    counts = ", ".join(f"(length(s.words) - length(replace(s.words, :c{n}, ''))) / length(:c{n})" for n in numbers)
    there = " AND ".join(f"instr(s.words, :c{n})" for n in numbers)
    filled = text(query.format(counts=counts, there=there, kept=_KEPT)).bindparams(bindparam("shared", expanding=True))
    values: dict[str, Any] = {f"c{n}": _counted(term) for n, term in enumerate(terms)}
    values |= {"match": _match(user_id, shared, terms), "user": user_id, "shared": shared, "most": CANDIDATES}
    rows = await (await session.connection()).execute(filled, values)
    return [Found(_rank(length, tally), seq, message_id) for seq, message_id, length, *tally in rows]


def _counted(term: Term) -> str:
    padded = "".join(f" {word} " for word in term.words)
    return padded[:-1] if term.prefix else padded


def _match(user_id: str, shared: Sequence[str], terms: Sequence[Term]) -> str:
    """FTS5's expression. Words have no quotes; ids of ours have none either."""
    places = [f'owner_id : "{user_id}"']
    if shared:
        places.append("conversation_id : (" + " OR ".join(f'"{each}"' for each in shared) + ")")
    wanted = " AND ".join(_phrase(term) for term in terms)
    return f"({' OR '.join(places)}) AND words : ({wanted})"


def _phrase(term: Term) -> str:
    if not term.prefix:
        return '"' + " ".join(term.words) + '"'
    *words, last = term.words
    return '"' + " ".join([*words, last[:LONGEST_PREFIX]]) + '" *'


USUAL_CHARS = 1_000
USUAL_WORDS = 150
"""A message of so many characters, or so many different words, is neither helped nor held back by its length."""


def _rank(length: int, counts: Sequence[int]) -> int:
    """BM25 without what is rare elsewhere: that would take others' messages into account, and all of them."""
    usual = 1.2 * (0.25 + 0.75 * length / USUAL_CHARS)
    return round(1_000_000 * sum(count / (count + usual) for count in counts) / len(counts))


async def _search_postgres(
    session: AsyncSession, user_id: str, shared: Sequence[str], terms: Sequence[Term]
) -> Iterable[Found]:
    # Each half by its own index: newest first where the words are in many messages, by the words where they are in few.
    halves = [_half("owner_id = :user")]
    values: dict[str, Any] = {"query": _tsquery(terms), "user": user_id, "most": CANDIDATES}
    if shared:
        halves.append(_half("conversation_id = ANY(CAST(:shared AS text[]))"))
        values["shared"] = list(shared)
    query = f"""SELECT s.seq, s.message_id,
        ts_rank(s.words, CAST(:query AS tsquery)) / (1 + length(s.words) / {USUAL_WORDS}.0)
        FROM ({" UNION ALL ".join(halves)}) AS s JOIN message m ON m.id = s.message_id
        WHERE m.active ORDER BY s.seq DESC LIMIT :most"""  # noqa: S608
    connection = await session.connection()
    # Planned for these words: a plan for any would go by the words' index also where every message has them.
    await connection.execute(text("SELECT set_config('plan_cache_mode', 'force_custom_plan', true)"))
    rows = await connection.execute(text(query), values)
    return [Found(round(1_000_000 * rank), seq, message_id) for seq, message_id, rank in rows]


def _half(scope: str) -> str:
    # Twice as many as wanted: some may be on branches that are not active.
    return f"""(SELECT seq, message_id, words FROM message_search s
        WHERE {scope} AND words @@ CAST(:query AS tsquery) AND {_KEPT} ORDER BY seq DESC LIMIT 2 * :most)"""  # noqa: S608


def _tsquery(terms: Sequence[Term]) -> str:
    return " & ".join(
        "(" + " <-> ".join(f"'{word}'" for word in term.words) + (":*)" if term.prefix else ")") for term in terms
    )
