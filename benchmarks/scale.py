"""How many machines so many concurrent streams need, from measured costs: `python -m benchmarks.scale`.

`Costs` has what `benchmarks.sockets --postgres` and `benchmarks.publications` measured on two quiet cores; measure
yours and put the figures in. docs/scaling.md has what this prints."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

STREAMS = (1_000, 100_000, 10_000_000)


@dataclass(frozen=True)
class Costs:
    """Microseconds of one core's time, and KiB. `token`: generated, stored, and delivered to one reader."""

    token: float = 133
    delivery: float = 67
    waiting: float = 92
    postgres: float = 10
    redis: float = 1.5
    socket: float = 43
    stream: float = 200
    process: float = 200 * 1024


@dataclass(frozen=True)
class Load:
    """Of each stream: tokens a second, readers besides the one who asked, and sockets that wait."""

    tokens: float = 30
    more_readers: float = 0.1
    waiting_sockets: float = 4


@dataclass(frozen=True)
class Machine:
    """`busy`: the share of a core that may be used before latency grows."""

    cores: int = 16
    gib: int = 64
    busy: float = 0.6


@dataclass(frozen=True)
class Need:
    """Machines for one number of streams. Redis has one thread for commands: a node of it is a core."""

    streams: int
    workers: int
    machines: int
    postgres: int
    redis: int


def per_stream(costs: Costs, load: Load) -> tuple[float, float, float, float]:
    """Of one stream: the worker's microseconds a second, PostgreSQL's, Redis's, and the worker's KiB."""
    worker = load.tokens * (costs.token + load.more_readers * costs.delivery) + load.waiting_sockets * costs.waiting
    sockets = 1 + load.more_readers + load.waiting_sockets
    return worker, load.tokens * costs.postgres, load.tokens * costs.redis, costs.stream + sockets * costs.socket


def streams_of_worker(costs: Costs, load: Load, machine: Machine) -> int:
    """By its core; the memory that a core has beside it is checked, too."""
    worker, _, _, kib = per_stream(costs, load)
    by_time = machine.busy * 1e6 / worker
    by_memory = (machine.gib * 1024 * 1024 / machine.cores * machine.busy - costs.process) / kib
    return int(min(by_time, by_memory))


def need(streams: int, costs: Costs, load: Load, machine: Machine) -> Need:
    _, postgres, redis, _ = per_stream(costs, load)
    workers = math.ceil(streams / streams_of_worker(costs, load, machine))
    return Need(
        streams,
        workers,
        math.ceil(workers / machine.cores),
        math.ceil(streams * postgres / (machine.busy * 1e6 * machine.cores)),
        math.ceil(streams * redis / (machine.busy * 1e6)),
    )


def table(costs: Costs, load: Load, machine: Machine) -> Iterator[str]:
    machines = f"machines of {machine.cores} cores"
    yield f"| concurrent streams | workers (a core each) | {machines} | PostgreSQL primaries | Redis nodes |"
    yield "| --- | --- | --- | --- | --- |"
    for streams in STREAMS:
        found = need(streams, costs, load, machine)
        figures = (found.streams, found.workers, found.machines, found.postgres, found.redis)
        yield "| " + " | ".join(f"{figure:,}" for figure in figures) + " |"


def one_of_each(costs: Costs, load: Load, machine: Machine) -> Iterator[str]:
    """How far one of everything goes."""
    _, postgres, redis, _ = per_stream(costs, load)
    worker = streams_of_worker(costs, load, machine)
    yield "| one | streams | tokens a second |"
    yield "| --- | --- | --- |"
    for name, streams in (
        ("worker (a core)", worker),
        (f"machine of {machine.cores} cores", worker * machine.cores),
        (f"PostgreSQL of {machine.cores} cores", int(machine.busy * 1e6 * machine.cores / postgres)),
        ("Redis", int(machine.busy * 1e6 / redis)),
    ):
        yield f"| {name} | {streams:,} | {round(streams * load.tokens):,} |"


def report() -> str:
    settings = Costs(), Load(), Machine()
    return "\n".join([*one_of_each(*settings), "", *table(*settings)])


if __name__ == "__main__":
    print(report())
