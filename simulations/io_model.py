"""What the event engine expects of readers whose every epoch is counted: for comparing it with the real cache.

Owns the small world (one node a reader, one dataset, one origin) and what it comes to an epoch. Pure.
`benchmarks/io_model.py` runs the same on real workers.
"""

from dataclasses import dataclass
from itertools import pairwise

from simulations.engine.model import DatasetSpec, JobSpec, NodeSpec, Speeds, World
from simulations.engine.simulation import Simulation
from simulations.policies.registry import POLICIES

TOLERANCE = 0.10
HARDLY = 0.02
"""Of an epoch's bytes: a source that gives less has no meaningful ratio."""
UNLIMITED = 1e12


@dataclass(frozen=True, slots=True)
class Readers:
    """So many nodes with a reader each, all beginning together. `fraction`: room of each node's cache, of the dataset;
    `reader_bytes_per_second`: what a reader takes when nothing is waited for; `origin_bytes_per_second`: for all."""

    nodes: int
    fraction: float
    dataset_bytes: int
    epochs: int
    reader_bytes_per_second: float
    origin_bytes_per_second: float


@dataclass(frozen=True, slots=True)
class Epoch:
    """What all readers read in one epoch, by source, and how long the slowest one took."""

    local_bytes: float
    peer_bytes: float
    origin_bytes: float
    seconds: float

    @property
    def read_bytes(self) -> float:
        """From everywhere."""
        return self.local_bytes + self.peer_bytes + self.origin_bytes


def expected(readers: Readers) -> list[Epoch]:
    """Every epoch, by the event engine."""
    totals = [_total(readers, epochs) for epochs in range(1, readers.epochs + 1)]
    return totals[:1] + [_difference(later, sooner) for sooner, later in pairwise(totals)]


def mean(epochs: list[Epoch]) -> Epoch:
    """The mean of several epochs."""
    count = len(epochs)
    return Epoch(
        sum(epoch.local_bytes for epoch in epochs) / count,
        sum(epoch.peer_bytes for epoch in epochs) / count,
        sum(epoch.origin_bytes for epoch in epochs) / count,
        sum(epoch.seconds for epoch in epochs) / count,
    )


def bytes_apart(one: Epoch, other: Epoch) -> float:
    """The largest difference of a source's bytes, as a share of the larger; sources hardly used are left out."""
    pairs = (
        (one.local_bytes, other.local_bytes),
        (one.peer_bytes, other.peer_bytes),
        (one.origin_bytes, other.origin_bytes),
    )
    least = HARDLY * max(one.read_bytes, other.read_bytes)
    return max((apart(*pair) for pair in pairs if max(pair) > least), default=0.0)


def apart(one: float, other: float) -> float:
    """How far two figures are apart, as a share of the larger."""
    largest = max(one, other)
    return abs(one - other) / largest if largest else 0.0


def _total(readers: Readers, epochs: int) -> Epoch:
    room = readers.fraction * readers.dataset_bytes
    nodes = tuple(NodeSpec(f"n{index}", 1, 1000, 1 << 30, 0, ssd_bytes=room) for index in range(readers.nodes))
    seconds = epochs * readers.dataset_bytes / readers.reader_bytes_per_second
    jobs = tuple(
        JobSpec(f"reader-{index}", 0.0, 1, 1, 100, 1 << 20, seconds, dataset=0, epochs=epochs)
        for index in range(readers.nodes)
    )
    # All on one machine: only the origin is slow.
    speeds = Speeds(UNLIMITED, UNLIMITED, readers.origin_bytes_per_second, UNLIMITED, UNLIMITED)
    world = World("io-model", nodes, (DatasetSpec("data", readers.dataset_bytes),), jobs, speeds)
    found = Simulation(world, POLICIES["headrace"]).run()
    figures = {name: value or 0.0 for name, value in found.figures.items()}
    return Epoch(
        figures["local_bytes"],
        figures["near_peer_bytes"] + figures["far_peer_bytes"],
        figures["origin_bytes"],
        figures["makespan_seconds"],
    )


def _difference(later: Epoch, sooner: Epoch) -> Epoch:
    return Epoch(
        later.local_bytes - sooner.local_bytes,
        later.peer_bytes - sooner.peer_bytes,
        later.origin_bytes - sooner.origin_bytes,
        later.seconds - sooner.seconds,
    )
