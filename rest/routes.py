"""Puts the REST routes, their errors and the legacy socket on the application."""

from typing import Any

from fastapi import FastAPI

from rest import auth, chat, conversations, errors, home, oauth, socket, stats

NO_HTTP: dict[int | str, dict[str, Any]] = {400: {"description": "No HTTP, or an address longer than 64 KiB"}}
"""What the server itself answers, before any route."""


def mount(app: FastAPI) -> None:
    """Handlers find `services.Services` in `app.state.services`, which the lifespan sets."""
    for module in (home, auth, oauth, conversations, chat, stats, socket):
        app.include_router(module.router, responses=NO_HTTP)
    errors.install(app)
