"""The settings' fields, by what they are about. A field's description is its line in docs/operations.md."""

from decimal import Decimal
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr
from pydantic_settings import BaseSettings, NoDecode

from providers.servers import api_key, base_url

ROOT = Path(__file__).resolve().parent

KiB, MiB = 1024, 1024 * 1024
YEAR = 365 * 86_400


def _split(value: object) -> object:
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def _unset_if_blank(value: object) -> object:
    return None if isinstance(value, str) and not value.strip() else value


def _address(value: str | None) -> str | None:
    return None if value is None else base_url(value)


def _key(value: SecretStr | None) -> SecretStr | None:
    return None if value is None else SecretStr(api_key(value.get_secret_value()))


def _lower(value: object) -> object:
    return value.strip().lower() if isinstance(value, str) else value


OptionalText = Annotated[str | None, BeforeValidator(_unset_if_blank)]
OptionalKey = Annotated[SecretStr | None, BeforeValidator(_unset_if_blank)]
ProviderKey = Annotated[OptionalKey, AfterValidator(_key)]
Seconds = Annotated[float, Field(gt=0, le=86_400)]
Count = Annotated[int, Field(ge=1, le=2**31 - 1)]


class GuideSettings(BaseSettings):
    """What the guide names."""

    host: str = Field("0.0.0.0", description="address to listen on")  # noqa: S104
    port: int = Field(8000, ge=1, le=65535, description="port to listen on")
    workers: int = Field(1, ge=1, le=256, description="server processes of `python app.py`")
    secret_key: OptionalKey = Field(None, description="signs tokens; at least 32 bytes; made and kept if unset")
    algorithm: Literal["HS256"] = Field("HS256", description="of the tokens; nothing else is accepted")
    access_token_expire_minutes: int = Field(30, ge=1, le=525_600, description="life of an access token")
    allowed_origins: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)] = Field(
        ("http://localhost:3000",), description="browser origins, separated by commas"
    )
    allowed_hosts: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)] = Field(
        ("*",), description="names under which the server may be asked, separated by commas; *.example.com is possible"
    )
    database_url: OptionalText = Field(
        None,
        repr=False,
        description="sqlite:///file.db (default: in DATA_DIR) or postgresql://user:password@host:5432/name",
    )
    redis_url: OptionalText = Field(
        None, repr=False, description="redis://:password@host:6379/0: several processes hear of each other at once"
    )
    openai_api_key: ProviderKey = Field(None, description="opens OpenAI's models, or the server at OPENAI_BASE_URL")
    anthropic_api_key: ProviderKey = Field(None, description="opens Anthropic's models")
    google_api_key: ProviderKey = Field(None, description="opens Google's models")


class PlaceSettings(BaseSettings):
    """Where things are, and which models."""

    app_env: Annotated[Literal["development", "production"], BeforeValidator(_lower)] = Field(
        "development", description="production is stricter"
    )
    log_level: Annotated[Literal["debug", "info", "warning", "error"], BeforeValidator(_lower)] = Field(
        "info", description="least level logged"
    )
    data_dir: Path = Field(ROOT / "data", description="where the database, the secret and the model are kept")
    models_dir: Path | None = Field(None, description="where model files are kept (default: DATA_DIR/models)")
    legacy_socket: Annotated[Literal["guests", "token", "open"], BeforeValidator(_lower)] = Field(
        "guests", description="who may use /ws/{user_id}"
    )
    rate_limits: bool = Field(True, description="off ends rates and counts, never sizes and times")
    openai_base_url: Annotated[OptionalText, AfterValidator(_address)] = Field(
        None, description="a server that speaks OpenAI's protocol; takes every model that no other provider has"
    )
    anthropic_base_url: Annotated[OptionalText, AfterValidator(_address)] = Field(
        None, description="a proxy that speaks Anthropic's protocol (default: Anthropic itself)"
    )
    google_base_url: Annotated[OptionalText, AfterValidator(_address)] = Field(
        None, description="a proxy that speaks Gemini's protocol (default: Google itself)"
    )
    models_file: Path | None = Field(None, description="more such servers by name, as TOML")
    models_refresh_seconds: Seconds = Field(300, description="how often servers are asked which models they have")
    default_model: OptionalText = Field(None, description="for whoever names none (default: the first of `models`)")
    model_fallback: Annotated[tuple[str, ...] | None, NoDecode, BeforeValidator(_split)] = Field(
        None, max_length=8, description="models tried when the asked one cannot answer; none: no other"
    )
    title_model: OptionalText = Field(
        None, description="who names conversations without a title (default: the model that answered); none: nobody"
    )
    embedded_model: bool = Field(True, description="run the small model on this machine's processor")
    local_model: OptionalText = Field(
        None, description="which: a name of `python cli.py models list`, or a file (default: smollm2-135m-instruct)"
    )
    embedded_fetch: bool = Field(True, description="fetch its file when it is not there")
    hf_endpoint: str = Field(
        "https://huggingface.co", repr=False, description="the model hub that files are fetched from, or its mirror"
    )
    embedded_slots: int | None = Field(
        None, ge=1, le=64, description="answers it writes at the same time (default: 4, or as 1 GiB of context allows)"
    )
    embedded_context: int = Field(
        4096, ge=512, le=131_072, description="tokens of context for each of them, at most what the model knows"
    )
    scripted_model: bool = Field(False, description="the scripted fake, for tests and benchmarks")


