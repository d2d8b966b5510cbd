"""A hub that breaks in every way, and what is on the disk afterwards."""

import asyncio
import errno
import os
import stat
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from providers import download
from providers.fetch import FetchError, fetch, part_of
from providers.weights import EmbeddedWeights, Interrupted, check
from tests.providers.hub import CONTENT, SOURCE, TINY, FakeHub, Manner, left, serving

HALF = len(CONTENT) // 2


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    monkeypatch.setattr(download, "PAUSE", 0.01)
    with serving() as fake:
        yield fake


@pytest.fixture
def models(tmp_path: Path) -> Path:
    return tmp_path / "models"


def get(hub: FakeHub, models: Path, weights: EmbeddedWeights = TINY) -> list[int]:
    """What was reported, in bytes."""
    seen: list[tuple[int, int]] = []
    fetch(weights, models, lambda *at: seen.append(at), threading.Event(), hub=hub.url)
    assert {total for _, total in seen} <= {weights.bytes}
    return [done for done, _ in seen]


def refused(hub: FakeHub, models: Path, weights: EmbeddedWeights = TINY) -> str:
    with pytest.raises(FetchError) as caught:
        get(hub, models, weights)
    assert "\n" not in caught.value.reason
    assert not (models / weights.file).exists()
    return caught.value.why


def broken_off(models: Path, hub: FakeHub, at: int = HALF) -> None:
    """A download that was stopped half-way, as Ctrl-C does."""
    stop = threading.Event()
    hub.script.append(Manner(stall=at))
    with pytest.raises(Interrupted):
        fetch(TINY, models, lambda done, _: stop.set() if done >= at else None, stop, hub=hub.url)
    hub.release.set()
    assert left(models) == {"tiny.gguf.part", "tiny.gguf.part.json"}
    assert part_of(TINY, models).stat().st_size == at


def test_a_model_is_fetched_from_its_revision_and_nothing_else_is_left(hub: FakeHub, models: Path) -> None:
    seen = get(hub, models)
    assert check(TINY, models).read_bytes() == CONTENT
    assert [path for path, _ in hub.asked] == ["/someone/tiny-GGUF/resolve/0123abcd/tiny.gguf"]
    assert left(models) == {"tiny.gguf"}
    assert seen == sorted(seen)
    assert seen[-1] == len(CONTENT)


def test_the_file_can_be_read_by_whoever_the_umask_lets(hub: FakeHub, models: Path) -> None:
    before = os.umask(0o027)
    try:
        get(hub, models)
    finally:
        os.umask(before)
    assert stat.S_IMODE((models / "tiny.gguf").stat().st_mode) == 0o640


def test_redirects_are_followed_as_hubs_need(hub: FakeHub, models: Path) -> None:
    hub.script = [Manner(elsewhere=True)]
    get(hub, models)
    assert [path for path, _ in hub.asked][1] == "/elsewhere?signed=1"
    assert check(TINY, models)


def test_a_fetch_that_was_stopped_goes_on_where_it_was(hub: FakeHub, models: Path) -> None:
    broken_off(models, hub)
    seen = get(hub, models)
    assert hub.asked[1][1]["range"] == f"bytes={HALF}-"
    assert hub.asked[1][1]["if-range"] == '"v1"'
    assert seen[0] > HALF
    assert check(TINY, models)
    assert left(models) == {"tiny.gguf"}


@pytest.mark.parametrize("reset", [False, True])
def test_a_connection_that_breaks_is_gone_on_with_by_itself(hub: FakeHub, models: Path, reset: bool) -> None:
    hub.script = [Manner(cut=HALF, reset=reset), Manner(cut=10_000, reset=reset)]
    get(hub, models)
    assert check(TINY, models)
    assert len(hub.asked) == 3
    assert hub.ranges[0] is None
    if not reset:  # a reset may overtake bytes that were sent before it
        assert hub.ranges[1:] == [f"bytes={HALF}-", f"bytes={HALF + 10_000}-"]


def test_a_connection_that_breaks_again_and_again_at_the_same_place_is_given_up(hub: FakeHub, models: Path) -> None:
    hub.manner = Manner(cut=0)
    hub.script = [Manner(cut=HALF)]
    assert refused(hub, models) == "the connection to 127.0.0.1 keeps breaking; 50% is kept"
    assert len(hub.asked) == download.TRIES
    assert part_of(TINY, models).stat().st_size == HALF


