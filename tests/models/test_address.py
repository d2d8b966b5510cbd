from pathlib import Path

import pytest

from models.address import PostgresAddress, parse_address

NAME = "postgresql://u:p%40ss@h:5433/chat"


def dsn(url: str) -> str:
    address = parse_address(url)
    assert isinstance(address, PostgresAddress)
    return address.dsn


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+asyncpg", "postgresql+psycopg2"])
def test_every_way_to_say_postgresql_is_one(scheme: str) -> None:
    """What hosting companies hand out, what the guide has, and what SQLAlchemy's own documentation has."""
    assert dsn(f"{scheme}://u:p%40ss@h:5433/chat") == NAME


@pytest.mark.parametrize(
    ("query", "kept"),
    [
        ("sslmode=require", "sslmode=require"),
        ("ssl=true", "sslmode=require"),
        ("ssl=verify-full", "sslmode=verify-full"),
        ("sslmode=require&channel_binding=require", "sslmode=require"),
        ("pgbouncer=true&connection_limit=5", ""),
        ("sslrootcert=/etc/ca%20s.pem", "sslrootcert=%2Fetc%2Fca%20s.pem"),
        (
            "application_name=mine&options=-c%20search_path%3Dchat",
            "application_name=mine&options=-c%20search_path%3Dchat",
        ),
        ("keepalives=1&client_encoding=utf8", ""),
    ],
)
def test_parameters_are_those_that_the_driver_knows(query: str, kept: str) -> None:
    """The others it would send to the server, which refuses to connect then."""
    assert dsn(f"{NAME}?{query}") == NAME + ("?" + kept if kept else "")


def test_the_time_to_connect_is_ours_to_keep() -> None:
    address = parse_address(f"{NAME}?connect_timeout=3")
    assert address == PostgresAddress(NAME, 3.0)
    assert parse_address(f"{NAME}?connect_timeout=x") == PostgresAddress(NAME)


def test_the_password_is_not_shown() -> None:
    address = parse_address(NAME)
    assert str(address) == "postgresql://u@h:5433/chat"
    assert "p%40ss" not in repr(address)
    assert str(parse_address("postgresql:///chat?host=/run/postgresql")) == "postgresql:///chat"


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://h",
        "postgresql://u:secret@h/",
        "postgresql+other://u:secret@h/d",
        "postgresql://u:secret@[h/d",
        "postgresql://u:secret@h:port/d",
        "postgresql://u:secret@h:99999/d",
        "postgresql://u:secret@h:5432,i:0/d",
        "postgresql://u:secret#@h/d",
        "mysql://h/d",
        "sqlite://",
        "chat.db",
        "",
    ],
)
def test_what_is_no_address_is_said_without_its_password(url: str) -> None:
    with pytest.raises(ValueError, match=r"is not|names no|has a") as caught:
        parse_address(url)
    assert "secret" not in str(caught.value)


def test_a_file_is_a_path() -> None:
    assert parse_address("sqlite:////srv/chat.db") == Path("/srv/chat.db")


def test_several_hosts_and_addresses_of_version_6_are_taken() -> None:
    for url in ("postgresql://u@h:5432,i:5433/d", "postgresql://u@[::1]:5432/d", "postgresql://u@h,i/d"):
        assert dsn(url) == url
