"""Files that are there whole or not at all."""

import stat
from pathlib import Path

import pytest

from models.new_file import new_file


def test_gets_its_name_at_the_end_for_its_owner_alone(tmp_path: Path) -> None:
    file = tmp_path / "file"
    with new_file(file) as part:
        part.write_text("whole")
        assert not file.exists()
    assert file.read_text() == "whole"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [file]


def test_leaves_what_was_there_when_the_block_raises_or_another_was_first(tmp_path: Path) -> None:
    file = tmp_path / "file"
    with pytest.raises(ZeroDivisionError), new_file(file):
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(FileExistsError), new_file(file):
        file.write_text("another's, meanwhile")
    assert file.read_text() == "another's, meanwhile"
    with pytest.raises(FileExistsError), new_file(file):
        pass
    with new_file(file, force=True) as part:
        part.write_text("mine")
    assert file.read_text() == "mine"
    assert list(tmp_path.iterdir()) == [file]
