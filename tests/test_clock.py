"""The machine's clock is set while answers are written, under real servers: libfaketime reads the offset from a file at
each look. Their leases are on the database's clock, which is SQLite's, which is the machine's."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.conftest import register_on
from tests.test_kill import Crowd, servers

LIBRARIES = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
STEP_SECONDS = 20
"""Ten leases, and less than a token lives."""


@pytest.mark.skipif(not LIBRARIES, reason="libfaketime is not installed")
@pytest.mark.parametrize("step", [STEP_SECONDS, -STEP_SECONDS], ids=["forward", "back"])
async def test_a_clock_that_is_set_costs_nobody_an_answer(tmp_path: Path, step: int) -> None:
    """By the new time every lease has run out ten times over, and everybody is alive: by the looks of it all are dead,
    and whoever looks first would end the answers of the others."""
    offset = tmp_path / "offset"
    offset.write_text("+0s")
    preloaded = {
        "LD_PRELOAD": str(LIBRARIES[0]),
        "FAKETIME_TIMESTAMP_FILE": str(offset),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "DONT_FAKE_MONOTONIC": "1",
    }
    async with servers(tmp_path / "data", 2, **preloaded) as (home, other):
        crowd = Crowd([home, other], await asyncio.to_thread(register_on, home))
        await crowd.gather(home, "scripted:every=0.05,words=300")
        assert crowd.mark()
        following = tmp_path / "following"
        following.write_text(f"{step:+d}s")
        # In one step: a file that is read half-written is no offset.
        following.rename(offset)
        await crowd.end()
        await crowd.check(other, "COMPLETED")
        for server in (home, other):
            assert "clock was set" in server.log()
            assert "taken for dead" not in server.log()
