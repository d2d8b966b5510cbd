"""What pg_restore prints, taken apart."""

import io

import pytest

from models.backup import BackupError
from models.dump import Dump, Rows, read_through

TEXT = b"""--
SET statement_timeout = 0;
SET transaction_timeout = 0;
\\restrict abc
CREATE TABLE public.alembic_version (version_num text);
COPY public.alembic_version (version_num) FROM stdin;
0007
\\.

COPY public."odd ""name" (id, "or der") FROM stdin;
1\ta\\\\.
2\t\\N
\\.

\\unrestrict abc
ALTER TABLE x;
"""


def test_is_scripts_and_rows_in_turn() -> None:
    dump = Dump(io.BytesIO(TEXT))
    parts: list[object] = []
    for part in dump.parts():
        parts.append((part.table, part.columns, b"".join(part.batches())) if isinstance(part, Rows) else part)
    assert parts[1] == ("alembic_version", ["version_num"], b"0007\n")
    assert parts[3] == ('odd "name', ["id", "or der"], b"1\ta\\\\.\n2\t\\N\n")
    scripts = b"".join(part for part in parts if isinstance(part, bytes))
    assert b"CREATE TABLE" in scripts
    assert b"ALTER TABLE" in scripts
    for left_out in (b"restrict", b"transaction_timeout"):
        assert left_out not in scripts
    assert (dump.content.revision, dump.content.rows) == ("0007", {"alembic_version": 1, 'odd "name': 2})


def test_that_stops_in_the_middle_of_a_table_names_it() -> None:
    with pytest.raises(BackupError, match='it ends in the middle of odd "name'):
        list(read_through(io.BytesIO(TEXT[: TEXT.index(b"2\t")])))
