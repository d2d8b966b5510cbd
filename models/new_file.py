"""Files that are there whole or not at all, and for their owner alone."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

EXISTS = "it exists; --force overwrites it"


@contextmanager
def new_file(path: Path, *, force: bool = False) -> Iterator[Path]:
    """An empty file (mode 0600) to be filled, which gets the name `path` when the block ends well and is on the disk.
    When the block raises, nothing is left and what was there stays.

    Raises:
        FileExistsError: there is something of that name, and not `force`; or it is no plain file.
        OSError: it cannot be written there.
    """
    if path.exists() and not (force and path.is_file()):
        raise FileExistsError(EXISTS if path.is_file() else "it is not a plain file")
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    os.close(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    try:
        yield part
        sync(part)
        _name(part, path, force)
        sync(path.parent)
    finally:
        part.unlink(missing_ok=True)


def _name(part: Path, path: Path, force: bool) -> None:
    if not force:
        try:
            # A link, not a rename: a file of that name that came meanwhile stays.
            os.link(part, path)
        except FileExistsError:
            raise FileExistsError(EXISTS) from None
        except OSError:
            pass  # not every file system has links
        else:
            return
    part.replace(path)


def sync(path: Path) -> None:
    """Have what was written to this file or directory on the disk, where the system can."""
    with suppress(PermissionError):  # Windows does not open directories
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
