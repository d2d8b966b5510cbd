"""Debian's nginx with deploy/nginx.conf, as an ordinary process on a free port."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.server import ROOT, Server, free_port

SITE = ROOT / "deploy" / "nginx.conf"
AROUND = """
pid {folder}/nginx.pid;
error_log {folder}/error.log info;
{user}
worker_processes 1;
events {{ worker_connections 512; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    include {folder}/site.conf;
}}
"""


def nginx_or_skip() -> str:
    for name in ("nginx", "/usr/sbin/nginx"):
        if found := shutil.which(name):
            return found
    if os.environ.get("CI"):
        pytest.fail("nginx is not here")
    pytest.skip("nginx is not here (Debian: apt install nginx-light)")


def site(port: int, backend: int) -> str:
    """The file as it is, but for where it listens and where the server is."""
    text = SITE.read_text(encoding="utf-8")
    for old, new in (
        ("listen 80;", f"listen 127.0.0.1:{port};"),
        ("    listen [::]:80;\n", ""),
        ("server 127.0.0.1:8000", f"server 127.0.0.1:{backend}"),
    ):
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return text


class Nginx(Server):
    """In front of a server: clients use it as if it were one."""

    def reload(self) -> None:
        """As `systemctl reload nginx` does; waits until the new workers serve."""
        before = self._workers()
        self.process.send_signal(signal.SIGHUP)
        deadline = time.monotonic() + 10
        while not self._workers() - before:
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.02)

    def _workers(self) -> set[str]:
        return set(re.findall(r"start worker process (\d+)", (self.data_dir / "error.log").read_text()))

    def log(self) -> str:
        return (self.data_dir / "error.log").read_text(errors="replace")


@contextmanager
def nginx(folder: Path, backend: Server) -> Iterator[Nginx]:
    program, port = nginx_or_skip(), free_port()
    folder.mkdir()
    user = "user root;" if os.geteuid() == 0 else ""
    (folder / "site.conf").write_text(site(port, backend.port), encoding="utf-8")
    (folder / "nginx.conf").write_text(AROUND.format(folder=folder, user=user), encoding="utf-8")
    command = [program, "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", str(folder / "error.log")]
    tried = subprocess.run([*command, "-t"], capture_output=True, text=True)
    assert tried.returncode == 0, tried.stderr
    assert "warn" not in tried.stderr, tried.stderr
    process = subprocess.Popen([*command, "-g", "daemon off;"])
    proxy = Nginx(process, port, folder)
    try:
        deadline = time.monotonic() + 10
        while True:
            try:
                httpx.get(proxy.url, timeout=5).raise_for_status()
                break
            except httpx.TransportError:
                assert time.monotonic() < deadline, proxy.log()
                time.sleep(0.02)
        yield proxy
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(10)
