"""How a transfer is shown."""

import io
import logging
import sys

import pytest

from providers.progress import progress


def test_a_log_gets_a_line_at_each_quarter(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with progress("a model") as report:
        for done in range(0, 101, 5):
            report(done * 1_000_000, 100_000_000)
    assert caplog.messages == [f"Fetching a model: {percent}% of 100 MB" for percent in (0, 25, 50, 75, 100)]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_a_bar_that_goes_away(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    with progress("a model") as report:
        report(50_000_000, 100_000_000)
    assert "Fetching a model" in terminal.getvalue()
    assert "50.0/100.0 MB" in terminal.getvalue()
    assert terminal.getvalue().rstrip().endswith("\x1b[2K")
    assert not caplog.messages
