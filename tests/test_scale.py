"""docs/scaling.md says what benchmarks/scale.py prints, and that adds up."""

from pathlib import Path

import pytest

from benchmarks.scale import Costs, Load, Machine, need, report, streams_of_worker

DOC = Path(__file__).resolve().parent.parent / "docs" / "scaling.md"


def test_the_page_has_the_tables_that_the_program_prints() -> None:
    assert report() in DOC.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["token", "delivery", "postgres", "redis", "socket", "waiting", "stream"])
def test_the_page_names_each_measured_cost(name: str) -> None:
    assert f"{getattr(Costs(), name):g}" in DOC.read_text(encoding="utf-8").partition("## One")[0]


def test_a_worker_is_bounded_by_its_core_or_by_its_memory() -> None:
    load, machine = Load(tokens=10, more_readers=0, waiting_sockets=0), Machine(cores=1, gib=1, busy=0.5)
    assert streams_of_worker(Costs(token=1_000), load, machine) == 50
    by_memory = Costs(token=1, socket=0, stream=1024, process=0)
    assert streams_of_worker(by_memory, load, machine) == 512


def test_twice_the_streams_need_twice_the_machines() -> None:
    few, many = (need(streams, Costs(), Load(), Machine()) for streams in (1_000_000, 2_000_000))
    assert many.workers in range(2 * few.workers - 1, 2 * few.workers + 1)
    assert many.machines in range(2 * few.machines - 1, 2 * few.machines + 1)
    assert 0 < few.postgres <= many.postgres
