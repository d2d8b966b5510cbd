"""Every setting, typed, read once from the environment and `.env`. Only the roots (app, cli) import this."""

import os
import re
import secrets
from collections.abc import Iterable
from difflib import get_close_matches
from functools import cached_property
from ipaddress import ip_network
from pathlib import Path
from urllib.parse import urlsplit

from dotenv import dotenv_values
from dotenv.parser import parse_stream
from pydantic import SecretStr, ValidationError, field_validator
from pydantic_settings import SettingsConfigDict

from bus.address import RedisAddress
from errors import StartError
from models.address import Address, PostgresAddress, parse_address
from setting_groups import (
    AccountSettings,
    DatabaseSettings,
    GuideSettings,
    IdentitySettings,
    PlaceSettings,
    RunSettings,
    SizeSettings,
    SocketSettings,
)

PLACEHOLDER_SECRETS = frozenset(
    {
        "your-very-secure-secret-key-change-this-in-production",
        "your-secret-key-change-in-production",
    }
)
PLACEHOLDER_KEYS = frozenset({"sk-your-openai-key", "sk-ant-your-anthropic-key", "your-google-key"})
COMPOSE_ONLY = re.compile(r"DB_PASSWORD|COMPOSE_\w+")
"""What `.env` may hold for docker-compose.yml."""
NEAR = 0.85
"""So alike are a name and what it was meant to be. GROQ_API_KEY is nobody's slip of the pen."""
KEY_MARKERS = ("-----BEGIN", "---- BEGIN", "ssh-", "ecdsa-sha2-", "sk-ssh-", "sk-ecdsa-")
MIN_SECRET_BYTES = 32
HOST_NAME = re.compile(r"(\*\.)?[^\s*/:?#@]+")
"""Without scheme and port: the header is compared with it behind its port is taken off."""


