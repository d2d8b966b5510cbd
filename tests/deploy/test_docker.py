"""Dockerfile and docker-compose.yml, as far as they can be tried where there is no Docker: what would be copied serves
by the command that would be run; with `-m soak` the steps are carried out too, in an empty place."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import jsonschema_rs
import pytest
import yaml

from tests.conftest import StartServer, register_on
from tests.deploy.dockerfile import context, copy_into, ignored, stages
from tests.server import ROOT, running

COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
SERVICES: dict[str, Any] = COMPOSE["services"]
FINAL = stages()[-1]


class TestDockerfile:
    def test_is_the_guides_and_nobody_is_root_in_it(self) -> None:
        assert FINAL.base == "python:3.11-slim"
        assert FINAL.last("USER").isdigit()
        assert FINAL.last("USER") != "0"
        assert FINAL.last("EXPOSE") == "8000"
        assert FINAL.command("CMD") == ["python", "app.py"]

    def test_copies_only_what_is_there(self) -> None:
        """Each source is a file of the project that is not left out, or comes from a stage before."""
        names = {stage.name for stage in stages()}
        files = context()
        for stage in stages():
            for text in (text for instruction, text in stage.steps if instruction == "COPY"):
                if match := re.match(r"--from=(\w+) ", text):
                    assert match[1] in names
                    continue
                for source in text.split()[:-1]:
                    folder = "" if source == "." else f"{source}/"
                    assert source in files or any(name.startswith(folder) for name in files), source

    @pytest.mark.parametrize(
        "name", [".env", ".env.local", ".git/config", "data/chat.db", "data/secret.key", ".venv/x"]
    )
    def test_leaves_out_what_is_nobodys_business(self, name: str) -> None:
        """What is once in a layer of an image stays there, and goes where the image goes."""
        assert ignored(name)

    def test_leaves_out_no_module_of_the_product(self) -> None:
        for name in ("app.py", "graph/schema.py", "migrations/versions/0001_first_tables.py", "deploy/healthcheck.py"):
            assert name in context()
        assert not [name for name in context() if name.startswith(("tests/", "benchmarks/", "docs/"))]

    def test_what_is_copied_serves_and_is_not_written_to(self, tmp_path: Path) -> None:
        """By CMD, found healthy by HEALTHCHECK, with nothing writable but the volume: compose mounts it read-only."""
        app, data = tmp_path / "app", tmp_path / "data"
        copy_into(app)
        before = listing(app)
        command = ["sh", "-c", f'cd {app} && exec "{sys.executable}" {" ".join(FINAL.command("CMD")[1:])}']
        hosts = {"ALLOWED_HOSTS": "*.example.org,chat.example.com,127.0.0.1"}
        with running(data, command, **hosts) as server:
            check = [sys.executable, *FINAL.command("HEALTHCHECK")[1:]]
            environment = {"PORT": str(server.port), **hosts}
            done = subprocess.run(check, cwd=app, env=environment, capture_output=True, text=True, timeout=10)
            assert (done.returncode, done.stdout[:4]) == (0, "200:"), done
        done = subprocess.run(check, cwd=app, env=environment, capture_output=True, text=True, timeout=10)
        assert (done.returncode, done.stdout[:9]) == (1, "no answer")
        assert listing(app) == before

    @pytest.mark.soak
    def test_its_steps_carried_out_give_an_image_that_serves(self, tmp_path: Path, start_server: StartServer) -> None:
        """All but what apt installs: a new virtual environment from the locked requirements, GraphiQL from its own."""
        places = {"/venv": tmp_path / "venv", "/web": tmp_path / "web", "/build": tmp_path / "build"}
        places |= {"/app": tmp_path / "app"}
        for stage in stages():
            where = tmp_path
            for instruction, text in stage.steps:
                if instruction == "WORKDIR":
                    where = places[text]
                    where.mkdir(exist_ok=True)
                elif instruction == "COPY" and not text.startswith("--from"):
                    copy_step(text, where)
                elif instruction == "RUN" and "apt-get" not in text:
                    subprocess.run(["sh", "-ec", mapped(text, places)], cwd=where, check=True, timeout=900)
        shutil.copytree(places["/web"] / "dist", places["/app"] / "web" / "dist")
        command = f"cd {places['/app']} && exec {places['/venv']}/bin/python app.py"
        server = start_server(command=["sh", "-c", command])
        assert "graphiql" in httpx.get(f"{server.url}/graphql", headers={"Accept": "text/html"}).text.lower()
        register_on(server)


def listing(folder: Path) -> set[str]:
    return {str(path) for path in folder.rglob("*") if "__pycache__" not in path.parts}


def copy_step(text: str, where: Path) -> None:
    *sources, _ = text.split()
    for source in sources:
        if source == ".":
            copy_into(where)
        elif (ROOT / source).is_file():
            shutil.copy(ROOT / source, where)
        else:
            for name in (name for name in context() if name.startswith(f"{source}/")):
                target = where / name.removeprefix(f"{source}/")
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, target)


def mapped(command: str, places: dict[str, Path]) -> str:
    for place, path in places.items():
        command = re.sub(rf"(?<!\S){place}(?=[/\s]|$)", str(path), command)
    return command


class TestCompose:
    def test_is_a_compose_file(self) -> None:
        """By the specification's own schema (compose-spec.json, Apache-2.0)."""
        schema = json.loads((ROOT / "tests" / "deploy" / "compose-spec.json").read_text(encoding="utf-8"))
        assert [error.message for error in jsonschema_rs.validator_for(schema).iter_errors(COMPOSE)] == []

    def test_has_the_guides_three_services_and_its_volume(self) -> None:
        assert set(SERVICES) == {"backend", "redis", "postgres"}
        assert SERVICES["redis"]["image"] == "redis:7-alpine"
        assert SERVICES["postgres"]["image"] == "postgres:15-alpine"
        assert SERVICES["postgres"]["volumes"] == ["postgres_data:/var/lib/postgresql/data"]
        assert SERVICES["backend"]["ports"] == ["${PORT:-8000}:8000"]

    def test_finds_its_database_inside_whatever_env_says(self) -> None:
        """The guide's .env says localhost, which inside is the backend itself."""
        values = SERVICES["backend"]["environment"]
        assert "@postgres:5432/chatdb" in values["DATABASE_URL"]
        assert values["REDIS_URL"] == "redis://redis:6379/0"
        assert values["PORT"] == FINAL.last("EXPOSE")
        assert values["DATA_DIR"] == FINAL.last("VOLUME")

    def test_does_not_start_without_its_secrets(self) -> None:
        """An empty password would be one."""
        text = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
        for name in ("SECRET_KEY", "DB_PASSWORD"):
            uses = re.findall(rf"\$\{{{name}(.*?)\}}", text)
            assert uses
            assert all(use.startswith(":?") for use in uses)

    def test_publishes_neither_database(self) -> None:
        """The guide does: Redis without a password on every address of the machine is the attackers' machine."""
        assert [name for name, service in SERVICES.items() if "ports" in service] == ["backend"]

    def test_waits_for_what_it_needs(self) -> None:
        for name, how in SERVICES["backend"]["depends_on"].items():
            assert how == {"condition": "service_healthy"}
            assert "test" in SERVICES[name]["healthcheck"]

    def test_postgres_takes_the_connections_of_the_guides_four_workers(self) -> None:
        command = SERVICES["postgres"]["command"]
        assert int(command[-1].partition("=")[2]) > 4 * (20 + 40 + 3)


def test_no_value_in_the_environment_example_has_a_comment_behind_it() -> None:
    """systemd, and some versions of Compose, take it for a part of the value."""
    lines = (ROOT / ".env.example").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if re.match(r"^(# )?[A-Z_]+=.* #", line)] == []
