"""Puts the REST routes, their errors and the legacy socket on the application."""

from fastapi import FastAPI

from rest import auth, chat, conversations, errors, home, oauth, socket, stats


def mount(app: FastAPI) -> None:
    """Handlers find `services.Services` in `app.state.services`, which the lifespan sets."""
    for module in (home, auth, oauth, conversations, chat, stats, socket):
        app.include_router(module.router)
    errors.install(app)