def test_a_slow_but_living_line_is_not_given_up(hub: FakeHub, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each try brings something: more tries than TRIES are fine then."""
    monkeypatch.setattr(download, "WORTH", 20_000)
    hub.manner = Manner(cut=30_000)
    get(hub, models)
    assert check(TINY, models)
    assert len(hub.asked) == 11


def test_a_server_without_ranges_sends_all_again(hub: FakeHub, models: Path) -> None:
    broken_off(models, hub)
    hub.manner = Manner(ranges=False)
    get(hub, models)
    assert check(TINY, models)
    assert len(hub.asked) == 2


def test_a_server_without_ranges_that_always_breaks_is_given_up(hub: FakeHub, models: Path) -> None:
    hub.manner = Manner(ranges=False, cut=HALF)
    assert "keeps breaking" in refused(hub, models)
    assert len(hub.asked) == download.TRIES


def test_a_file_that_changed_meanwhile_is_begun_again(hub: FakeHub, models: Path) -> None:
    """The hub had another file half-way, and says so: its mark does not hold any more."""
    part_of(TINY, models).parent.mkdir()
    part_of(TINY, models).write_bytes(b"of another version" * 100)
    remote = download.Remote(SOURCE.url(hub.url), TINY.bytes, TINY.sha256)
    download.mark_of(part_of(TINY, models)).write_text(f'{{"place": "{remote.place}", "version": "\\"v0\\""}}')
    get(hub, models)
    assert hub.asked[0][1]["if-range"] == '"v0"'
    assert len(hub.asked) == 1
    assert check(TINY, models)


@pytest.mark.parametrize("mark", [None, "{", '{"place": 1}', "[]"])
def test_halves_that_do_not_belong_together_are_fetched_again(hub: FakeHub, models: Path, mark: str | None) -> None:
    """Nobody said so: the digest does. Once, not for ever."""
    part = part_of(TINY, models)
    part.parent.mkdir()
    part.write_bytes(b"x" * HALF)
    if mark is not None:
        download.mark_of(part).write_text(mark)
    hub.manner = Manner(etag=None)
    get(hub, models)
    assert hub.ranges == [f"bytes={HALF}-", None]
    assert check(TINY, models)
    assert left(models) == {"tiny.gguf"}


def test_a_part_goes_on_at_another_mirror(hub: FakeHub, models: Path) -> None:
    broken_off(models, hub)
    with serving() as mirror:
        mirror.manner = Manner(etag='"another"')
        get(mirror, models)
        assert mirror.ranges == [f"bytes={HALF}-"]
        assert "if-range" not in mirror.asked[0][1]
    assert check(TINY, models)


def test_a_weak_mark_is_not_sent(hub: FakeHub, models: Path) -> None:
    hub.script = [Manner(etag='W/"v1"', cut=HALF), Manner(etag='W/"v1"')]
    get(hub, models)
    assert "if-range" not in hub.asked[1][1]


@pytest.mark.parametrize(
    "manner", [Manner(status=416, content=b"", told=0), Manner(shift=-7), Manner(status=206, headers={}, ranges=False)]
)
def test_an_answer_that_is_not_the_part_that_was_asked_for(hub: FakeHub, models: Path, manner: Manner) -> None:
    broken_off(models, hub)
    hub.script = [manner]
    get(hub, models)
    assert check(TINY, models)
    assert hub.ranges[2:] == [None]


def test_a_part_that_nobody_asked_for(hub: FakeHub, models: Path) -> None:
    hub.manner = Manner(status=206, ranges=False)
    assert refused(hub, models) == "127.0.0.1 cannot send a part of the file"


def test_a_part_that_is_longer_than_the_file(hub: FakeHub, models: Path) -> None:
    part_of(TINY, models).parent.mkdir()
    part_of(TINY, models).write_bytes(b"x" * (len(CONTENT) + 1))
    get(hub, models)
    assert hub.ranges == [None]
    assert check(TINY, models)


@pytest.mark.parametrize(
    ("manner", "found"),
    [
        (Manner(content=CONTENT[:-5]), "(299,999 bytes)"),
        (Manner(content=b"<html>Log in</html>", headers={"Content-Type": "text/html"}), "(19 bytes)"),
        (Manner(content=CONTENT + b"!", told=-1), "more than"),
        (Manner(content=CONTENT[::-1]), "SHA-256"),
    ],
)
def test_another_file_is_refused_and_not_kept(hub: FakeHub, models: Path, manner: Manner, found: str) -> None:
    hub.manner = manner
    why = refused(hub, models)
    assert why.startswith("what 127.0.0.1 sent is not the file we know (")
    assert found in why
    assert left(models) == set()
    assert len(hub.asked) == 1


def test_a_file_that_ends_too_soon_without_saying_its_length(hub: FakeHub, models: Path) -> None:
    hub.manner = Manner(content=CONTENT[:1000], told=-1, ranges=False)
    assert refused(hub, models) == "127.0.0.1 ends the file at 1,000 of 300,004 bytes"


def test_a_packed_answer_is_unpacked(hub: FakeHub, models: Path) -> None:
    """Some proxies pack what they were asked not to."""
    hub.manner = Manner(gzip=True)
    get(hub, models)
    assert check(TINY, models)


@pytest.mark.parametrize(("status", "tries"), [(404, 1), (403, 1), (503, download.TRIES), (429, download.TRIES)])
def test_an_error_is_named_and_only_what_may_pass_is_tried_again(
    hub: FakeHub, models: Path, status: int, tries: int
) -> None:
    hub.manner = Manner(status=status, content=b"no")
    assert f"({status})" in refused(hub, models)
    assert len(hub.asked) == tries
    assert left(models) == set()


def test_an_overload_that_passes(hub: FakeHub, models: Path) -> None:
    hub.script = [Manner(status=503, content=b""), Manner(status=429, content=b"", headers={"Retry-After": "0"})]
    get(hub, models)
    assert check(TINY, models)


def test_what_the_server_asks_us_to_wait_is_waited(hub: FakeHub, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    really = asyncio.sleep

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        await really(0)

    monkeypatch.setattr("providers.download.asyncio.sleep", sleep)
    late = [{"Retry-After": value} for value in ("7", "3600", "Fri, 31 Dec 1999 23:59:59 GMT")]
    hub.script = [Manner(status=429, content=b"", headers=headers) for headers in late]
    get(hub, models)
    assert slept == [7, download.LONGEST_PAUSE, 0.04]


def test_nobody_listens(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "PAUSE", 0.01)
    assert refused(FakeHub("http://127.0.0.1:9"), models) == "no network, or 127.0.0.1 does not answer"


def test_a_password_in_the_address_is_neither_told_nor_stored(hub: FakeHub, models: Path) -> None:
    hub.url = hub.url.replace("http://", "http://user:s3cret@")
    hub.script = [Manner(cut=HALF)]
    hub.manner = Manner(status=403)
    assert "s3cret" not in refused(hub, models)
    assert hub.asked[0][1]["authorization"].startswith("Basic ")
    assert "s3cret" not in download.mark_of(part_of(TINY, models)).read_text()


def test_a_proxy_setting_that_cannot_be_used(hub: FakeHub, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "nonsense://127.0.0.1:1")
    assert refused(hub, models).startswith("the proxy settings cannot be used")


def test_a_disk_without_room_is_known_before(hub: FakeHub, models: Path) -> None:
    petabyte = replace(TINY, bytes=10**15)
    hub.manner = Manner(told=10**15, stall=0)
    hub.release.set()
    assert refused(hub, models, petabyte).startswith("the disk is full (1000000000 MB are needed, ")
    assert left(models) == set()


def test_a_disk_that_fills_up_meanwhile(hub: FakeHub, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real thing, on a small disk, is in test_cli_models; here what is kept of it."""

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(download, "_write", full)
    assert refused(hub, models) == "the disk is full"


def test_the_second_source_is_asked_when_the_first_fails(hub: FakeHub, models: Path) -> None:
    hub.script = [Manner(status=404)]
    get(hub, models, replace(TINY, sources=(replace(SOURCE, repository="gone/tiny"), SOURCE)))
    assert [path.split("/")[1] for path, _ in hub.asked] == ["gone", "someone"]
    hub.manner = Manner(status=404)
    (models / "tiny.gguf").unlink()
    why = refused(hub, models, replace(TINY, sources=(SOURCE, SOURCE)))
    assert why == "127.0.0.1 does not send the file (404); 127.0.0.1 does not send the file (404)"


def test_stopping_does_not_wait_for_a_server_that_says_nothing(hub: FakeHub, models: Path) -> None:
    start = time.monotonic()
    broken_off(models, hub)
    assert time.monotonic() - start < 0.5 * (download.TIMEOUT.read or 0)


def test_a_local_file_is_copied_and_checked(models: Path, tmp_path: Path) -> None:
    folder = tmp_path / "stick"
    folder.mkdir()
    (folder / "tiny.gguf").write_bytes(CONTENT)
    (folder / "tiny.gguf").chmod(0o400)
    for local in (folder, folder / "tiny.gguf"):
        fetch(TINY, models, lambda *_: None, threading.Event(), local=local)
        assert stat.S_IMODE(check(TINY, models).stat().st_mode) & 0o600 == 0o600
        (models / "tiny.gguf").unlink()
    (folder / "other.gguf").write_bytes(CONTENT[:-1])
    for wrong, why in ((folder / "other.gguf", "is not the file we know"), (folder / "none", "No such file")):
        with pytest.raises(FetchError, match=why):
            fetch(TINY, models, lambda *_: None, threading.Event(), local=wrong)
    assert left(models) == set()


def test_a_damaged_file_gives_way_only_if_it_may_and_only_to_a_whole_one(hub: FakeHub, models: Path) -> None:
    models.mkdir()
    (models / "tiny.gguf").write_bytes(b"damaged")
    get(hub, models)
    assert (models / "tiny.gguf").read_bytes() == b"damaged"
    hub.script = [Manner(status=404)]
    with pytest.raises(FetchError):
        fetch(TINY, models, lambda *_: None, threading.Event(), hub=hub.url, replace=True)
    assert (models / "tiny.gguf").read_bytes() == b"damaged"
    fetch(TINY, models, lambda *_: None, threading.Event(), hub=hub.url, replace=True)
    assert check(TINY, models)
    asked = len(hub.asked)
    fetch(TINY, models, lambda *_: None, threading.Event(), hub=hub.url, replace=True)
    assert len(hub.asked) == asked
