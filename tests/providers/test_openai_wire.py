"""The OpenAI-compatible protocol against raw sockets: what it reads, what it refuses, what it calls each failure."""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from itertools import pairwise

import orjson
import pytest

from errors import (
    ContentFiltered,
    ContextTooLong,
    ModelUnavailable,
    ModelUnknown,
    ProviderAuth,
    ProviderBusy,
    ProviderError,
    ProviderRateLimited,
    ProviderRefused,
    ProviderTimeout,
    ProviderUnpaid,
)
from providers.base import Chunk, FinishChunk, FinishReason, Patience, ReasoningChunk, TextChunk, Usage, UsageChunk
from providers.failures import Garbled
from providers.loopback import loopback_client
from providers.openai_body import completion_body
from providers.openai_wire import stream_completion
from providers.sse import MAX_LINE, DataLines
from tests.providers.wire import QUICK, REQUEST, STREAM, Script, collect, response, says, serving

CHUNK_COST = 40e-6  # seconds of processor time


def event(delta: object = None, finish: str | None = None, **more: object) -> bytes:
    choices = [] if delta is None and finish is None else [{"delta": delta or {}, "finish_reason": finish}]
    return b"data: " + orjson.dumps({"choices": choices, **more}) + b"\n\n"


FINISH = event(finish="stop")
DONE = b"data: [DONE]\n\n"
USAGE = event(
    usage={"prompt_tokens": 7, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 2}},
)
ANSWER = event({"role": "assistant", "content": None}) + event({"content": "hé🎈"}) + FINISH + USAGE + DONE
CHUNKS = [TextChunk("hé🎈"), FinishChunk(FinishReason.STOP), UsageChunk(Usage(7, 3, cached_tokens=2))]


async def test_a_whole_answer() -> None:
    seen: list[bytes] = []
    async with serving(says(STREAM + ANSWER), seen) as url:
        assert await collect(url) == CHUNKS
    assert orjson.loads(seen[0]) == {
        "model": "a-model",
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}],
        "temperature": 0.5,
        "max_tokens": 9,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def spread(answer: bytes) -> bytes:
    """The same with each event over several `data:` lines, which the specification joins by line breaks."""
    payloads = [event.removeprefix(b"data: ") for event in answer.split(b"\n\n") if event]
    texts = [orjson.dumps(orjson.loads(p), option=orjson.OPT_INDENT_2) if p != b"[DONE]" else p for p in payloads]
    return b"".join(b"".join(b"data: " + line + b"\n" for line in text.split(b"\n")) + b"\n" for text in texts)


SPREAD = spread(ANSWER)
WRITTEN = {
    "LF": ANSWER,
    "CRLF": ANSWER.replace(b"\n", b"\r\n"),
    "CR": ANSWER.replace(b"\n", b"\r"),
    "by turns": ANSWER.replace(b"\n\n", b"\r\n\r"),
    "several lines": SPREAD,
    "several lines, CRLF": SPREAD.replace(b"\n", b"\r\n"),
    "several lines, CR": SPREAD.replace(b"\n", b"\r"),
    "several lines and others between": SPREAD.replace(b"\ndata:   ", b"\nid: 7\n: x\ndata:   "),
    "no blank lines": ANSWER.replace(b"\n\n", b"\n"),
}


@pytest.mark.parametrize("name", WRITTEN)
@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 10_000])
async def test_cut_anywhere_it_reads_the_same(size: int, name: str) -> None:
    """Why: the network cuts inside lines and inside characters."""
    written = WRITTEN[name]
    parts = [written[at : at + size] for at in range(0, len(written), size)]
    async with serving(says(STREAM, *parts)) as url:
        assert await collect(url, Patience(2, 5, 5)) == CHUNKS


@pytest.mark.parametrize("between", [b"\n", b"\r", b"\r\n"])
async def test_a_whole_line_does_not_wait_for_the_blank_one(between: bytes) -> None:
    """Some servers send it with the next event: each word would come late by one."""
    words = [event({"content": word}).removesuffix(b"\n\n") for word in "ab"]
    lines = DataLines()
    assert [lines.feed(part) for part in (words[0] + between, between + words[1] + between, between)] == [
        [words[0].removeprefix(b"data: ")],
        [words[1].removeprefix(b"data: ")],
        [],
    ]


