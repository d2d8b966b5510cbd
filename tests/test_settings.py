import multiprocessing
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from errors import StartError
from setting_groups import ROOT
from settings import PLACEHOLDER_KEYS, PLACEHOLDER_SECRETS, Settings, load_settings
from tests.server import unprivileged

SECRET = "a secret for tests only, 32 bytes or more"
GUIDE_ENV = """\
# 服务器配置
HOST=0.0.0.0
PORT=8000
WORKERS=4

# 安全配置
SECRET_KEY=your-very-secure-secret-key-change-this-in-production
ALGORITHM=HS256
ACCESS_TOKEN_EXPIRE_MINUTES=1440

# CORS配置
ALLOWED_ORIGINS=https://yourdomain.com,https://www.yourdomain.com

# 数据库配置 (可选)
DATABASE_URL=postgresql://user:password@localhost:5432/chatdb

# Redis配置 (可选)
REDIS_URL=redis://localhost:6379/0

# AI API配置
OPENAI_API_KEY=sk-your-openai-key
ANTHROPIC_API_KEY=sk-ant-your-anthropic-key
"""

Load = Callable[..., Settings]


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Load:
    """Settings from these variables alone, in a directory of their own."""
    monkeypatch.chdir(tmp_path)
    for name in os.environ:
        if name.lower() in Settings.model_fields:
            monkeypatch.delenv(name)

    def load(**variables: str) -> Settings:
        monkeypatch.setenv("DATA_DIR", str(tmp_path / "data"))
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        return load_settings()

    return load


def refused(load: Load, **variables: str) -> str:
    with pytest.raises(StartError) as caught:
        load(**variables)
    line = str(caught.value)
    assert "\n" not in line
    return line


