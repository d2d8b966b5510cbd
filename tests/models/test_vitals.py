"""Who has certainly ended: never one that lives, whatever else is wrong."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from models.vitals import Vitals

HOLD = """
import sys
from pathlib import Path
from models.vitals import Vitals
vitals = Vitals(Path(sys.argv[1]))
vitals.hold("theirs")
print("held", flush=True)
sys.stdin.read()
"""


def test_a_killed_process_is_gone_at_once_and_a_stopped_one_is_not(tmp_path: Path) -> None:
    folder = tmp_path / "chat.db.workers"
    mine = Vitals(folder)
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        assert mine.look(["theirs"]) == ([], ["theirs"])
        process.send_signal(signal.SIGSTOP)
        assert mine.look(["theirs"]) == ([], ["theirs"])
        process.kill()
        process.wait()
        assert mine.look(["theirs"]) == (["theirs"], [])
    mine.bury(["theirs"])
    assert mine.look(["theirs"]).gone == mine.look(["theirs"]).there == []


def test_oneself_and_those_of_whom_nothing_is_known_are_not_gone(tmp_path: Path) -> None:
    """Another object in the same process is somebody else: the locks are the open files', not the process's."""
    mine, other = Vitals(tmp_path / "workers"), Vitals(tmp_path / "workers")
    mine.hold("me")
    assert mine.look(["me", "unknown"]).gone == other.look(["me", "unknown"]).gone == []
    assert mine.look(["me", "unknown"]).there == other.look(["me", "unknown"]).there == ["me"]
    assert sorted(path.name for path in (tmp_path / "workers").iterdir()) == ["me"]
    mine.release("me")
    assert list((tmp_path / "workers").iterdir()) == []
    assert other.look(["me"]).gone == []


def test_where_nothing_can_be_locked_the_lease_decides(tmp_path: Path) -> None:
    (tmp_path / "a file").write_text("")
    for vitals in (Vitals(), Vitals(tmp_path / "a file"), Vitals(tmp_path / "no" / "such")):
        vitals.hold("me")
        assert vitals.look(["me", "other"]).gone == vitals.look(["me", "other"]).there == []
        vitals.bury(["other"])
        vitals.release("me")
