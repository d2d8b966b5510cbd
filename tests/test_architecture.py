"""Rules that matter, each with its reason. What is checked is what is committed, or is about to be."""

import ast
import re
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from importlinter.cli import lint_imports

import errors
from serve import OUR_LOGGERS
from settings import Settings
from tests.server import ROOT

PACKAGES = ("auth", "bus", "chat", "graph", "models", "providers", "rest")
LONGEST = 400

TESTED_ELSEWHERE = {
    "auth/administration": "test_cli_users",
    "cli_reference": "test_schema, test_docs",
    "auth/credentials": "graph/test_sessions",
    "auth/newcomers": "test_oauth",
    "auth/oauth": "test_oauth",
    "auth/oauth_client": "auth/test_github",
    "auth/round_trip": "test_oauth",
    "identity_providers": "test_oauth",
    "models/identity": "test_oauth",
    "rest/oauth": "test_oauth",
    "graph/account": "graph/test_sessions",
    "models/erasure": "chat/test_erasures, chat/test_big_deletions",
    "protocols": "test_edge",
    "app": "test_serve, and every test with a server",
    "assembly": "test_serve, and every test with a server",
    "bus/base": "a protocol: bus/test_memory has its conformance tests",
    "chat/access": "people/test_rights",
    "chat/branches": "people/test_tree_model",
    "chat/changes": "people/test_happenings",
    "chat/codec": "log/test_conformance",
    "chat/exporting": "chat/test_transfer",
    "chat/importing": "chat/test_transfer",
    "models/transfer": "chat/test_transfer",
    "chat/events": "chat/test_log",
    "chat/cursor": "people/test_happenings",
    "chat/gathering": "people/test_happenings",
    "chat/feed": "people/test_happenings",
    "chat/happenings": "people/test_happenings",
    "chat/herald": "log/test_conformance, bus/test_redis",
    "chat/history": "people/test_tree, chat/test_budget",
    "chat/jobs": "chat/test_engine",
    "chat/keeper": "log/test_workers",
    "chat/keys": "chat/test_chats",
    "chat/listing": "models/test_message, rest/test_listing",
    "chat/members": "people/test_rights",
    "chat/mirror": "log/test_conformance",
    "chat/patience": "chat/test_generation",
    "chat/sending": "people/test_tree, chat/test_chats",
    "chat/unbroken": "chat/test_engine_cancel",
    "errors": "here, and rest/test_errors",
    "graph/changes": "test_schema",
    "graph/node_type": "graph/test_node",
    "graph/context": "graph/test_auth",
    "graph/enums": "graph/test_schema",
    "graph/factors": "test_second_factor",
    "graph/identities": "test_oauth",
    "graph/identity_type": "test_oauth",
    "graph/errors": "graph/test_http",
    "graph/events": "graph/test_run_log",
    "graph/execution": "graph/test_http",
    "graph/happenings": "graph/test_conversation_events",
    "graph/routes": "graph/test_http",
    "graph/shape": "graph/test_limits",
    "graph/types": "graph/test_schema",
    "bounds": "test_serve, and every test with a server",
    "models/search": "chat/test_search",
    "models/api_key": "auth/test_api_keys",
    "models/attempt": "auth/test_throttle",
    "models/postgres_backup": "models/test_backup",
    "models/sqlite_backup": "models/test_backup",
    "models/branch": "chat/test_conversations",
    "models/change": "people/test_happenings",
    "models/ids": "models/test_columns",
    "models/journal": "log/test_conformance",
    "models/failures": "models/test_database, models/test_postgres",
    "models/journal_writer": "log/test_conformance",
    "models/locks": "models/test_postgres",
    "models/notice": "chat/test_notices",
    "models/opening": "models/test_database",
    "models/postgres_driver": "models/test_postgres",
    "models/postgres_journal": "log/test_conformance",
    "models/sqlite": "models/test_database",
    "models/sqlite_journal": "log/test_conformance",
    "models/member": "people/test_rights",
    "models/totp": "auth/test_factors",
    "models/upsert": "chat/test_stats",
    "models/usage": "chat/test_stats",
    "models/user_session": "auth/test_sessions",
    "models/whole": "models/test_message",
    "models/worker": "log/test_workers",
    "models/write_lock": "log/test_conformance",
    "origins": "rest/test_handshake, graph/test_websocket",
    "providers/answers": "providers/test_openai_wire, and the conformance tests of every adapter",
    "peers": "test_guessing",
    "providers/anthropic_wire": "providers/test_anthropic",
    "providers/base": "a protocol",
    "providers/child": "providers/test_supervisor",
    "providers/failures": "providers/test_openai_wire",
    "providers/figures": "providers/test_openai",
    "providers/google_wire": "providers/test_google",
    "providers/keeper": "providers/test_supervisor",
    "providers/loopback": "providers/test_local",
    "providers/sdk": "providers/test_openai",
    "providers/sse": "providers/test_openai_wire",
    "providers/weights_store": "providers/test_weights",
    "rest/deps": "rest/test_auth",
    "rest/routes": "rest/test_home",
    "setting_groups": "test_settings",
    "services": "test_traffic, and every test with a server",
    "streaming": "test_disconnect",
    "watchdog": "providers/test_watchdog",
    "test_api": "test_main: the guide's commands",
}


