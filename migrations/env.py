"""Alembic's entry: runs on the connection that models.migrate hands in, or on DATABASE_PATH from `alembic -x path=`."""

from alembic import context
from sqlalchemy import URL, create_engine
from sqlmodel import SQLModel

from models import (
    api_key,
    attempt,
    change,
    conversation,
    erasure,
    identity,
    journal,
    member,
    message,
    notice,
    run,
    search,
    totp,
    usage,
    user,
    user_session,
    worker,
)

TABLES = (
    api_key,
    attempt,
    change,
    conversation,
    erasure,
    identity,
    journal,
    member,
    message,
    notice,
    run,
    search,
    totp,
    usage,
    user,
    user_session,
    worker,
)


def run_migrations() -> None:
    connection = context.config.attributes.get("connection")
    if connection is None:
        path = context.get_x_argument(as_dictionary=True)["path"]
        connection = create_engine(URL.create("sqlite", database=path)).connect()
    context.configure(connection=connection, target_metadata=SQLModel.metadata, render_as_batch=True)
    with context.begin_transaction():
        context.run_migrations()
    connection.commit()


run_migrations()
