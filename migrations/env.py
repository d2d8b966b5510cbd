"""Alembic's entry: runs on the connection that models.migrate hands in, or on the SQLite file that
`alembic -x path=FILE` names."""

from importlib import import_module
from pkgutil import iter_modules

from alembic import context
from sqlalchemy import URL, create_engine
from sqlmodel import SQLModel

import models

# A table that is not imported is one that the next migration would drop.
for module in iter_modules(models.__path__, "models."):
    import_module(module.name)


def ours(name: str | None, *_: object) -> bool:
    """FTS5 makes tables of its own, PostgreSQL has an index of words in their place: no model describes either."""
    return name is None or not name.startswith(("message_fts", "ix_message_search_words"))


def run_migrations() -> None:
    connection = context.config.attributes.get("connection")
    if connection is None:
        path = context.get_x_argument(as_dictionary=True)["path"]
        connection = create_engine(URL.create("sqlite", database=path)).connect()
    context.configure(connection=connection, target_metadata=SQLModel.metadata, include_name=ours, render_as_batch=True)
    with context.begin_transaction():
        context.run_migrations()
    connection.commit()


run_migrations()
