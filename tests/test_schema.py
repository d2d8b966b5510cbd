"""schema.graphql, and what a change of it does to clients."""

from pathlib import Path

import pytest

import cli
import cli_reference
from graph.changes import breaking_changes
from tests.server import ROOT


def test_the_committed_file_is_what_the_code_says(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["schema"]) == 0
    assert capsys.readouterr().out == (ROOT / "schema.graphql").read_text(encoding="utf-8")
    assert cli.main(["schema", "--check"]) == 0


def test_a_check_says_what_breaks_clients(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    committed = (ROOT / "schema.graphql").read_text(encoding="utf-8")
    stored = tmp_path / "schema.graphql"
    stored.write_text(committed.replace("type Query {", "type Query {\n  gone: Int\n", 1), encoding="utf-8")
    monkeypatch.setattr(cli_reference, "SCHEMA_FILE", stored)
    assert cli.main(["schema", "--check"]) == 1
    told = capsys.readouterr().err
    assert "BREAKING: " in told
    assert "gone" in told


def test_only_what_takes_away_breaks() -> None:
    small, large = "type Query { a: Int }", "type Query { a: Int b(c: Int): Int }"
    assert list(breaking_changes(small, large)) == []
    assert len(list(breaking_changes(large, small))) == 1
