"""The locks and files of a data directory."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from providers.rendezvous import Discovery, Notice, Rendezvous, leave

FOUND = Discovery(pid=1, port=2, secret="s3cret", model="m", identity="x", slots=4, context=128, started=1.5)


@pytest.fixture
def place(tmp_path: Path) -> Rendezvous:
    return Rendezvous(tmp_path / "embedded")


def test_who_joined_lives_until_it_leaves(place: Rendezvous) -> None:
    first, second = place.join(), place.join()
    leave(first)
    assert place.anyone_lives()
    leave(second)
    assert not place.anyone_lives()
    assert not list(place.servers.iterdir())


def test_a_killed_process_does_not_live(place: Rendezvous) -> None:
    """Why: nothing runs in a process that gets SIGKILL. Its lock file stays; the lock does not."""
    code = "import os, sys; from pathlib import Path; from providers.rendezvous import Rendezvous;"
    code += "lock = Rendezvous(Path(sys.argv[1])).join(); os.abort()"
    subprocess.run(
        [sys.executable, "-c", code, str(place.root)], cwd=Path(__file__).parents[2], stderr=subprocess.DEVNULL
    )
    assert len(list(place.servers.iterdir())) == 1
    assert not place.anyone_lives()
    assert not list(place.servers.iterdir())


def test_one_owner_and_one_child(place: Rendezvous) -> None:
    life = place.join()
    assert not place.child_lives()
    owner, child = place.try_own(), place.try_be_child()
    assert owner is not None
    assert child is not None
    assert place.try_own() is None
    assert place.try_be_child() is None
    assert place.child_lives()
    child.release()
    assert not place.child_lives()
    owner.release()
    leave(life)


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX modes")
def test_what_is_written_is_read_and_is_private(place: Rendezvous) -> None:
    leave(place.join())
    place.announce(FOUND)
    place.post(Notice("because", passing=True))
    assert place.discover() == FOUND
    assert place.read_notice() == Notice("because", passing=True)
    assert {path.name for path in place.root.glob("*.json")} == {"server.json", "notice.json"}
    assert all(path.stat().st_mode & 0o077 == 0 for path in [place.root, *place.root.glob("*.json")])
    place.forget()
    place.forget()
    assert place.discover() is None


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"pid": 1}'])
def test_a_file_that_makes_no_sense_is_no_file(place: Rendezvous, content: str) -> None:
    leave(place.join())
    (place.root / "server.json").write_text(content)
    assert place.discover() is None
    assert os.path.lexists(place.root / "server.json")


def test_secrets_are_not_printed() -> None:
    assert "s3cret" not in repr(FOUND)