def test_lines_without_an_end_of_the_event_are_bounded_and_read_once() -> None:
    """Each would otherwise be parsed with all the ones before it."""
    lines, begun = DataLines(), time.process_time()
    for _ in range(MAX_LINE // 400):
        assert lines.feed(b"data: {\n" * 50) == []
    with pytest.raises(Garbled):
        lines.feed(b"data: {\n" * 50)
    assert time.process_time() - begun < 2


@pytest.mark.parametrize(
    "written",
    [
        b": a comment\n\nevent: x\nid: 1\nretry: 5\n\n" + ANSWER,
        ANSWER.replace(b"data: ", b"data:"),
        event({"content": "hé🎈"}, "stop") + USAGE,
        event({"content": "hé🎈"}) + USAGE + FINISH + FINISH + event({"content": "late"}) + DONE,
        ANSWER.removesuffix(b"\n\n"),
        b"\xef\xbb\xbf" + event({"content": "hé🎈"}, "stop") + USAGE,
    ],
)
async def test_dialects(written: bytes) -> None:
    async with serving(says(STREAM + written)) as url:
        assert await collect(url) == CHUNKS


async def test_reasoning_and_finish_reasons() -> None:
    for word, reason in [("length", "LENGTH"), ("content_filter", "CONTENT_FILTER"), ("tool_calls", "TOOL_CALLS")]:
        async with serving(says(STREAM + event({"reasoning_content": "hm"}) + event(finish=word))) as url:
            assert await collect(url) == [ReasoningChunk("hm"), FinishChunk(FinishReason(reason))]


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
async def test_thoughts_by_either_name(field: str) -> None:
    """Why: Ollama, Groq, OpenRouter and vLLM say `reasoning`; unread, a model that thinks long is taken for silent."""
    answer = event({"content": "", field: "hm"}) + event({"content": "yes"}) + FINISH
    async with serving(says(STREAM + answer)) as url:
        assert await collect(url) == [ReasoningChunk("hm"), TextChunk("yes"), FinishChunk(FinishReason.STOP)]


@pytest.mark.parametrize(
    ("pieces", "texts"),
    [
        ([r"a\ud83c", r"\udf88b", "c"], ["a", "🎈b", "c"]),
        ([r"\ud83c", "b"], ["\ufffdb"]),
        ([r"\udf88", r"a\udf88\ud83c"], ["\ufffd", "a\ufffd"]),
    ],
)
async def test_halves_of_characters(pieces: list[str], texts: list[str]) -> None:
    """Why: servers that cut text by UTF-16 send a balloon as two escapes, each of which alone is no text."""
    said = b"".join(b'data: {"choices":[{"delta":{"content":"%s"}}]}\n\n' % piece.encode() for piece in pieces)
    async with serving(says(STREAM + said + FINISH)) as url:
        assert await collect(url) == [*map(TextChunk, texts), FinishChunk(FinishReason.STOP)]


async def test_content_in_parts() -> None:
    """Why: Mistral's thinking models write so."""
    thought = {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}
    answer = event({"content": [thought, {"type": "reference", "reference_ids": [1]}]})
    answer += event({"content": [{"type": "text", "text": "yes"}]}) + event(finish="model_length")
    async with serving(says(STREAM + answer)) as url:
        assert await collect(url) == [ReasoningChunk("hm"), TextChunk("yes"), FinishChunk(FinishReason.LENGTH)]


async def test_chunks_come_one_by_one() -> None:
    parts = [event({"content": str(n)}) for n in range(4)]
    times = []
    async with serving(says(STREAM, *parts, FINISH, pause=0.05)) as url, loopback_client() as client:
        async for _ in stream_completion(client, url, completion_body(REQUEST), {}, QUICK):
            times.append(time.monotonic())
    assert all(later - earlier > 0.02 for earlier, later in pairwise(times[:4]))


def error(**words: object) -> bytes:
    return orjson.dumps({"error": words})


OVERFLOW = error(code=400, type="exceed_context_size_error", message="request exceeds the available context size")
REFUSALS: list[tuple[str, Script, type[ProviderError]]] = [
    ("401", response(401, error(message="Invalid API Key")), ProviderAuth),
    ("403", response(403, b""), ProviderAuth),
    ("429", response(429, error(message="slow down")), ProviderRateLimited),
    ("context, llama.cpp", response(400, OVERFLOW), ContextTooLong),
    ("context, OpenAI", response(400, error(code="context_length_exceeded", message="x")), ContextTooLong),
    ("filtered", response(400, error(code="content_filter", message="x")), ContentFiltered),
    ("bad request", response(400, error(message="bad")), ProviderRefused),
    ("no such model", response(404, error(code="model_not_found")), ModelUnknown),
    ("no such page", response(404, b"<html>", kind=b"text/html"), ProviderRefused),
    ("loading", response(503, error(message="Loading model", type="unavailable_error")), ModelUnavailable),
    ("overloaded", response(503, error(message="busy")), ProviderBusy),
    ("overloaded, Anthropic", response(529, error(type="overloaded_error")), ProviderBusy),
    ("overloaded in the stream", says(STREAM + b"data: " + error(type="overloaded_error") + b"\n\n"), ProviderBusy),
    (
        "limited in the stream",
        says(STREAM + b"data: " + error(code="rate_limit_exceeded") + b"\n\n"),
        ProviderRateLimited,
    ),
    ("unpaid, OpenAI", response(429, error(code="insufficient_quota")), ProviderUnpaid),
    ("unpaid, DeepSeek", response(402, error(message="Insufficient Balance")), ProviderUnpaid),
    ("unpaid, Anthropic", response(400, error(message="Your credit balance is too low")), ProviderUnpaid),
    ("conflict", response(409, b"{}"), ProviderError),
    ("500", response(500, b"oops", kind=b"text/plain"), ProviderError),
    ("gateway", response(504, b"", kind=b"text/html"), ProviderTimeout),
    ("a page", response(200, b"<html>hello</html>", kind=b"text/html"), ProviderError),
    ("an object", response(200, b'{"a":1}'), ProviderError),
    ("an error as 200", response(200, error(code=401, message="no")), ProviderAuth),
    ("error in the stream", says(STREAM + event({"content": "a"}) + b"data: " + OVERFLOW + b"\n\n"), ContextTooLong),
    ("not JSON", says(STREAM + b"data: {nope\n\n"), ProviderError),
    ("nested without end", says(STREAM + b"data: " + b"[" * 100_000 + b"\n\n"), ProviderError),
    ("not an object", says(STREAM + b"data: [1]\n\n"), ProviderError),
    ("not text", says(STREAM + event({"content": {"a": 1}})), ProviderError),
    ("cut in the middle", says(STREAM + event({"content": "a"})), ProviderError),
    (
        "given up",
        says(STREAM + event({"content": "a"}) + event(finish="insufficient_system_resource") + DONE),
        ProviderError,
    ),
    ("failed", says(STREAM + event({"content": "a"}) + event(finish="error") + DONE), ProviderError),
    ("done unfinished", says(STREAM + event({"content": "a"}) + DONE), ProviderError),
    ("nothing", says(), ProviderError),
    ("not HTTP", says(b"hello\r\n\r\n"), ProviderError),
    ("cut body", says(STREAM.replace(b"Connection", b"Content-Length: 999\r\nConnection") + b"data"), ProviderError),
]


@pytest.mark.parametrize(("script", "kind"), [case[1:] for case in REFUSALS], ids=[case[0] for case in REFUSALS])
async def test_each_failure_has_its_name(script: Script, kind: type[ProviderError]) -> None:
    async with serving(script) as url:
        with pytest.raises(ProviderError) as caught:
            await collect(url)
    assert type(caught.value) is kind
    assert caught.value.__cause__ is not None
    assert "127.0.0.1" not in caught.value.message


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (b"7", 7),
        (b"0.5", 0.5),
        (b"-5", 0),
        (b"999999", 3600),
        (b"1e400", 3600),
        (b"nan", None),
        (b"x", None),
        (b"Wed, 21 Oct 2015 07:28:00 GMT", 0),
        (b"Wed, 21 Oct 99999 07:28:00 GMT", None),
    ],
)
async def test_retry_after(header: bytes, seconds: float | None) -> None:
    async with serving(response(429, b"{}", b"Retry-After: " + header)) as url:
        with pytest.raises(ProviderRateLimited) as caught:
            await collect(url)
    assert caught.value.retry_after == seconds


