"""`python cli.py models …` in its own process, against a hub over real sockets that breaks as it is told to."""

import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from providers.weights import CATALOGUE
from tests.conftest import StartServer, wait_for_model
from tests.providers.ggufs import gguf
from tests.providers.hub import CONTENT, TINY, FakeHub, Manner, left, serving
from tests.server import MODELS_DIR, ROOT, environment

HALF = len(CONTENT) // 2
SUMMARY = "tiny {verb}: {path} (0 MB)\n"


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with serving() as fake:
        yield fake


@pytest.fixture
def models(tmp_path: Path) -> Path:
    return tmp_path / "models"


class Command:
    def __init__(self, tmp_path: Path, models: Path, hub: FakeHub) -> None:
        self.base = [sys.executable, "-m", "tests.tiny_cli", str(TINY.bytes), TINY.sha256, "models"]
        self.environment = environment(
            tmp_path / "data", 8000, MODELS_DIR=str(models), HF_ENDPOINT=f"{hub.url}/", TERM="xterm", COLUMNS="120"
        )

    def start(self, *arguments: str, **settings: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [*self.base, *arguments],
            cwd=ROOT,
            env=self.environment | settings,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __call__(self, *arguments: str, **settings: str) -> tuple[int, str, str]:
        """Exit code, output, errors."""
        with self.start(*arguments, **settings) as process:
            output, errors = process.communicate(timeout=60)
            return process.returncode, output, errors

    def on_terminal(self, *arguments: str) -> str:
        """What someone sees."""
        master, slave = pty.openpty()
        with subprocess.Popen(
            [*self.base, *arguments], cwd=ROOT, env=self.environment, stdout=slave, stderr=slave
        ) as process:
            os.close(slave)
            seen = b""
            try:
                while data := os.read(master, 65536):
                    seen += data
            except OSError:  # Linux says so at the end
                pass
            os.close(master)
        assert process.returncode == 0
        return seen.decode()


@pytest.fixture
def command(tmp_path: Path, models: Path, hub: FakeHub) -> Command:
    return Command(tmp_path, models, hub)


def test_list_is_tab_separated_where_nobody_looks(command: Command, models: Path) -> None:
    models.mkdir()
    (models / "mine\there.gguf").write_bytes(gguf({"general.architecture": "x", "general.languages": ["fr"]}))
    (models / "tiny.gguf.part").write_bytes(b"x" * HALF)
    code, output, errors = command("list", LOCAL_MODEL="tiny.gguf")
    head, *lines = output.splitlines()
    assert (code, errors) == (0, "")
    assert head == "name\tlanguages\tsize\tstate\tchosen"
    rows = {line.split("\t")[0]: line.split("\t")[1:] for line in lines}
    assert list(rows) == [*CATALOGUE, "tiny", "mine?here"]
    assert rows["qwen3-0.6b"] == ["zh, en", "639446688", "absent", ""]
    assert rows["tiny"] == ["en", str(len(CONTENT)), "absent, 50% fetched", "yes"]
    assert rows["mine?here"][0] == "fr"
    assert rows["mine?here"][2:] == ["present", ""]


def test_list_is_a_table_for_eyes(command: Command, models: Path) -> None:
    models.mkdir()
    (models / "[red]mine.gguf").write_bytes(b"no model")
    seen = command.on_terminal("list")
    assert "┏━" in seen
    assert "[red]mine" in seen
    assert "damaged" in seen
    assert "1,117 MB" in seen
    assert str(models)[:40] in seen
    [chosen] = [line for line in seen.splitlines() if "│ yes" in line]
    assert "smollm2-135m-instruct" in chosen


def test_list_says_that_the_chosen_one_is_not_there(command: Command) -> None:
    code, output, errors = command("list", LOCAL_MODEL="gpt-9")
    assert code == 0
    assert errors.startswith("LOCAL_MODEL: there is no model 'gpt-9'; there are smollm2-135m-instruct, ")
    assert "\tyes" not in output
    assert "\tyes" not in command("list", EMBEDDED_MODEL="off")[1]


def test_pull_fetches_and_says_where_it_is(command: Command, models: Path) -> None:
    code, output, errors = command("pull", "tiny")
    assert (code, output) == (0, SUMMARY.format(verb="fetched", path=models / "tiny.gguf"))
    lines = errors.splitlines()
    assert lines[-1] == "Fetching tiny: 100% of 0 MB"
    assert all(line.startswith("Fetching tiny: ") for line in lines)
    assert (models / "tiny.gguf").read_bytes() == CONTENT
    assert command("pull", "tiny") == (0, SUMMARY.format(verb="was there already", path=models / "tiny.gguf"), "")
    assert "present" in command("list")[1]


def test_pull_draws_a_bar_for_eyes(command: Command, hub: FakeHub) -> None:
    hub.manner = Manner(cut=HALF)
    seen = command.on_terminal("pull", "tiny")
    assert "Fetching tiny" in seen
    assert "━" in seen
    assert "fetched: " in seen


def test_pull_of_no_such_model(command: Command) -> None:
    code, output, errors = command("pull", "gpt-9")
    assert (code, output) == (2, "")
    assert errors == f"there is no model 'gpt-9' to fetch; there are {', '.join(CATALOGUE)}, tiny\n"


@pytest.mark.parametrize(
    ("manner", "why"),
    [
        (Manner(status=404), "127.0.0.1 does not send the file (404)"),
        (Manner(content=CONTENT[::-1]), "what 127.0.0.1 sent is not the file we know (SHA-256 "),
        (Manner(content=CONTENT[:10]), "what 127.0.0.1 sent is not the file we know (10 bytes)"),
    ],
)
def test_a_pull_that_fails_is_one_line(command: Command, hub: FakeHub, models: Path, manner: Manner, why: str) -> None:
    hub.manner = manner
    code, output, errors = command("pull", "tiny")
    assert (code, output) == (1, "")
    assert errors.splitlines()[-1].startswith(f"tiny could not be fetched: {why}")
    assert "Traceback" not in errors
    assert left(models) == set()


def test_a_directory_that_cannot_be_made(command: Command, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    code, _, errors = command("pull", "tiny", MODELS_DIR=str(tmp_path / "file" / "models"))
    assert code == 1
    assert errors == "tiny could not be fetched: Not a directory\n"


def test_a_damaged_file_is_only_replaced_by_force(command: Command, models: Path) -> None:
    models.mkdir()
    (models / "tiny.gguf").write_bytes(b"damaged")
    code, _, errors = command("pull", "tiny")
    assert code == 1
    assert errors.startswith("The model file tiny.gguf is damaged (7 bytes): delete it and start again, or say --force")
    assert errors.count("\n") == 1
    code, output, _ = command("pull", "tiny", "--force")
    assert (code, output) == (0, SUMMARY.format(verb="replaced", path=models / "tiny.gguf"))


def test_a_local_copy_needs_no_hub(command: Command, hub: FakeHub, tmp_path: Path) -> None:
    (tmp_path / "tiny.gguf").write_bytes(CONTENT)
    code, output, _ = command("pull", "tiny", "--from", str(tmp_path))
    assert code == 0
    assert "tiny fetched" in output
    assert not hub.asked


@pytest.mark.skipif(sys.platform == "win32", reason="signals as POSIX has them")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_and_said_again_it_goes_on(
    command: Command, hub: FakeHub, models: Path, number: signal.Signals
) -> None:
    hub.script = [Manner(stall=HALF)]
    with command.start("pull", "tiny") as process:
        part = models / "tiny.gguf.part"
        while not part.exists() or part.stat().st_size < HALF - 65536:  # the rest may be in a buffer
            assert process.poll() is None
            time.sleep(0.02)
        time.sleep(0.2)
        process.send_signal(number)
        output, errors = process.communicate(timeout=20)
    assert (process.returncode, output) == (130, "")
    assert errors.splitlines()[-1] == "stopped; say it again to go on"
    assert "Traceback" not in errors
    assert command("pull", "tiny")[0] == 0
    assert hub.ranges[0] is None
    assert (hub.ranges[1] or "").startswith("bytes=")
    assert left(models) == {"tiny.gguf"}


@pytest.mark.skipif(sys.platform == "win32", reason="kills as POSIX does")
def test_killed_and_said_again_it_goes_on(command: Command, hub: FakeHub, models: Path) -> None:
    hub.script = [Manner(stall=HALF)]
    with command.start("pull", "tiny") as process:
        while not (models / "tiny.gguf.part").exists() or (models / "tiny.gguf.part").stat().st_size < 65536:
            time.sleep(0.02)
        process.kill()
    kept = (models / "tiny.gguf.part").stat().st_size
    assert command("pull", "tiny")[0] == 0
    assert hub.ranges[1] == f"bytes={kept}-"
    assert left(models) == {"tiny.gguf"}


def test_two_pulls_at_once_are_one_download(command: Command, hub: FakeHub, models: Path) -> None:
    hub.script = [Manner(stall=HALF, cut=HALF)]
    with command.start("pull", "tiny") as first:
        assert hub.stalled.wait(30)
        with command.start("pull", "tiny") as second:
            assert second.stderr is not None
            assert second.stderr.readline() == "Another process is fetching a model: waiting for it\n"
            hub.release.set()
            for process in (first, second):
                output, _ = process.communicate(timeout=30)
                assert (process.returncode, output) == (0, SUMMARY.format(verb="fetched", path=models / "tiny.gguf"))
    assert hub.ranges == [None, f"bytes={HALF}-"]


def small_disk(folder: Path, size: int, *command: str) -> list[str]:
    """A command that sees a disk of so many bytes at `folder`, and nobody else does."""
    mount = 'mount -t tmpfs -o size=$0 tmpfs "$1" && shift && exec "$@"'
    return ["unshare", "-rm", "sh", "-c", mount, str(size), str(folder), *command]


@pytest.fixture
def disks(models: Path) -> None:
    models.mkdir()
    try:
        possible = subprocess.run(small_disk(models, 1 << 16, "true"), capture_output=True).returncode == 0
    except OSError:
        possible = False
    if not possible:
        pytest.skip("no small disk can be mounted here")


def test_a_disk_that_is_too_small_is_known_before(command: Command, hub: FakeHub, models: Path, disks: None) -> None:
    command.base = small_disk(models, 200 << 10, *command.base)
    code, _, errors = command("pull", "tiny")
    assert (code, errors) == (1, "tiny could not be fetched: the disk is full (0 MB are needed, 0 MB are free)\n")


def test_a_disk_that_fills_up_meanwhile(command: Command, hub: FakeHub, models: Path, disks: None) -> None:
    """Another program takes the room. Nothing half-finished stands under the model's name."""
    fill = f'"$0" "$@" & while ! test -s {models}/tiny.gguf.part; do sleep 0.1; done; '
    fill += f"head -c 1M /dev/zero > {models}/other; touch {models}.filled; wait $!; code=$?; ls {models}; exit $code"
    command.base = small_disk(models, 400 << 10, "sh", "-c", fill, *command.base)
    hub.script = [Manner(stall=HALF, cut=HALF)]
    with command.start("pull", "tiny") as process:
        while not Path(f"{models}.filled").exists():
            assert process.poll() is None
            time.sleep(0.05)
        hub.release.set()
        output, errors = process.communicate(timeout=30)
    assert process.returncode == 1
    assert errors.splitlines()[-1].startswith("tiny could not be fetched: the disk is full")
    assert set(output.split()) == {"other", "tiny.gguf.part", "tiny.gguf.part.json"}


def test_a_server_answers_with_the_model_that_local_model_names(start_server: StartServer, tmp_path: Path) -> None:
    weights = CATALOGUE["smollm2-135m-instruct"]
    first = start_server(EMBEDDED_MODEL="true")
    wait_for_model(first)
    first.stop()
    (tmp_path / "mine.gguf").symlink_to(MODELS_DIR / weights.file)
    for name in ("mine", str(tmp_path / "mine.gguf")):
        server = start_server(EMBEDDED_MODEL="true", LOCAL_MODEL=name, MODELS_DIR=str(tmp_path))
        wait_for_model(server)
        assert "🤖 Model: mine" in server.log()
        server.stop()


def test_a_wrong_local_model_stops_the_start_with_one_line(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "app.py"],
        cwd=ROOT,
        env=environment(tmp_path, 0, LOCAL_MODEL="gpt-9", MODELS_DIR=str(tmp_path / "models"), PORT="18431"),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    told = [line for line in done.stderr.splitlines() if "LOCAL_MODEL" in line]
    assert len(told) == 1
    assert told[0].endswith(f"there is no model 'gpt-9'; there are {', '.join(CATALOGUE)}")
    assert "Traceback" not in done.stderr