class TestTheGuides:
    def test_defaults_are_those_of_its_code(self, load: Load) -> None:
        settings = load()
        assert (settings.host, settings.port, settings.workers) == ("0.0.0.0", 8000, 1)
        assert (settings.algorithm, settings.access_token_expire_minutes) == ("HS256", 30)
        assert settings.allowed_origins == ("http://localhost:3000",)
        assert settings.app_env == "development"
        assert list(settings.warnings()) == []

    def test_variables_are_read(self, load: Load) -> None:
        settings = load(
            HOST="127.0.0.1",
            PORT="9000",
            WORKERS="4",
            SECRET_KEY=SECRET,
            ALGORITHM="HS256",
            ACCESS_TOKEN_EXPIRE_MINUTES="1440",
            ALLOWED_ORIGINS="https://yourdomain.com, https://www.yourdomain.com/",
            DATABASE_URL="sqlite:///chat.db",
        )
        assert (settings.host, settings.port, settings.workers) == ("127.0.0.1", 9000, 4)
        assert settings.access_token_expire_minutes == 1440
        assert settings.signing_secret() == SECRET
        assert settings.allowed_origins == ("https://yourdomain.com", "https://www.yourdomain.com")
        assert settings.database == Path.cwd() / "chat.db"

    def test_env_file_is_taken_as_it_is_and_its_placeholders_are_said(self, load: Load, tmp_path: Path) -> None:
        (tmp_path / ".env").write_text(GUIDE_ENV, encoding="utf-8")
        settings = load()
        assert (settings.access_token_expire_minutes, settings.workers) == (1440, 4)
        assert str(settings.database) == "postgresql://user@localhost:5432/chatdb"
        assert str(settings.redis) == "redis://localhost:6379/0"
        assert settings.provider_keys() == {}
        warned = "\n".join(settings.warnings())
        for name in ("SECRET_KEY", "OPENAI_API_KEY", "ANTHROPIC_API_KEY"):
            assert f"{name} is the guide's placeholder" in warned
        assert settings.signing_secret() not in PLACEHOLDER_SECRETS

    def test_every_variable_is_a_setting(self) -> None:
        names = [line.split("=")[0].lower() for line in GUIDE_ENV.splitlines() if "=" in line]
        assert len(names) == 11
        assert set(names) <= set(Settings.model_fields)


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"PORT": "0"}, ["PORT"]),
        ({"PORT": "http"}, ["PORT"]),
        ({"PORT": "70000"}, ["PORT"]),
        ({"WORKERS": "0"}, ["WORKERS"]),
        ({"WORKERS": "many"}, ["WORKERS"]),
        ({"ALGORITHM": "none"}, ["ALGORITHM"]),
        ({"ALGORITHM": "RS256"}, ["ALGORITHM"]),
        ({"ACCESS_TOKEN_EXPIRE_MINUTES": "0"}, ["ACCESS_TOKEN_EXPIRE_MINUTES"]),
        ({"ALLOWED_ORIGINS": "*"}, ["ALLOWED_ORIGINS", "*"]),
        ({"ALLOWED_ORIGINS": "https://a.b,*"}, ["ALLOWED_ORIGINS", "*"]),
        ({"ALLOWED_ORIGINS": "yourdomain.com"}, ["ALLOWED_ORIGINS", "yourdomain.com"]),
        ({"ALLOWED_ORIGINS": "https://a.b/path"}, ["ALLOWED_ORIGINS"]),
        ({"ALLOWED_ORIGINS": "file:///x"}, ["ALLOWED_ORIGINS"]),
        ({"DATABASE_URL": "postgresql://u:hidden@h"}, ["DATABASE_URL", "names no database"]),
        ({"DATABASE_URL": "postgresql+unknown://u:hidden@h/d"}, ["DATABASE_URL", "not an address we know"]),
        ({"DATABASE_URL": "mysql://u:p@h/d"}, ["DATABASE_URL"]),
        ({"DATABASE_URL": "sqlite:///:memory:"}, ["DATABASE_URL", "no file"]),
        ({"DATABASE_URL": "sqlite://"}, ["DATABASE_URL"]),
        ({"REDIS_URL": "localhost:6379"}, ["REDIS_URL", "redis://localhost:6379/0"]),
        ({"REDIS_URL": "redis://:hidden@h:port"}, ["REDIS_URL", "port"]),
        ({"OPENAI_BASE_URL": "localhost:11434"}, ["OPENAI_BASE_URL", "https://example.com/v1"]),
        ({"OPENAI_BASE_URL": "http://me:hidden@h/v1"}, ["OPENAI_BASE_URL", "set a key"]),
        ({"MODELS_REFRESH_SECONDS": "0"}, ["MODELS_REFRESH_SECONDS"]),
        ({"LEGACY_SOCKET": "everyone"}, ["LEGACY_SOCKET"]),
        ({"APP_ENV": "staging"}, ["APP_ENV"]),
        ({"RATE_LIMITS": "perhaps"}, ["RATE_LIMITS"]),
        ({"TRUSTED_PROXIES": "*"}, ["TRUSTED_PROXIES"]),
        ({"TRUSTED_PROXIES": "10.0.0.1,proxy.example"}, ["TRUSTED_PROXIES"]),
        ({"ALLOWED_HOSTS": "https://chat.example.com"}, ["ALLOWED_HOSTS", "https://chat.example.com"]),
        ({"ALLOWED_HOSTS": "chat.example.com:8000"}, ["ALLOWED_HOSTS", "chat.example.com:8000"]),
        ({"ALLOWED_HOSTS": "a.example.com b.example.com"}, ["ALLOWED_HOSTS"]),
        ({"RUN_SECONDS": "0"}, ["RUN_SECONDS"]),
        ({"PORT": "x", "RUN_QUEUE": "-1"}, ["PORT", "RUN_QUEUE"]),
    ],
)
def test_what_cannot_work_is_one_line_that_names_the_variable(
    load: Load, variables: dict[str, str], words: list[str]
) -> None:
    line = refused(load, **variables)
    for word in words:
        assert word in line
    for private in ("hidden", "sk-real", "u:p"):
        assert private not in line


