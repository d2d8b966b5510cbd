"""PostgreSQL's own programs, pg_dump and pg_restore, as they are found on PATH."""

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from tempfile import TemporaryFile
from typing import IO
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit, urlunsplit

from models.address import PostgresAddress
from models.backup import BackupError

LIBPQ = frozenset(
    {
        "gsslib",
        "host",
        "krbsrvname",
        "options",
        "port",
        "sslcert",
        "sslcrl",
        "sslkey",
        "sslmode",
        "sslrootcert",
        "ssl_max_protocol_version",
        "ssl_min_protocol_version",
        "target_session_attrs",
        "user",
    }
)
"""What of an address is for the connection. All else in it is a setting of the server's session, for our statements."""
SECONDS = 10


def find(program: str, server_major: int | None = None) -> str:
    """The program's path; with `server_major`, one that can talk to such a server.

    Raises:
        BackupError: it is missing, or too old.
    """
    path = shutil.which(program)
    if path is None:
        raise BackupError(f"{program} is not on PATH; install PostgreSQL's client (Debian: postgresql-client)")
    said = subprocess.run([path, "--version"], check=False, capture_output=True, text=True, timeout=SECONDS)  # noqa: S603
    match = re.search(r"\(PostgreSQL\) (\d+)", said.stdout)
    if said.returncode or match is None:
        raise BackupError(f"{path} does not say its version")
    if server_major is not None and int(match[1]) < server_major:
        raise BackupError(
            f"{path} is of PostgreSQL {match[1]}, the server of {server_major}; "
            f"install postgresql-client-{server_major}, or put a newer one first on PATH"
        )
    return path


def connection_arguments(address: PostgresAddress) -> tuple[list[str], dict[str, str]]:
    """Arguments and environment for a program that connects. The password is not among the arguments, which every user
    of the machine can read."""
    parts = urlsplit(address.dsn)
    user, at, host = parts.netloc.rpartition("@")
    name, _, password = user.partition(":")
    query = dict(parse_qsl(parts.query))
    secret = unquote(password) or query.get("password", "")
    kept = {key: value for key, value in query.items() if key in LIBPQ} | {"application_name": "backup"}
    kept["connect_timeout"] = str(max(2, round(address.connect_timeout)))
    dsn = urlunsplit(("postgresql", f"{name}{at}{host}", parts.path, urlencode(kept), ""))
    return ["--dbname", dsn], os.environ | ({"PGPASSWORD": secret} if secret else {})


def run(command: list[str], environment: dict[str, str] | None, watch: Callable[[], None]) -> None:
    """Run to the end; `watch` is called twice a second.

    Raises:
        BackupError: it failed; says what it said.
    """
    with _started(command, environment) as (process, said):
        while True:
            try:
                process.wait(0.5)
            except subprocess.TimeoutExpired:
                watch()
            else:
                break
        _check(process, said)


@contextmanager
def output_of(command: list[str]) -> Iterator[IO[bytes]]:
    """What it writes. When the block ends well it has been read to the end.

    Raises:
        BackupError: it failed; says what it said.
    """
    with _started(command, None) as (process, said):
        assert process.stdout is not None
        try:
            yield process.stdout
        except BackupError:
            # What stops short has its reason there.
            process.wait(SECONDS)
            _check(process, said)
            raise
        process.wait(SECONDS)
        _check(process, said)


@contextmanager
def _started(
    command: list[str], environment: dict[str, str] | None
) -> Iterator[tuple[subprocess.Popen[bytes], IO[bytes]]]:
    with TemporaryFile() as said:
        process = subprocess.Popen(  # noqa: S603
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=said, env=environment, bufsize=1 << 20
        )
        try:
            yield process, said
        finally:
            if process.poll() is None:
                process.kill()
            assert process.stdout is not None
            process.stdout.close()
            process.wait()


def _check(process: subprocess.Popen[bytes], said: IO[bytes]) -> None:
    if process.returncode:
        said.seek(0)
        lines = said.read().decode(errors="replace").split("\n")
        told = [line for line in lines if "error:" in line] or [line for line in lines if line.strip()]
        ended = signal.strsignal(-process.returncode) if process.returncode < 0 else f"exit code {process.returncode}"
        raise BackupError(" ".join(told[0].split()) if told else str(ended))
