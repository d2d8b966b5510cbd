"""`python cli.py chat [MESSAGE]`: an answer in the terminal, as it is written. No server needs to run, and one may.

Stands in the place of a guest: nothing is stored, nobody's usage counts. In a terminal the conversation goes on until
Ctrl-D; a message on the command line or from a pipe is answered once.
"""

import asyncio
import logging
import sys
import threading
import time
from argparse import ArgumentParser, Namespace
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing

import app
from chat.chats import StatelessChat
from chat.events import RunAttemptFailed, RunFinished, RunReasoningDelta, RunTextDelta
from chat.inputs import clean_model
from errors import ChatError, StartError
from models.run import RunStatus
from providers.base import Role, Turn
from services import Services
from settings import Settings, load_settings

FAILED = 1
REMEMBERED = 100
"""Turns of the conversation that are sent again; the model's window holds fewer."""
PATIENCE = 20.0
"""Seconds in which a model that is being fetched or loaded has to get on."""
DIM, PLAIN = "\x1b[2m", "\x1b[0m"


def add_arguments(command: ArgumentParser) -> None:
    command.add_argument(
        "message", metavar="MESSAGE", nargs="*", help="what to ask; without it: the terminal, or a pipe"
    )
    command.add_argument("--model", help="who is asked (default: the server's)")
    command.add_argument("--max-tokens", type=int, metavar="N", help="longest answer")


def run(arguments: Namespace) -> int:
    """0, or FAILED: the only answer, or the last one, did not come to its end. Raises StartError."""
    settings = load_settings()
    question = " ".join(arguments.message)
    if not question and not sys.stdin.isatty():
        # Before anything is opened: a pipe may take its time, and a thread that reads it could not be stopped.
        question = sys.stdin.read()
        if not question.strip():
            raise StartError("there is no message: say one, or pipe one in")
    logging.basicConfig(level=logging.ERROR, format="%(message)s")
    return asyncio.run(_serve(settings, arguments, question))


async def _serve(settings: Settings, arguments: Namespace, question: str) -> int:
    async with app.build_services(settings) as services:
        talk = Talk(services, arguments.model, arguments.max_tokens)
        try:
            await talk.ready()
            if question:
                return await talk.ask(question)
            code = 0
            async for line in _typed():
                code = await talk.ask(line)
            return code
        except ChatError as error:
            raise StartError(error.message) from error


class Talk:
    """One conversation with one model."""

    def __init__(self, services: Services, model: str | None, max_tokens: int | None) -> None:
        self._services = services
        self._model = model
        self._max_tokens = max_tokens
        self._turns: list[Turn] = []

    async def ready(self) -> None:
        """Wait for the embedded model while it gets on, saying why.

        Raises:
            BadUserInput, ModelUnavailable: no provider has such a model.
        """
        catalog = self._services.catalog
        name = clean_model(self._model or catalog.default or "")
        told, since = None, time.monotonic()
        while time.monotonic() - since < PATIENCE:
            first = catalog.candidates(name)[0]
            reason = first.model.unavailable_reason
            if reason is None or first.provider.name != "local":
                return
            if reason != told:
                told, since = reason, time.monotonic()
                _aside(reason)
            await asyncio.sleep(0.1)

    async def ask(self, question: str) -> int:
        """Print the answer as it comes, and remember it."""
        turns: Sequence[Turn] = (*self._turns[-REMEMBERED:], Turn(Role.USER, question))
        chat = StatelessChat(turns, self._model, max_tokens=self._max_tokens)
        text, finished = "", None
        try:
            async with aclosing(self._services.chats.chat(None, chat)) as events:
                async for event in events:
                    if isinstance(event, RunTextDelta):
                        text += event.text
                        _say(event.text)
                    elif isinstance(event, RunReasoningDelta) and sys.stdout.isatty():
                        _say(f"{DIM}{event.text}{PLAIN}")
                    elif isinstance(event, RunAttemptFailed):
                        _aside(f"{event.model}: {event.error.message}")
                    elif isinstance(event, RunFinished):
                        finished = event
        except ChatError as error:
            _aside(error.message)
            return FAILED
        finally:
            _say("\n" if text else "")
        if finished is None or finished.status is not RunStatus.COMPLETED:
            _aside(finished.error.message if finished and finished.error else "The answer was cut off")
            return FAILED
        self._turns += [Turn(Role.USER, question), Turn(Role.ASSISTANT, text)]
        return 0


async def _typed() -> AsyncIterator[str]:
    """What is typed, line by line, until Ctrl-D."""
    while (line := await _line()) is not None:
        if line.strip():
            yield line


async def _line() -> str | None:
    loop = asyncio.get_running_loop()
    typed: asyncio.Future[str | None] = loop.create_future()

    def done(line: str | None) -> None:
        if not typed.done():
            typed.set_result(line)

    def read() -> None:
        try:
            line: str | None = input("> ")
        except EOFError:
            line = None
        loop.call_soon_threadsafe(done, line)

    # A thread that nobody waits for: at Ctrl-C it still stands in the terminal.
    threading.Thread(target=read, daemon=True).start()
    return await typed


def _say(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _aside(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()
