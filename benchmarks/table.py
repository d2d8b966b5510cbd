"""What was measured, beside what is wanted and a reference of the same run."""

import os


class Table:
    def __init__(self) -> None:
        self._lines: list[str] = []

    def head(self, title: str, reference: str = "") -> None:
        """A new part; `reference` is what the figures are compared with."""
        ratio = "ratio" if reference else ""
        self._lines += ["", f"{title:<56}{'here':>11}  {'wanted':<9}{reference:>11}{ratio:>8}"]

    def row(self, name: str, value: float, wanted: str = "", reference: float | None = None) -> None:
        beside = "" if reference is None else f"{_figure(reference):>11}{_ratio(value, reference):>8}"
        self._lines.append(f"  {name:<54}{_figure(value):>11}  {wanted:<9}{beside}".rstrip())

    def __str__(self) -> str:
        load = " ".join(f"{part:.1f}" for part in os.getloadavg())
        return "\n".join([*self._lines, "", f"{os.cpu_count()} cores, load average {load} (1, 5, 15 minutes)"])


def _figure(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1_000 or value == int(value) else f"{value:,.2f}"


def _ratio(value: float, reference: float) -> str:
    return "" if not reference else f"{value / reference:.2f}"