class Settings(
    SocketSettings,
    RunSettings,
    SizeSettings,
    DatabaseSettings,
    AccountSettings,
    IdentitySettings,
    PlaceSettings,
    GuideSettings,
):
    """One frozen object. The groups stand in reverse: pydantic takes the fields of the last base first."""

    model_config = SettingsConfigDict(
        env_file=".env", env_file_encoding="utf-8", extra="ignore", frozen=True, env_ignore_empty=True
    )

    @field_validator("*", mode="before")
    @classmethod
    def _text(cls, value: object) -> object:
        if isinstance(value, str) and "\0" in value:
            raise ValueError("holds a NUL character")
        return value

    @field_validator("allowed_origins")
    @classmethod
    def _origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for origin in value:
            if origin == "*":
                raise ValueError("* would let every site act for your users; list the origins")
            parts = urlsplit(origin)
            if parts.scheme not in {"http", "https"} or not parts.netloc or parts.path.strip("/"):
                raise ValueError(f"{origin!r} is not an origin like https://example.com")
        return tuple(origin.rstrip("/").lower() for origin in value)

    @field_validator("trusted_proxies")
    @classmethod
    def _proxies(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        try:
            return tuple(str(ip_network(proxy, strict=False)) for proxy in value)
        except ValueError as error:
            raise ValueError("lists addresses and networks, such as 10.0.0.1 or 10.0.0.0/8") from error

    @field_validator("allowed_hosts")
    @classmethod
    def _hosts(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for host in value:
            if host != "*" and not HOST_NAME.fullmatch(host):
                raise ValueError(f"{host!r} is not a name like chat.example.com, *.example.com or *")
        return value

    @field_validator("hf_endpoint")
    @classmethod
    def _hub(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment:
            raise ValueError("is not an address like https://huggingface.co")
        return value.rstrip("/")

    @field_validator("secret_key")
    @classmethod
    def _secret(cls, value: SecretStr | None) -> SecretStr | None:
        if value is None or value.get_secret_value() in PLACEHOLDER_SECRETS:
            return value
        secret = value.get_secret_value()
        if any(marker in secret for marker in KEY_MARKERS):
            raise ValueError("is a key or certificate; use random text")
        if len(secret.encode()) < MIN_SECRET_BYTES:
            raise ValueError(f"is shorter than {MIN_SECRET_BYTES} bytes")
        return value

    @field_validator("database_url")
    @classmethod
    def _database(cls, value: str | None) -> str | None:
        if value is None:
            return None
        parse_address(value)
        return value

    @field_validator("redis_url")
    @classmethod
    def _redis(cls, value: str | None) -> str | None:
        if value is not None:
            RedisAddress.parse(value)
        return value

    @cached_property
    def redis(self) -> RedisAddress | None:
        """Where Redis is; None: there is none."""
        return None if self.redis_url is None else RedisAddress.parse(self.redis_url)

    @cached_property
    def database(self) -> Address:
        """The SQLite file, as an absolute path, or where PostgreSQL is."""
        if self.database_url is None:
            return self.data_dir.resolve() / "chat.db"
        return parse_address(self.database_url)

    @property
    def secret_path(self) -> Path:
        """Where the secret is kept that signs tokens, when none is set."""
        database = self.database
        folder = self.data_dir.resolve() if isinstance(database, PostgresAddress) else database.parent
        return folder / "secret.key"

    @cached_property
    def models_path(self) -> Path:
        """The directory of the model files, as an absolute path."""
        return (self.models_dir or self.data_dir / "models").resolve()

    @cached_property
    def fallback(self) -> tuple[str, ...] | None:
        """Models to fall back to; None: the default of the catalogue."""
        if self.model_fallback is None:
            return None
        return tuple(name for name in self.model_fallback if name.lower() != "none")

    def variable(self, name: str) -> str | None:
        """A variable that MODELS_FILE names: from the environment, else from `.env`; None if it is unset or blank."""
        value = os.environ.get(name) or dotenv_values(".env").get(name) or ""
        return value.strip() or None

    @property
    def frontend(self) -> str | None:
        """The page that browsers come back to from a sign-in."""
        return self.frontend_url or next(iter(self.allowed_origins), None)

    @cached_property
    def nanos_per_day(self) -> int | None:
        """COST_PER_DAY_USD in billionths of a dollar."""
        return None if self.cost_per_day_usd is None else int(self.cost_per_day_usd * 10**9)

    def provider_keys(self) -> dict[str, str]:
        """The keys that are really set, placeholders of the guide left out."""
        keys = {
            "OPENAI_API_KEY": self.openai_api_key,
            "ANTHROPIC_API_KEY": self.anthropic_api_key,
            "GOOGLE_API_KEY": self.google_api_key,
        }
        return {
            name: key.get_secret_value()
            for name, key in keys.items()
            if key is not None and key.get_secret_value() not in PLACEHOLDER_KEYS
        }

    def warnings(self) -> Iterable[str]:
        """What the operator should know at start, one line each."""
        for name in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "GOOGLE_API_KEY"):
            key: SecretStr | None = getattr(self, name.lower())
            if key is not None and key.get_secret_value() in PLACEHOLDER_KEYS:
                yield f"{name} is the guide's placeholder: treated as unset"
        if self._has_placeholder_secret():
            yield "SECRET_KEY is the guide's placeholder: a random secret is used instead"
        elif self.secret_key is None and isinstance(self.database, PostgresAddress):
            yield "SECRET_KEY is unset: other machines on this database would not know this one's tokens"
        if self.legacy_socket == "open":
            yield "LEGACY_SOCKET=open: anyone may speak under any id on /ws; for closed networks only"
        if not self.rate_limits:
            yield "RATE_LIMITS=off: rates and counts are not limited"
        if self.scripted_model:
            yield "SCRIPTED_MODEL is on: models named scripted… answer from a script"
        yield from self._strangers()

    def _strangers(self) -> Iterable[str]:
        """Names in `.env` that nothing reads: what they were to set has its default. MODELS_FILE may name some."""
        known = [name.upper() for name in type(self).model_fields]
        for name in dotenv_values(".env"):
            if name.upper() in known or COMPOSE_ONLY.fullmatch(name):
                continue
            if near := get_close_matches(name.upper(), known, 1, NEAR):
                yield f".env: {name} is no setting; is {near[0]} meant?"
            elif self.models_file is None:
                yield f".env: {name} is no setting, and nothing reads it; docs/operations.md lists them"

    def _has_placeholder_secret(self) -> bool:
        return self.secret_key is not None and self.secret_key.get_secret_value() in PLACEHOLDER_SECRETS

    def check(self) -> None:
        """Refuse what cannot work, before anything is opened.

        Raises:
            StartError: one line that names every variable at fault.
        """
        if problems := list(self._problems()):
            raise StartError("; ".join(problems))

    def _problems(self) -> Iterable[str]:
        if self.app_env == "production":
            if self.secret_key is None or self._has_placeholder_secret():
                yield "SECRET_KEY: set at least 32 random bytes for APP_ENV=production"
            if self.scripted_model:
                yield "SCRIPTED_MODEL: not with APP_ENV=production"
        for name in ("google", "github"):
            client, secret = getattr(self, f"{name}_client_id"), getattr(self, f"{name}_client_secret")
            if (client is None) != (secret is None):
                yield f"{name.upper()}_CLIENT_ID, {name.upper()}_CLIENT_SECRET: set both, or neither"
            elif client is not None and self.frontend is None:
                yield "FRONTEND_URL: set the page that browsers come back to from a sign-in, or ALLOWED_ORIGINS"

    def signing_secret(self) -> str:
        """The secret that signs tokens; made at the first start and kept beside the database, mode 0600.

        Raises:
            StartError: it cannot be read or written, or is too short.
        """
        if self.secret_key is not None and not self._has_placeholder_secret():
            return self.secret_key.get_secret_value()
        path = self.secret_path
        try:
            return _read_or_make_secret(path)
        except OSError as error:
            raise StartError(f"SECRET_KEY: cannot keep one in {path} ({error.strerror}); set it") from error


def _read_or_make_secret(path: Path) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(secrets.token_urlsafe(48))
    try:
        # A link, not a rename: of several processes that start at once, the first one's secret stays.
        os.link(draft, path)
    except FileExistsError:
        pass
    finally:
        draft.unlink()
    secret = path.read_text(errors="replace").strip()
    if len(secret) < MIN_SECRET_BYTES or not secret.isascii():
        raise StartError(f"SECRET_KEY: the secret kept in {path} is damaged; delete that file or set the variable")
    return secret


def load_settings() -> Settings:
    """Read and check the settings.

    Raises:
        StartError: one line that names every variable at fault.
    """
    try:
        _check_env_file(Path(".env"))
        settings = Settings()
    except ValidationError as error:
        raise StartError("; ".join(_line(item["loc"], item["msg"]) for item in error.errors())) from None
    except UnicodeDecodeError:
        raise StartError(".env: not UTF-8") from None
    except OSError as error:
        raise StartError(f".env: cannot be read ({error.strerror})") from None
    settings.check()
    return settings


def _check_env_file(path: Path) -> None:
    """python-dotenv leaves out a line that it cannot read, and the setting would keep its default."""
    if not path.is_file():
        return
    with path.open(encoding="utf-8") as file:
        bindings = list(parse_stream(file))
    for binding in bindings:
        if binding.error or (binding.key is not None and binding.value is None):
            line = binding.original.line
            raise StartError(f".env: line {line} cannot be read; is it NAME=value, with both quotation marks or none?")


def _line(location: tuple[int | str, ...], message: str) -> str:
    return f"{str(location[0]).upper()}: {message.removeprefix('Value error, ')}"
