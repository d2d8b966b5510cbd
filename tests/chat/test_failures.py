"""Every line of the table in docs/protocol.md, provoked at a real HTTP server and seen at the end of a run."""

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import orjson
import pytest

from chat.attempts import RetryLimits
from chat.events import RunAttemptFailed, RunEvent, RunFinished, text_of
from chat.generation import GenerationLimits
from errors import ErrorCode
from models.run import Run, RunStatus
from providers.base import Chunk, GenerationRequest, ModelInfo, Patience, Provider
from providers.loopback import loopback_client
from providers.openai_body import completion_body
from providers.openai_wire import stream_completion
from tests.chat.conftest import GENERATION, Core, OddProvider, open_core
from tests.providers.wire import STREAM, Script, response, says, serving
from tests.server import ROOT, free_port

pytestmark = pytest.mark.usefixtures("in_no_time")

LIMITS = replace(GENERATION, retry=RetryLimits(1, 10))
PATIENT = Patience(connect=2, first=20, between=20)


@dataclass(frozen=True)
class Line:
    """What the table promises."""

    name: str
    code: str
    retryable: bool
    asked_again: bool
    next_model: bool


def table() -> list[Line]:
    page = (ROOT / "docs" / "protocol.md").read_text(encoding="utf-8")
    lines = page.partition("| failure | code |")[2].partition("\n\n")[0].splitlines()[2:]
    found = []
    for line in lines:
        name, code, *flags, _ = (cell.strip().strip("`") for cell in line.strip("|").split("|"))
        found.append(Line(name, code, *(flag == "yes" for flag in flags)))
    return found


def event(text: str) -> bytes:
    return b"data: " + orjson.dumps({"choices": [{"delta": {"content": text}}]}) + b"\n\n"


def error(**words: object) -> bytes:
    return orjson.dumps({"error": words})


FINISH = b'data: {"choices": [{"delta": {}, "finish_reason": "stop"}]}\n\n'
FILTERED = FINISH.replace(b"stop", b"content_filter")


def then_silence(*sent: bytes) -> Script:
    async def script(writer: asyncio.StreamWriter) -> None:
        await says(*sent)(writer)
        await asyncio.sleep(3600)

    return script


def for_ever(*sent: bytes, again: bytes, pause: float) -> Script:
    async def script(writer: asyncio.StreamWriter) -> None:
        await says(*sent)(writer)
        while True:
            await says(again)(writer)
            await asyncio.sleep(pause)

    return script


async def dead(writer: asyncio.StreamWriter) -> None:
    raise AssertionError("nobody was to listen")


PROVOKED: dict[str, tuple[Script, GenerationLimits]] = {
    "the key is refused": (response(401, error(message="Invalid API Key")), LIMITS),
    "no credit is left": (response(429, error(code="insufficient_quota")), LIMITS),
    "rate limit": (response(429, b"{}", b"Retry-After: 0"), LIMITS),
    "overload": (response(529, error(type="overloaded_error")), LIMITS),
    "an error of the server's own": (response(500, b"oops", kind=b"text/plain"), LIMITS),
    "a gateway's timeout": (response(504, b"<html>", kind=b"text/html"), LIMITS),
    "nothing within `FIRST_TOKEN_SECONDS": (then_silence(STREAM), replace(LIMITS, first_token=0.3)),
    "keep-alives and nothing else": (
        for_ever(STREAM, again=b": ping\n\n", pause=0.02),
        replace(LIMITS, first_token=0.3),
    ),
    "nobody listens there": (dead, LIMITS),
    "the connection is cut": (says(STREAM), LIMITS),
    "malformed SSE": (says(STREAM + b"data: {nope\n\n"), LIMITS),
    "an HTML page": (response(200, b"<html>hello</html>", kind=b"text/html"), LIMITS),
    "no such model": (response(404, error(code="model_not_found")), LIMITS),
    "the model is loading": (response(503, error(message="Loading model")), LIMITS),
    "the context is too long": (response(400, error(code="context_length_exceeded")), LIMITS),
    "the content is filtered": (response(400, error(code="content_filter")), LIMITS),
    "the answer is filtered whole": (says(STREAM + FILTERED), LIMITS),
    "refused for another reason": (response(400, error(message="temperature: unsupported")), LIMITS),
    "silence behind the first text": (then_silence(STREAM, event("a")), replace(LIMITS, next_token=0.3)),
    "cut behind the first text": (says(STREAM, event("a")), LIMITS),
    "malformed behind the first text": (says(STREAM, event("a"), b"data: {nope\n\n"), LIMITS),
    "white space without end": (for_ever(STREAM, again=event(" \n" * 50), pause=0), LIMITS),
    "longer than `RUN_SECONDS": (for_ever(STREAM, again=event("a"), pause=0.02), replace(LIMITS, whole=0.3)),
}
NOT_ON_THE_WIRE = {"what nobody foresaw"}


