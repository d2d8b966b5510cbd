"""Providers of identities on this machine: the published `oidc-provider-mock` as a process of its own for Google, and
for GitHub, which publishes none, its authorization page, token endpoint and the two API routes that sign-in needs."""

from __future__ import annotations

import json
import secrets
import subprocess
import sys
import threading
import time
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx

from tests.server import free_port

START_SECONDS = 30
CLIENT_ID, CLIENT_SECRET = "studio", "a client secret for tests"


@contextmanager
def identity_server() -> Iterator[str]:
    """The address of an OpenID provider, which knows every client and whoever is made known by `know`."""
    port = free_port()
    command = [sys.executable, "-m", "oidc_provider_mock", "--port", str(port), "--require-nonce"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            try:
                httpx.get(f"{address}/.well-known/openid-configuration", timeout=5).raise_for_status()
                break
            except httpx.HTTPError:
                assert process.poll() is None, "the identity server has ended"
                time.sleep(0.05)
        yield address
    finally:
        process.kill()
        process.wait()


def know(address: str, subject: str, **claims: object) -> None:
    """Let the identity server know a person, with these claims."""
    httpx.put(f"{address}/users/{subject}", json=claims, timeout=30).raise_for_status()


def consent(url: str, subject: str | None) -> str:
    """Sign in at the identity server's page as this person, or refuse (None): where the browser is sent to."""
    form = {"action": "deny"} if subject is None else {"sub": subject}
    answer = httpx.post(url, data=form, timeout=30)
    assert answer.status_code == 302, answer.text
    back = answer.headers["location"]
    # A refusal has to bring the state back (RFC 6749, 4.1.2.1), which this server forgets.
    return back if subject is not None else f"{back}&{urlencode({'state': parse_qs(urlsplit(url).query)['state'][0]})}"


@dataclass
class Grant:
    challenge: str
    redirect: str
    user: dict[str, Any]


@dataclass
class GitHubFake:
    """`user` is who signs in next, `emails` their addresses. `trouble` names what goes wrong next, and where."""

    user: dict[str, Any] = field(default_factory=lambda: {"id": 1, "login": "octocat"})
    emails: list[dict[str, Any]] = field(default_factory=list)
    trouble: str = ""
    address: str = ""
    grants: dict[str, Grant] = field(default_factory=dict)
    tokens: dict[str, dict[str, Any]] = field(default_factory=dict)

    def becomes(self, number: int, login: str, email: str, *, verified: bool = True) -> None:
        self.user = {"id": number, "login": login}
        other = {"email": f"other-{email}", "verified": True, "primary": False}
        self.emails = [other, {"email": email, "verified": verified, "primary": True}]

    def consent(self, url: str) -> str:
        """Go to its page and say yes: the address that the browser is sent to."""
        answer = httpx.get(url, timeout=30)
        assert answer.status_code == 302, answer.text
        return answer.headers["location"]


class _Handler(BaseHTTPRequestHandler):
    fake: ClassVar[GitHubFake]

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""

    def _answer(self, status: int, body: bytes, kind: str = "application/json", **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def _json(self, content: object, status: int = 200) -> None:
        self._answer(status, json.dumps(content).encode())

    def _troubled(self, place: str) -> bool:
        """Whether something goes wrong here."""
        match self.fake.trouble.partition(" ")[::2]:
            case ("page", where) if where == place:
                self._answer(200, b"<html>We are having a unicorn moment</html>", "text/html")
            case ("broken", where) if where == place:
                self._answer(503, b"<html>Unicorn!</html>", "text/html")
            case ("cut", where) if where == place:
                self.send_response(200)
                self.send_header("Content-Length", "1000")
                self.end_headers()
                self.wfile.write(b'{"access')
                self.close_connection = True
            case ("endless", where) if where == place:
                self.send_response(200)
                self.end_headers()
                for _ in range(100):
                    self.wfile.write(b" " * 65536)
            case ("odd", where) if where == place:
                self._json({"id": "not a number", "login": "octocat"})
            case ("deep", where) if where == place:
                self._answer(200, b"[" * 100_000)
            case _:
                return False
        return True

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        if parts.path == "/login/oauth/authorize":
            self._authorize({name: values[0] for name, values in parse_qs(parts.query).items()})
            return
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token not in self.fake.tokens:
            self._json({"message": "Bad credentials"}, 401)
        elif parts.path == "/user" and not self._troubled("user"):
            self._json(self.fake.tokens[token])
        elif parts.path == "/user/emails" and not self._troubled("emails"):
            self._json(self.fake.emails)

    def _authorize(self, asked: dict[str, str]) -> None:
        assert asked["client_id"] == CLIENT_ID
        assert asked["code_challenge_method"] == "S256"
        assert "user:email" in asked["scope"].split()
        if self.fake.trouble == "denied":
            back = {
                "error": "access_denied",
                "error_description": "denied",
                "state": asked["state"],
            }
        else:
            code = secrets.token_hex(10)
            self.fake.grants[code] = Grant(asked["code_challenge"], asked["redirect_uri"], self.fake.user)
            back = {"code": code, "state": asked["state"]}
        self._answer(302, b"", Location=f"{asked['redirect_uri']}?{urlencode(back)}")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        if self.path != "/login/oauth/access_token":
            self._json({"message": "Not Found"}, 404)
        elif not self._troubled("token"):
            self._token({name: values[0] for name, values in parse_qs(body).items()})

    def _token(self, asked: dict[str, str]) -> None:
        assert self.headers["Accept"] == "application/json", "GitHub answers a form otherwise"
        if (asked.get("client_id"), asked.get("client_secret")) != (CLIENT_ID, CLIENT_SECRET):
            self._json({"error": "incorrect_client_credentials", "error_description": "…"})
            return
        grant = self.fake.grants.pop(asked.get("code", ""), None)
        answer = urlsafe_b64encode(sha256(asked.get("code_verifier", "").encode()).digest()).decode().rstrip("=")
        if grant is None or answer != grant.challenge or asked.get("redirect_uri") != grant.redirect:
            # GitHub says 200 to this.
            self._json({"error": "bad_verification_code", "error_description": "The code passed is incorrect"})
            return
        token = f"gho_{secrets.token_hex(18)}"
        self.fake.tokens[token] = grant.user
        self._json({"access_token": token, "token_type": "bearer", "scope": "read:user,user:email"})


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that go away are expected here."""


@contextmanager
def github_server() -> Iterator[GitHubFake]:
    fake = GitHubFake()
    handler = type("Handler", (_Handler,), {"fake": fake})
    server = _Server(("127.0.0.1", 0), handler)
    fake.address = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, name="github", daemon=True).start()
    try:
        yield fake
    finally:
        server.shutdown()
        server.server_close()