def test_an_empty_variable_is_an_unset_one(load: Load) -> None:
    settings = load(PORT="", SECRET_KEY="", REDIS_URL=" ", DATABASE_URL=" ", OPENAI_API_KEY="  ", MODEL_FALLBACK="")
    assert settings.port == 8000
    assert (settings.secret_key, settings.redis_url, settings.database_url) == (None, None, None)


@pytest.mark.parametrize(
    ("value", "expected"), [("none", ()), ("", None), ("a", ("a",)), ("a, b", ("a", "b")), ("NONE", ())]
)
def test_fallbacks_are_a_list_or_none(load: Load, value: str, expected: tuple[str, ...] | None) -> None:
    assert load(MODEL_FALLBACK=value).fallback == expected


def test_a_variable_of_the_models_file_is_read_as_settings_are(load: Load, tmp_path: Path) -> None:
    settings = load(MINE="from the environment ", BLANK=" ")
    (tmp_path / ".env").write_text("MINE=from the file\nOTHER=from the file\n")
    assert settings.variable("MINE") == "from the environment"
    assert settings.variable("OTHER") == "from the file"
    assert (settings.variable("BLANK"), settings.variable("NOWHERE")) == (None, None)


@pytest.mark.parametrize(("name", "value"), [("LOG_LEVEL", "DEBUG"), ("APP_ENV", "Development")])
def test_words_are_read_in_any_case(load: Load, name: str, value: str) -> None:
    assert getattr(load(**{name: value}), name.lower()) == value.lower()


@pytest.mark.parametrize("text", [b"PORT=9000\n", "\ufeffPORT=9000\n".encode(), b"# c\r\nPORT=9000\r\n"])
def test_the_env_file_is_read(load: Load, tmp_path: Path, text: bytes) -> None:
    (tmp_path / ".env").write_bytes(text)
    assert load().port == 9000
    assert load(PORT="9001").port == 9001, "the environment comes first"