class WireProvider:
    """Asks the server at `url`."""

    name = "wire"

    def __init__(self, url: str) -> None:
        self._url = url
        self._client = loopback_client()

    def models(self) -> Sequence[ModelInfo]:
        return [ModelInfo("wired", self.name, None)]

    def find(self, model: str) -> ModelInfo | None:
        return self.models()[0] if model == "wired" else None

    async def stream(self, request: GenerationRequest) -> AsyncGenerator[Chunk, None]:
        stream = stream_completion(self._client, self._url, completion_body(request), {}, PATIENT)
        async with aclosing(stream) as chunks:
            async for chunk in chunks:
                yield chunk

    async def aclose(self) -> None:
        await self._client.aclose()


@asynccontextmanager
async def wired(
    path: Path, script: Script, limits: GenerationLimits, fallback: Sequence[str] = ()
) -> AsyncIterator[tuple[Core, list[bytes]]]:
    """A core whose model `wired` is at a server that plays the script, and what that server was sent."""
    asked: list[bytes] = []
    async with AsyncExitStack() as stack:
        if script is dead:
            url = f"http://127.0.0.1:{free_port()}/"
        else:
            url = await stack.enter_async_context(serving(script, asked))
        provider = WireProvider(url)
        stack.push_async_callback(provider.aclose)
        others: list[Provider] = [provider, OddProvider("second")]
        core = await stack.enter_async_context(open_core(path, generation=limits, fallback=fallback, providers=others))
        yield core, asked


async def run_to_its_end(core: Core) -> tuple[list[RunEvent], Run]:
    user = await core.user()
    run = await core.ask(user, await core.conversation(user), "wired")
    return await core.events(user, run), await core.row(run.id)


def test_every_line_is_provoked() -> None:
    assert {line.name for line in table()} == set(PROVOKED) | NOT_ON_THE_WIRE


LINES = [line for line in table() if line.name not in NOT_ON_THE_WIRE]


@pytest.mark.parametrize("line", LINES, ids=[line.name for line in LINES])
async def test_a_line_of_the_table_alone(path: Path, line: Line) -> None:
    script, limits = PROVOKED[line.name]
    async with wired(path, script, limits) as (core, asked):
        events, row = await run_to_its_end(core)
    attempts = 1 + line.asked_again
    assert [attempt["error"]["code"] for attempt in row.attempts] == [line.code] * attempts
    assert len(asked) == (0 if script is dead else attempts)
    last = events[-1]
    assert isinstance(last, RunFinished)
    assert last.error is not None
    assert (last.status, last.error.code, last.error.retryable) == (RunStatus.FAILED, line.code, line.retryable)
    assert re.search(r"; (try again|choose|change|tell|start|ask)", last.error.message), "it says what helps"
    assert "127.0.0.1" not in last.error.message
    assert [event.error.code for event in events if isinstance(event, RunAttemptFailed)] == [line.code] * (attempts - 1)
    assert (row.status, row.error_code, row.error_retryable) == (RunStatus.FAILED, line.code, line.retryable)


@pytest.mark.parametrize("line", LINES, ids=[line.name for line in LINES])
async def test_a_line_of_the_table_with_another_model_behind_it(path: Path, line: Line) -> None:
    script, limits = PROVOKED[line.name]
    async with wired(path, script, limits, fallback=["odd"]) as (core, _):
        events, row = await run_to_its_end(core)
    assert row.status == (RunStatus.COMPLETED if line.next_model else RunStatus.FAILED)
    assert ("second" in text_of(events)) is line.next_model
    assert row.attempts[0]["error"]["code"] == line.code


@pytest.mark.parametrize("name", [line.name for line in LINES if "behind the first text" in line.name])
async def test_the_text_that_came_is_kept(path: Path, name: str) -> None:
    script, limits = PROVOKED[name]
    async with wired(path, script, limits) as (core, _):
        events, row = await run_to_its_end(core)
        assert row.message_id is not None
        message = await core.engine._records.message(row.message_id)
    assert text_of(events) == "a"
    assert message is not None
    assert message.content == "a"


async def test_what_nobody_foresaw(path: Path) -> None:
    line = next(line for line in table() if line.name in NOT_ON_THE_WIRE)
    async with open_core(path, generation=LIMITS, fallback=["odd"], providers=[OddProvider("second")]) as core:
        user = await core.user()
        run = await core.send(user, "crash")
        await core.events(user, run)
        row = await core.row(run.id)
    assert (row.error_code, row.error_retryable, len(row.attempts)) == (line.code, line.retryable, 1)
    assert row.error_message is not None
    assert run.id in row.error_message
    assert line.code == ErrorCode.INTERNAL_ERROR


@pytest.mark.parametrize("usage", [{"prompt_tokens": -1, "completion_tokens": 2}, {"prompt_tokens": 2**63}])
async def test_absurd_figures_are_no_failure(path: Path, usage: dict[str, int]) -> None:
    figures = b"data: " + orjson.dumps({"choices": [], "usage": usage}) + b"\n\n"
    async with wired(path, says(STREAM, event("a"), FINISH, figures), LIMITS) as (core, _):
        _, row = await run_to_its_end(core)
    assert row.status == RunStatus.COMPLETED
    assert row.usage_estimated
