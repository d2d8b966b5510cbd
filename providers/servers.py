"""MODELS_FILE: OpenAI-compatible servers by name, each a provider of its own.

    [servers.groq]
    base_url = "https://api.groq.com/openai/v1"
    key_variable = "GROQ_API_KEY"              # where its key is; leave out where none is needed
    models = [                                 # leave out to show what the server lists
      "llama-3.3-70b-versatile",
      { name = "qwen3-32b", context_window = 131072, prompt_price = 0.29, completion_price = 0.59 },
    ]

Prices are US dollars for a million tokens. A model is asked for as `groq/qwen3-32b`, or as `qwen3-32b` if no other
server has one of that name.
"""

import tomllib
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Annotated, Any
from urllib.parse import SplitResult, urlsplit

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator

from errors import StartError
from providers.prices import Price, flat_price
from providers.vendors import VENDORS

MAX_SERVERS = 50
MAX_SERVER_MODELS = 1_000
RESERVED = frozenset({*(vendor.name for vendor in VENDORS), "local", "scripted"})

_Dollars = Annotated[Decimal, Field(ge=0, le=1_000_000)]


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ServerModel(_Entry):
    """One model as the file has it. `context_window` in tokens."""

    name: str = Field(min_length=1, max_length=150)
    context_window: int | None = Field(None, ge=1, le=1_000_000_000)
    prompt_price: _Dollars | None = None
    completion_price: _Dollars | None = None
    cached_price: _Dollars | None = None

    @property
    def price(self) -> Price | None:
        if self.prompt_price is None or self.completion_price is None:
            return None
        return flat_price(self.prompt_price, self.completion_price, self.cached_price)


def _named(value: object) -> object:
    return {"name": value} if isinstance(value, str) else value


class Server(_Entry):
    """One server as the file has it. `key` is what `key_variable` held, None if it held nothing."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,31}$")
    base_url: str
    key_variable: str | None = Field(None, pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,99}$")
    key: str | None = Field(None, repr=False)
    models: tuple[Annotated[ServerModel, BeforeValidator(_named)], ...] = Field((), max_length=MAX_SERVER_MODELS)

    @field_validator("name")
    @classmethod
    def _is_free(cls, value: str) -> str:
        if value in RESERVED:
            raise ValueError("is the name of another provider")
        return value

    @field_validator("base_url")
    @classmethod
    def _is_address(cls, value: str) -> str:
        return base_url(value)

    @property
    def wish(self) -> str | None:
        """What to set before it can be asked; None: nothing."""
        return f"Set {self.key_variable} to use it" if self.key_variable is not None and self.key is None else None


def base_url(value: str) -> str:
    """The address of a server's API without its last slash, and without spaces and line breaks around it.

    Raises:
        ValueError: it is none, or holds a password.
    """
    value = value.strip()
    parts = urlsplit(value)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment:
        raise ValueError("is not an address like https://example.com/v1")
    if " " in value or not value.isprintable():
        raise ValueError("has spaces or characters that are not seen in it")
    if not _has_a_port_that_can_be(parts):
        raise ValueError("has a port that is none; ports are 1 to 65535")
    if parts.username is not None or parts.password is not None:
        raise ValueError("holds a user or password; set a key instead")
    return value.rstrip("/")


def _has_a_port_that_can_be(parts: SplitResult) -> bool:
    try:
        return parts.port != 0
    except ValueError:
        return False


def api_key(value: str) -> str:
    """The key without the spaces and line breaks around it, which files and shells add.

    Raises:
        ValueError: no header can hold it. The text does not repeat it.
    """
    key = value.strip()
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise ValueError("holds characters that no key has, such as a space or a line break")
    return key


def parse_servers(text: str, variable: Callable[[str], str | None]) -> Sequence[Server]:
    """The servers of a file, in its order. `variable` reads an environment variable.

    Raises:
        StartError: one line that names what is wrong, and no key.
    """
    try:
        tables = _tables(tomllib.loads(text))
        return [_server(name, table, variable) for name, table in tables.items()]
    except (tomllib.TOMLDecodeError, ValueError) as error:
        raise StartError(f"MODELS_FILE: {error}") from None
    except RecursionError:
        raise StartError("MODELS_FILE: nested too deeply") from None


def _tables(file: dict[str, Any]) -> dict[str, Any]:
    if unknown := set(file) - {"servers"}:
        raise ValueError(f"{sorted(unknown)[0]!r} is not known; servers are tables like [servers.groq]")
    tables = file.get("servers")
    if not isinstance(tables, dict) or not tables:
        raise ValueError("names no server; add a table like [servers.groq]")
    if len(tables) > MAX_SERVERS:
        raise ValueError(f"more than {MAX_SERVERS} servers")
    return tables


def _server(name: str, table: object, variable: Callable[[str], str | None]) -> Server:
    if not isinstance(table, dict) or {"name", "key"} & set(table):
        raise ValueError(f"servers.{name}: needs base_url, and may have key_variable (never the key) and models")
    try:
        server = Server(name=name, **table)
    except ValidationError as error:
        raise ValueError("; ".join(_line(name, item["loc"], item["msg"]) for item in error.errors()[:3])) from None
    if server.key_variable is None or (key := variable(server.key_variable)) is None:
        return server
    try:
        return server.model_copy(update={"key": api_key(key)})
    except ValueError as error:
        raise ValueError(f"servers.{name}: {server.key_variable} {error}") from None


def _line(name: str, location: tuple[int | str, ...], message: str) -> str:
    place = ".".join(str(part) for part in location if part != "name" or len(location) > 1)
    return f"servers.{name}{'.' if place else ''}{place}: {message.removeprefix('Value error, ')}"
