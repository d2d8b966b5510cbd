"""`python cli.py chat [MESSAGE]`: an answer in the terminal, as it is written. No server needs to run, and one may.

Stands in the place of a guest: nothing is stored, nobody's usage counts. In a terminal the conversation goes on until
Ctrl-D, and Ctrl-C stops the answer alone; a message on the command line or from a pipe is answered once.
"""

import asyncio
import logging
import signal
import sys
import threading
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence
from contextlib import aclosing, contextmanager
from typing import Any

from assembly import build_services
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
PROMPT = "> "
STOPPED = "(stopped)"
HOW_TO_LEAVE = "(Ctrl-C again, or Ctrl-D, leaves)"
DIM, PLAIN = "\x1b[2m", "\x1b[0m"


def add_arguments(command: ArgumentParser) -> None:
    command.add_argument(
        "message",
        metavar="MESSAGE",
        nargs="*",
        help="what to ask; without it: the terminal (Ctrl-C stops an answer, Ctrl-D ends), or a pipe",
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
    async with build_services(settings) as services:
        talk = Talk(services, arguments.model, arguments.max_tokens)
        try:
            await talk.ready()
            if question:
                return await talk.ask(question)
            with _interrupts() as pressed:
                return await _converse(talk, pressed)
        except ChatError as error:
            raise StartError(error.message) from error


class Talk:
    """One conversation with one model. `turns`: what was said in it."""

    def __init__(self, services: Services, model: str | None, max_tokens: int | None) -> None:
        self._services = services
        self._model = model
        self._max_tokens = max_tokens
        self.turns: list[Turn] = []

    async def ready(self) -> None:
        """Wait for the embedded model while it gets on, saying why.

        Raises:
            BadUserInput, ModelUnavailable: no provider has such a model.
        """
        catalog = self._services.catalog
        name = clean_model(self._model or catalog.default or "")
        if why := catalog.missing(name):
            _aside(f"{why}; {catalog.candidates(name)[0].model.id} answers instead")
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
        """Print the answer as it comes, and remember it; of one that is cancelled, what came."""
        turns: Sequence[Turn] = (*self.turns[-REMEMBERED:], Turn(Role.USER, question))
        chat = StatelessChat(turns, self._model, max_tokens=self._max_tokens)
        text, finished, shown = "", None, False
        try:
            async with aclosing(self._services.chats.chat(None, chat)) as events:
                async for event in events:
                    if isinstance(event, RunTextDelta):
                        text, shown = text + event.text, True
                        _say(event.text)
                    elif isinstance(event, RunReasoningDelta) and sys.stdout.isatty():
                        shown = True
                        _say(f"{DIM}{event.text}{PLAIN}")
                    elif isinstance(event, RunAttemptFailed):
                        _aside(f"{event.model}: {event.error.message}")
                    elif isinstance(event, RunFinished):
                        finished = event
        except ChatError as error:
            _aside(error.message)
            return FAILED
        except asyncio.CancelledError:
            if text:
                self._remember(question, text)
            raise
        finally:
            _say("\n" if shown else "")
        if finished is None or finished.status is not RunStatus.COMPLETED:
            _aside(finished.error.message if finished and finished.error else "The answer was cut off")
            return FAILED
        self._remember(question, text)
        return 0

    def _remember(self, question: str, answer: str) -> None:
        self.turns += [Turn(Role.USER, question), Turn(Role.ASSISTANT, answer)]


Pressed = asyncio.Queue[None]
"""Each Ctrl-C."""


@contextmanager
def _interrupts() -> Iterator[Pressed]:
    """Ctrl-C ends nothing in this block, but is told."""
    loop, pressed = asyncio.get_running_loop(), Pressed()
    before = signal.signal(signal.SIGINT, lambda *_: loop.call_soon_threadsafe(pressed.put_nowait, None))
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, before)


async def _converse(talk: Talk, pressed: Pressed) -> int:
    """The last answer's code."""
    code = 0
    while (line := await _typed(pressed)) is not None:
        answer = asyncio.create_task(talk.ask(line))
        while not await _undisturbed(answer, pressed):
            if answer.cancelling():
                # It does not stop: whoever insists leaves.
                return FAILED
            answer.cancel()
        if answer.cancelled():
            code = FAILED
            _aside(STOPPED)
        else:
            code = answer.result()
    return code


async def _undisturbed(work: asyncio.Future[Any], pressed: Pressed) -> bool:
    """Wait for the work to end. False: Ctrl-C came first, and it goes on."""
    press = asyncio.ensure_future(pressed.get())
    try:
        await asyncio.wait({work, press}, return_when=asyncio.FIRST_COMPLETED)
        return work.done()
    finally:
        press.cancel()


async def _typed(pressed: Pressed) -> str | None:
    """The next line that is not empty; None at Ctrl-D, or at the second Ctrl-C."""
    while True:
        line, warned = asyncio.ensure_future(_line()), False
        while not await _undisturbed(line, pressed):
            if warned:
                line.cancel()
                return None
            # The terminal has thrown away what was typed; the thread that reads goes on.
            warned = True
            _aside(f"\n{HOW_TO_LEAVE}")
            _say(PROMPT)
        typed = line.result()
        if typed is None or typed.strip():
            return typed


async def _line() -> str | None:
    loop = asyncio.get_running_loop()
    typed: asyncio.Future[str | None] = loop.create_future()

    def done(line: str | None) -> None:
        if not typed.done():
            typed.set_result(line)

    def read() -> None:
        try:
            line: str | None = input(PROMPT)
        except EOFError:
            line = None
        loop.call_soon_threadsafe(done, line)

    # A thread that nobody waits for: at the second Ctrl-C it still stands in the terminal.
    threading.Thread(target=read, daemon=True).start()
    return await typed


def _say(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _aside(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()