class IdentitySettings(BaseSettings):
    """Signing in with an account elsewhere."""

    google_client_id: OptionalText = Field(None, description="with the secret: sign-in with Google")
    google_client_secret: OptionalKey = Field(None, description="of the same OAuth client")
    github_client_id: OptionalText = Field(None, description="with the secret: sign-in with GitHub")
    github_client_secret: OptionalKey = Field(None, description="of the same OAuth app")
    public_url: Annotated[OptionalText, AfterValidator(_address)] = Field(
        None, description="the server's address as browsers know it, for callbacks (default: as it is asked)"
    )
    frontend_url: Annotated[OptionalText, AfterValidator(_address)] = Field(
        None, description="the page that browsers come back to from a sign-in (default: the first of ALLOWED_ORIGINS)"
    )
    google_issuer_url: Annotated[str, AfterValidator(base_url)] = Field(
        "https://accounts.google.com", description="another OpenID provider in Google's place"
    )
    github_url: Annotated[str, AfterValidator(base_url)] = Field(
        "https://github.com", description="GitHub's own address, or an Enterprise server's"
    )
    github_api_url: Annotated[str, AfterValidator(base_url)] = Field(
        "https://api.github.com", description="its API; of an Enterprise server: https://HOST/api/v3"
    )


class AccountSettings(BaseSettings):
    """Who may log in, and how often."""

    trusted_proxies: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)] = Field(
        (), description="addresses and networks of proxies whose X-Forwarded-For and -Proto count"
    )
    logins_per_minute: Count = Field(10, description="attempts to log in to one account in any minute")
    address_logins_per_minute: Count = Field(60, description="attempts to log in from one address in any minute")
    operations_per_minute: Count = Field(
        1_200, description="requests, operations and chats of one user in a minute: 20 a second"
    )
    address_operations_per_minute: Count = Field(
        6_000, description="the same from one address: a hundred people behind one router, one a second each"
    )
    address_registrations_per_minute: Count = Field(60, description="registrations from one address in any minute")
    wrong_codes_per_day: int = Field(
        30, ge=1, le=1_000, description="wrong one-time codes of an app for one account in any 24 hours"
    )
    session_idle_seconds: float = Field(
        30 * 86_400, gt=0, le=10 * YEAR, description="a session that is not refreshed for so long ends"
    )
    session_seconds: float = Field(
        90 * 86_400, gt=0, le=10 * YEAR, description="a session ends so long after its log-in"
    )
    sessions_per_user: Count = Field(100, description="sessions of one user; beyond it those that end first go")
    refresh_grace_seconds: float = Field(
        10, ge=0, le=300, description="a refresh token may be shown again for so long, as two tabs at once do"
    )


class DatabaseSettings(BaseSettings):
    """Of PostgreSQL."""

    database_pool_size: Count = Field(20, description="PostgreSQL: connections that a process keeps")
    database_max_overflow: int = Field(40, ge=0, le=10_000, description="PostgreSQL: more of them under load")
    database_seconds: Seconds = Field(10, description="PostgreSQL: longest statement, and wait for a connection")