@pytest.mark.parametrize("name", ["DATA_DIR", "MODELS_DIR", "MODELS_FILE", "DATABASE_URL", "HOST", "ALLOWED_ORIGINS"])
def test_a_nul_in_the_env_file_is_said(load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """The environment cannot hold one. In a path it was a traceback at the start."""
    del load  # for its empty environment
    value = "sqlite:////srv/chat\0.db" if name == "DATABASE_URL" else "/srv/chat\0data"
    (tmp_path / ".env").write_text(f"{name}={value}\n")
    with pytest.raises(StartError, match=f"^{name}: holds a NUL character$"):
        load_settings()


def test_an_env_file_that_is_no_text_is_said(load: Load, tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(b"\xff\xfe\x00")
    assert refused(load).startswith(".env")


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions")
def test_an_env_file_that_is_somebody_elses_is_said(load: Load, tmp_path: Path) -> None:
    """As root's is, mode 600, to the service's user."""
    (tmp_path / ".env").write_text("PORT=9001\n")
    (tmp_path / ".env").chmod(0)
    tmp_path.chmod(0o755)
    with unprivileged():
        assert refused(load) == ".env: cannot be read (Permission denied)"


@pytest.mark.parametrize(
    "line", ['LEGACY_SOCKET="token', "SECRET_KEY='half a secret", "LOG_LEVEL=info\nPORT 9000", "PORT: 9000", "PORT"]
)
def test_a_line_of_the_env_file_that_cannot_be_read_is_said(load: Load, tmp_path: Path, line: str) -> None:
    """It was left out: with LEGACY_SOCKET="token the socket was open to guests."""
    (tmp_path / ".env").write_text(f"# ours\n{line}\n", encoding="utf-8")
    said = refused(load)
    assert said.startswith(".env: line ")
    assert "half a secret" not in said


class TestDatabase:
    @pytest.mark.parametrize(
        ("address", "path"),
        [
            ("sqlite:///chat.db", "chat.db"),
            ("sqlite:///./sub/chat.db", "sub/chat.db"),
            ("sqlite+aiosqlite:///chat.db", "chat.db"),
            ("sqlite:///chat.db?timeout=5", "chat.db"),
        ],
    )
    def test_is_where_the_address_says(self, load: Load, address: str, path: str) -> None:
        assert load(DATABASE_URL=address).database == Path.cwd() / path

    def test_an_absolute_address_has_four_slashes(self, load: Load) -> None:
        assert load(DATABASE_URL="sqlite:////srv/chat.db").database == Path("/srv/chat.db")

    def test_of_the_guide_is_taken_as_it_is(self, load: Load, tmp_path: Path) -> None:
        settings = load(DATABASE_URL="postgresql://user:password@localhost:5432/chatdb")
        assert str(settings.database) == "postgresql://user@localhost:5432/chatdb"
        assert settings.secret_path == tmp_path / "data" / "secret.key"
        assert any("SECRET_KEY is unset" in line for line in settings.warnings())
        assert "password" not in repr(settings) + str(settings)

    def test_is_in_the_data_directory_by_default(self, load: Load, tmp_path: Path) -> None:
        assert load().database == tmp_path / "data" / "chat.db"
        assert Settings.model_fields["data_dir"].default == ROOT / "data"


class TestSecret:
    @pytest.mark.parametrize(
        "value",
        [
            "tiny",
            "x" * 31,
            "-----BEGIN PRIVATE KEY-----" + "x" * 40,
            "ssh-rsa " + "A" * 60,
            "-----BEGIN CERTIFICATE" + "x" * 40,
        ],
    )
    def test_that_is_short_or_a_key_is_refused_without_being_shown(self, load: Load, value: str) -> None:
        line = refused(load, SECRET_KEY=value)
        assert line.startswith("SECRET_KEY")
        assert value not in line

    def test_of_32_bytes_will_do(self, load: Load) -> None:
        assert load(SECRET_KEY="密" * 11).signing_secret() == "密" * 11

    def test_is_made_once_and_kept_beside_the_database_for_its_owner_alone(self, load: Load, tmp_path: Path) -> None:
        address = f"sqlite:///{tmp_path}/elsewhere/chat.db"
        first = load(DATABASE_URL=address).signing_secret()
        assert len(first) >= 32
        kept = tmp_path / "elsewhere" / "secret.key"
        assert kept.read_text() == first
        assert stat.S_IMODE(kept.stat().st_mode) == 0o600
        assert load(DATABASE_URL=address).signing_secret() == first
        assert [each.name for each in kept.parent.iterdir()] == ["secret.key"], "no drafts are left"

    def test_is_the_same_for_processes_that_start_at_once(self, tmp_path: Path) -> None:
        spawn = multiprocessing.get_context("fork")
        queue = spawn.Queue()
        processes = [spawn.Process(target=_tell_secret, args=(tmp_path, queue)) for _ in range(8)]
        for process in processes:
            process.start()
        secrets = {queue.get(timeout=30) for _ in processes}
        for process in processes:
            process.join(30)
        assert len(secrets) == 1

    @pytest.mark.parametrize("damage", [b"", b"short", b"\xff\xfe" * 40])
    def test_that_is_damaged_stops_the_start(self, load: Load, tmp_path: Path, damage: bytes) -> None:
        settings = load()
        settings.signing_secret()
        (tmp_path / "data" / "secret.key").write_bytes(damage)
        with pytest.raises(StartError, match=r"SECRET_KEY: .*damaged"):
            settings.signing_secret()

    def test_that_cannot_be_kept_stops_the_start(self, load: Load, tmp_path: Path) -> None:
        (tmp_path / "data").mkdir()
        (tmp_path / "data" / "secret.key").mkdir()
        with pytest.raises(StartError, match="SECRET_KEY"):
            load().signing_secret()


class TestProduction:
    @pytest.mark.parametrize("secret", [None, *sorted(PLACEHOLDER_SECRETS)])
    def test_needs_a_secret_of_its_own(self, load: Load, secret: str | None) -> None:
        variables = {} if secret is None else {"SECRET_KEY": secret}
        assert refused(load, APP_ENV="production", **variables).startswith("SECRET_KEY")

    def test_has_no_scripted_model(self, load: Load) -> None:
        assert "SCRIPTED_MODEL" in refused(load, APP_ENV="production", SECRET_KEY=SECRET, SCRIPTED_MODEL="true")

    def test_starts_with_a_secret(self, load: Load) -> None:
        assert load(APP_ENV="production", SECRET_KEY=SECRET).signing_secret() == SECRET


class TestProviderKeys:
    def test_are_read_without_what_files_and_shells_put_around_them(self, load: Load) -> None:
        assert load(OPENAI_API_KEY=" sk-x\r\n").provider_keys() == {"OPENAI_API_KEY": "sk-x"}

    @pytest.mark.parametrize("key", ["sk-hid den", "sk-hid\nden", "sk-hid\x01den", "sk-hid“den”"])
    def test_that_no_header_can_hold_are_refused_at_the_start(self, load: Load, key: str) -> None:
        """Why: otherwise every answer fails, with words about the connection."""
        names = ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "GOOGLE_API_KEY")
        line = refused(load, **dict.fromkeys(names, key))
        for name in names:
            assert f"{name}: holds characters that no key has" in line
        assert "hid" not in line


class TestWarnings:
    @pytest.mark.parametrize(
        ("variables", "word"),
        [
            ({"LEGACY_SOCKET": "open"}, "LEGACY_SOCKET=open"),
            ({"RATE_LIMITS": "off"}, "RATE_LIMITS=off"),
            ({"SCRIPTED_MODEL": "true"}, "SCRIPTED_MODEL"),
            ({"GOOGLE_API_KEY": "your-google-key"}, "GOOGLE_API_KEY"),
        ],
    )
    def test_name_what_is_risky(self, load: Load, variables: dict[str, str], word: str) -> None:
        assert [word in line for line in load(**variables).warnings()] == [True]

    def test_name_what_the_env_file_says_to_nobody(self, load: Load, tmp_path: Path) -> None:
        names = ("OPENAI_API_KY", "allowed_origin", "HTTPS_PROXY", "port", "DB_PASSWORD", "COMPOSE_PROJECT_NAME")
        (tmp_path / ".env").write_text("".join(f"{name}=8001\n" for name in names))
        assert list(load().warnings()) == [
            ".env: OPENAI_API_KY is no setting; is OPENAI_API_KEY meant?",
            ".env: allowed_origin is no setting; is ALLOWED_ORIGINS meant?",
            ".env: HTTPS_PROXY is no setting, and nothing reads it; docs/operations.md lists them",
        ]

    def test_leave_keys_alone_that_the_models_file_may_name(self, load: Load, tmp_path: Path) -> None:
        (tmp_path / ".env").write_text("MODELS_FILE=models.toml\nGROQ_API_KEY=gsk\nXAI_API_KEY=xai\nLOG_LEVL=debug\n")
        assert list(load().warnings()) == [".env: LOG_LEVL is no setting; is LOG_LEVEL meant?"]

    def test_placeholders_are_no_keys(self, load: Load) -> None:
        for key in PLACEHOLDER_KEYS:
            assert load(OPENAI_API_KEY=key).provider_keys() == {}


def test_nothing_secret_is_in_the_text_of_the_settings() -> None:
    private = {
        "secret_key": "hidden-" + "x" * 40,
        "openai_api_key": "hidden-openai",
        "anthropic_api_key": "hidden-anthropic",
        "google_api_key": "hidden-google",
        "redis_url": "redis://:hidden-redis@host",
        "database_url": "sqlite:///hidden-database.db",
    }
    values: dict[str, Any] = {**private, "_env_file": None}
    settings = Settings(**values)
    for text in (repr(settings), str(settings), f"{settings!r:.100000}"):
        assert "hidden" not in text


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(Exception, match="frozen"):
        Settings(_env_file=None).port = 1  # type: ignore[misc]  # that it is refused is the point


def _tell_secret(folder: Path, queue: Any) -> None:
    queue.put(Settings(_env_file=None, data_dir=folder).signing_secret())