async def test_nobody_listens() -> None:
    with pytest.raises(ProviderError, match="could not be reached"):
        await collect("http://127.0.0.1:9/")


async def forever(writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(3600)


@pytest.mark.parametrize("sent", [b"", STREAM, STREAM + event({"role": "assistant"}), STREAM + event({"content": "a"})])
async def test_silence_times_out(sent: bytes) -> None:
    async def script(writer: asyncio.StreamWriter) -> None:
        await says(sent)(writer)
        await forever(writer)

    start = time.monotonic()
    async with serving(script) as url:
        with pytest.raises(ProviderTimeout):
            await collect(url)
    assert time.monotonic() - start < 2


async def test_keeping_alive_is_not_answering() -> None:
    """Why: a proxy's comments must not keep a dead answer open for ever."""
    async with serving(says(STREAM, *[b": ping\n\n"] * 50, pause=0.05)) as url:
        with pytest.raises(ProviderTimeout):
            await collect(url)


@pytest.mark.parametrize("noise", [b" " * 4096, b"\n" * 4096, b"data: " + b"x" * 4096])
async def test_endless_noise_is_cut_off(noise: bytes) -> None:
    async def script(writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM)
        while True:
            writer.write(noise)
            await writer.drain()

    async with serving(script) as url:
        with pytest.raises(ProviderError):
            await collect(url, Patience(2, 30, 30))


async def test_a_slow_reader_is_not_a_slow_server() -> None:
    parts = [event({"content": str(n)}) for n in range(3)]
    async with serving(says(STREAM, *parts, FINISH)) as url, loopback_client() as client:
        async for _ in stream_completion(client, url, completion_body(REQUEST), {}, QUICK):
            await asyncio.sleep(0.3)


async def test_an_answer_that_is_finished_is_whole_without_its_figures() -> None:
    async def script(writer: asyncio.StreamWriter) -> None:
        await says(STREAM, event({"content": "a"}) + FINISH)(writer)
        writer.transport.abort()

    async with serving(script) as url:
        assert await collect(url) == [TextChunk("a"), FinishChunk(FinishReason.STOP)]


@pytest.mark.parametrize("sent", [b"", STREAM, STREAM + event({"content": "a"})])
async def test_leaving_closes_the_connection_at_once(sent: bytes) -> None:
    left = asyncio.Event()
    async with serving(says(sent), left=left) as url, loopback_client() as client:
        stream = stream_completion(client, url, completion_body(REQUEST), {}, Patience(2, 30, 30))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(_read_on(stream), 0.2)
        await asyncio.wait_for(left.wait(), 1)


async def _read_on(stream: AsyncGenerator[Chunk, None]) -> None:
    async with aclosing(stream):
        async for _ in stream:
            pass


async def test_a_chunk_costs_little() -> None:
    """Why: many streams share one process. The budget is 40 µs of processor time for each chunk."""
    count = 20_000
    line = event({"content": " word"}, id="chatcmpl-" + "x" * 32, model="m" * 40, object="chat.completion.chunk")

    async def script(writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM + line * count + FINISH)
        await writer.drain()

    async with serving(script) as url:
        start = time.process_time()
        chunks = await collect(url, Patience(2, 30, 30))
        spent = time.process_time() - start
    assert len(chunks) == count + 1
    assert spent / count < CHUNK_COST