class SizeSettings(BaseSettings):
    """The largest of everything that comes in."""

    max_body_bytes: Count = Field(MiB, description="largest request body")
    max_conversation_bytes: Count = Field(
        16 * MiB, description="largest body of POST and PUT /api/conversations (they carry every message)"
    )
    body_seconds: Seconds = Field(30, description="longest a request body may take, and a second for each 64 KiB")
    max_frame_bytes: Count = Field(256 * KiB, description="largest socket frame that is read")
    max_json_values: Count = Field(250_000, description="most keys and values in the JSON of one request or frame")
    max_message_chars: Count = Field(100_000, description="longest message text")
    max_system_prompt_chars: Count = Field(32_000, description="longest system prompt")
    max_title_chars: Count = Field(200, description="longest title")
    max_conversation_messages: Count = Field(10_000, description="most messages stored at once in a conversation")
    max_chat_messages: Count = Field(2_000, description="most messages in one stateless chat")
    max_conversations: Count = Field(100_000, description="most conversations of one user")
    max_query_chars: Count = Field(65_536, description="longest GraphQL document; long texts belong into variables")
    max_query_tokens: Count = Field(1_000, description="most lexical tokens in one GraphQL document")
    max_query_depth: Count = Field(12, description="levels of one GraphQL operation, introspection apart")
    max_query_aliases: Count = Field(15, description="aliases in one GraphQL operation, fragments unfolded")
    max_query_roots: Count = Field(20, description="fields at the top of one GraphQL operation")
    max_query_directives: Count = Field(30, description="directives in one GraphQL document")


class RunSettings(BaseSettings):
    """Answers."""

    runs_per_process: Count = Field(256, description="answers written at the same time")
    runs_per_user: Count = Field(8, description="answers running or waiting for one user")
    runs_per_minute: Count = Field(60, description="answers one user may ask for in a minute")
    run_queue: Count = Field(1_000, description="answers waiting for their turn")
    tokens_per_day: int | None = Field(
        None, ge=1, le=10**15, description="tokens of one user in a UTC day, prompts and answers together"
    )
    cost_per_day_usd: Decimal | None = Field(
        None, ge=0, le=10**6, description="US dollars of one user in a UTC day, for models whose price is known"
    )
    run_seconds: Seconds = Field(600, description="longest life of a run")
    run_chars: Count = Field(400_000, description="longest text of a run")
    first_token_seconds: Seconds = Field(300, description="longest wait for a model's first chunk")
    next_token_seconds: Seconds = Field(60, description="longest wait between two chunks")
    retries: int = Field(2, ge=0, le=10, description="how often a failing model is asked again before its first text")
    retry_seconds: Seconds = Field(10, description="longest pause before that, whatever a provider asks for")
    coalesce_seconds: float = Field(0.02, ge=0, le=1, description="deltas within it become one event")
    run_keep_seconds: Seconds = Field(60, description="how long a finished run's deltas stay readable")
    changes_keep_seconds: float = Field(
        86_400, gt=0, le=2_592_000, description="how long a client may be away and still be told all it missed"
    )
    chat_grace_seconds: float = Field(10, ge=0, le=600, description="a keyed stateless run outlives its last follower")
    chat_key_seconds: Seconds = Field(600, description="how long an idempotency key of a stateless chat holds")
    restart_interrupted: bool = Field(True, description="begin runs of a dead process again that had no text yet")
    lease_seconds: Seconds = Field(
        2,
        description="a run whose worker is silent for so long is interrupted; on SQLite one that is "
        "killed is noticed without it, and one that is late but lives has five times as long",
    )
    shutdown_grace_seconds: float = Field(5, ge=0, le=600, description="running answers may finish at a stop")


class SocketSettings(BaseSettings):
    """Open connections."""

    send_timeout_seconds: Seconds = Field(30, description="a reader that takes nothing for so long is closed")
    keep_alive_seconds: int = Field(
        75,
        ge=1,
        le=3_600,
        description="a connection may be idle between two requests; longer than a proxy in front keeps its own",
    )
    socket_init_seconds: Seconds = Field(10, description="wait for connection_init")
    operations_per_socket: Count = Field(50, description="operations under way on one GraphQL socket")
    sockets: Count = Field(10_000, description="open sockets of this process")
    user_sockets: Count = Field(100, description="open sockets of one user: a dozen devices with some tabs each")
    address_sockets: Count = Field(500, description="open sockets from one address: an office behind a router")
    guest_sockets: Count = Field(500, description="open legacy sockets without a token")
    socket_frames_per_minute: Count = Field(240, description="frames one legacy socket may send in a minute")
    graphql_frames_per_minute: Count = Field(
        2_400, description="messages one GraphQL socket may send in a minute; two for each operation, and pings"
    )
    guest_chats_per_minute: Count = Field(20, description="chats one address may ask for in a minute without a token")
    guest_max_tokens: int = Field(512, ge=1, le=4096, description="longest answer to a socket without a token")