@cache
def committed() -> tuple[Path, ...]:
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True
    )
    if listing.returncode:
        pytest.skip("not a git checkout")
    return tuple(path for name in listing.stdout.splitlines() if (path := ROOT / name).is_file())


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def sources() -> list[Path]:
    """The product's modules: not tests, not benchmarks, not migrations."""
    names = [(path, name_of(path)) for path in committed() if path.suffix == ".py"]
    return [path for path, name in names if name.split("/")[0] in PACKAGES or "/" not in name]


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def places(path: Path, nodes: Iterator[ast.AST]) -> list[str]:
    return [f"{name_of(path)}:{getattr(node, 'lineno', 0)}" for node in nodes]


def test_imports_point_one_way(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A cycle cannot be understood a piece at a time; what a layer may use is written in pyproject.toml."""
    monkeypatch.chdir(ROOT)
    # It would switch off every logger there is, for the tests that follow too.
    monkeypatch.setattr("importlinter.cli._configure_logging", lambda *_: None)
    assert lint_imports(config_filename="pyproject.toml", no_cache=True) == 0, capsys.readouterr().out


def test_no_file_is_longer_than_one_reads_in_one_go() -> None:
    long = {name_of(path): lines for path in committed() if path.suffix == ".py" and (lines := _lines(path)) > LONGEST}
    assert long == {}


def _lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def test_imports_stand_at_the_top_but_for_marked_heavy_ones() -> None:
    """One inside a function hides a cycle or a cost. One that is meant says so: `# noqa: PLC0415` and why."""
    found = []
    for path in sources():
        lines = path.read_text(encoding="utf-8").splitlines()
        for function in ast.walk(parsed(path)):
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                inner = [node for node in ast.walk(function) if isinstance(node, ast.Import | ast.ImportFrom)]
                found += places(path, (node for node in inner if "noqa: PLC0415" not in lines[node.lineno - 1]))
    assert found == []


def test_queries_live_in_models() -> None:
    """There every one of them has a name, an owner and a test; elsewhere the next one forgets the owner."""
    found = []
    for path in sources():
        if name_of(path).startswith("models/"):
            continue
        imports = [node for node in ast.walk(parsed(path)) if isinstance(node, ast.ImportFrom)]
        found += places(
            path,
            (
                node
                for node in imports
                if (node.module or "").split(".")[0] in {"sqlalchemy", "sqlmodel"}
                and {alias.name for alias in node.names} & {"select", "update", "delete", "insert", "text", "func"}
            ),
        )
    assert found == []


def test_every_module_has_its_test() -> None:
    """Where one looks first. A module that is tested under another's name stands in the list above, with where."""
    tests = {name_of(path) for path in committed() if path.name.startswith("test_")}
    without = set()
    for path in sources():
        name = name_of(path).removesuffix(".py")
        folder, _, module = name.rpartition("/")
        if module != "__init__" and f"tests/{folder}/test_{module}.py".replace("//", "/") not in tests:
            without.add(name)
    assert without - set(TESTED_ELSEWHERE) == set(), "give it a test, or say here where it is tested"
    assert set(TESTED_ELSEWHERE) - without == set(), "it has a test of its own now: strike it out here"


def test_the_tests_that_are_named_there_exist() -> None:
    for told in TESTED_ELSEWHERE.values():
        for named in re.findall(r"(?:\w+/)?test_\w+", told):
            assert (ROOT / "tests" / f"{named}.py").exists(), named


def test_every_setting_says_what_it_is() -> None:
    """The table in docs/operations.md is made of these."""
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []


def test_the_environment_is_read_in_one_place() -> None:
    """`settings` reads it for the product, `serve` knows uvicorn's own variable; `wheel` hands it on to pip, and
    `postgres_tools` to pg_dump."""
    allowed = {"settings.py", "serve.py", "providers/wheel.py", "models/postgres_tools.py"}
    found = []
    for path in sources():
        if name_of(path) not in allowed:
            read = (node for node in ast.walk(parsed(path)) if _reads_environment(node))
            found += places(path, read)
    assert found == []


def _reads_environment(node: ast.AST) -> bool:
    return isinstance(node, ast.Attribute) and node.attr in {"environ", "environb", "getenv", "putenv"}


def test_only_the_command_line_prints() -> None:
    """A server's output is its log, which has levels and can be told to leave tokens out."""
    found = []
    for path in sources():
        if name_of(path) not in {"cli.py", "cli_reference.py"}:
            calls = (node for node in ast.walk(parsed(path)) if isinstance(node, ast.Call))
            found += places(
                path, (call for call in calls if isinstance(call.func, ast.Name) and call.func.id == "print")
            )
    assert found == []


def test_every_logger_follows_the_level() -> None:
    """One that does not warns where only errors were wanted, and is silent where everything was."""
    found = {
        name_of(path).removesuffix(".py").split("/")[0]
        for path in sources()
        if "logging.getLogger(__name__)" in path.read_text(encoding="utf-8")
    }
    assert found - set(OUR_LOGGERS) == set()


def texts() -> Iterator[tuple[str, str]]:
    for path in committed():
        try:
            yield name_of(path), path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue


def test_nothing_is_left_to_do_later() -> None:
    """A note in the code is found by nobody: it is an issue, or it is done."""
    mark = re.compile(r"\b(?:TO" + r"DO|FIX" + r"ME|XX" + r"X)\b")
    assert [name for name, text in texts() if not name.startswith("web/") and mark.search(text)] == []


def test_no_registry_is_named() -> None:
    """Whoever installs has an index of their own choice: a host in a lock file would go past it."""
    hosts = ["pypi" + ".org", "python" + "hosted.org", "npm" + "js.org", "npm" + "js.com", "yarn" + "pkg.com"]
    assert [name for name, text in texts() for host in hosts if host in text] == []


def test_the_tree_of_errors_is_as_it_is_drawn() -> None:
    """The drawing is what one reads; each leaf's code is what clients see."""
    drawn = set(re.findall(r"\b[A-Z][a-z]\w+\b", (errors.__doc__ or "").split("StartError")[0])) - {"Every"}
    classes = {kind.__name__: kind for kind in vars(errors).values() if _is_chat_error(kind)}
    assert set(classes) - drawn == set()
    for line in (errors.__doc__ or "").splitlines():
        if match := re.search(r"([A-Z][a-z]\w+) +([A-Z_]{5,})$", line):
            assert classes[match.group(1)].code == match.group(2)


def _is_chat_error(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, errors.ChatError)
