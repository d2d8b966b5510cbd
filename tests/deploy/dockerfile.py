"""The Dockerfile, read: its stages with their steps, and what of the project `COPY . .` would take."""

from __future__ import annotations

import fnmatch
import json
import re
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from tests.server import ROOT


@dataclass
class Stage:
    """`steps`: instruction and what stands behind it, in order."""

    base: str
    name: str
    steps: list[tuple[str, str]] = field(default_factory=list)

    def last(self, instruction: str) -> str:
        return [text for name, text in self.steps if name == instruction][-1]

    def command(self, instruction: str) -> list[str]:
        """In the form that starts no shell."""
        command: list[str] = json.loads("[" + self.last(instruction).partition("[")[2])
        return command


def stages() -> list[Stage]:
    found: list[Stage] = []
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    for line in re.sub(r"\\\n\s*", "", text).splitlines():
        instruction, _, rest = line.partition(" ")
        if instruction == "FROM":
            base, _, name = rest.partition(" AS ")
            found.append(Stage(base, name))
        elif instruction:
            found[-1].steps.append((instruction, rest))
    return found


def ignored(name: str) -> bool:
    """Whether .dockerignore leaves this file of the project out."""
    parts = name.split("/")
    paths = ["/".join(parts[: count + 1]) for count in range(len(parts))]
    for pattern in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines():
        if not pattern or pattern.startswith("#"):
            continue
        anywhere = pattern.removeprefix("**/")
        for path in paths:
            if fnmatch.fnmatch(path if anywhere == pattern else path.rpartition("/")[2], anywhere):
                return True
    return False


def context() -> list[str]:
    """The files that the image is built from: those that are, or are about to be, committed."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    return [name for name in names if (ROOT / name).is_file() and not ignored(name)]


def copy_into(folder: Path) -> None:
    for name in context():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((ROOT / name).read_bytes())
