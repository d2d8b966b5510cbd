"""The guide's name for app.py: `python main.py`, `uvicorn main:app`."""

import preflight  # noqa: F401

# isort: split

import sys

from fastapi import FastAPI

import app as root


def __getattr__(name: str) -> FastAPI:
    """`app`, made when uvicorn asks for it."""
    if name != "app":
        raise AttributeError(name)
    application: FastAPI = root.app
    return application


if __name__ == "__main__":
    sys.exit(root.main())
