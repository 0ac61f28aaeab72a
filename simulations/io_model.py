"""What the event engine expects of readers whose every epoch is counted: for comparing it with the real cache.

Owns the small world (one node a reader, nodes that only cache, one dataset, one origin) and what it comes to an epoch.
Pure. `benchmarks/io_model.py` runs the same on real workers.
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
    `reader_bytes_per_second`: what a reader takes when nothing is waited for; `origin_bytes_per_second`: for all;
    `idle_nodes`: more of the same caches, without a reader; `first_part`: how much of the dataset the first epoch
    reads; `file_bytes`, `block_bytes`: of the dataset; `files_open`: by a reader at a time."""

    nodes: int
    fraction: float
    dataset_bytes: int
    epochs: int
    reader_bytes_per_second: float
    origin_bytes_per_second: float
    idle_nodes: int = 0
    first_part: float = 1.0
    file_bytes: int = 1 << 20
    block_bytes: int = 256 << 10
    files_open: int = 4


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
    first = _total(readers, [_Pass(0.0, readers.first_part)])
    if readers.first_part < 1.0:
        # Whole epochs begin anew when the part is read: other jobs, on the same nodes.
        start = 2 * first.seconds
        waited = Epoch(first.local_bytes, first.peer_bytes, first.origin_bytes, start)
        passes = [[_Pass(0.0, readers.first_part), _Pass(start, epochs)] for epochs in range(1, readers.epochs)]
        totals = [waited, *(_total(readers, each) for each in passes)]
    else:
        totals = [first, *(_total(readers, [_Pass(0.0, epochs)]) for epochs in range(2, readers.epochs + 1))]
    return [first, *(_difference(later, sooner) for sooner, later in pairwise(totals))]


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


@dataclass(frozen=True, slots=True)
class _Pass:
    """Readers that begin at `start_seconds` and read so many epochs."""

    start_seconds: float
    epochs: float


def _total(readers: Readers, passes: list[_Pass]) -> Epoch:
    room = readers.fraction * readers.dataset_bytes
    nodes = tuple(
        NodeSpec(f"n{index}", int(index < readers.nodes), 1000, 1 << 30, 0, ssd_bytes=room)
        for index in range(readers.nodes + readers.idle_nodes)
    )
    seconds = readers.dataset_bytes / readers.reader_bytes_per_second
    jobs = tuple(
        JobSpec(
            f"reader-{each.start_seconds:.0f}-{index}",
            each.start_seconds,
            1,
            1,
            100,
            1 << 20,
            each.epochs * seconds,
            dataset=0,
            epochs=each.epochs,
        )
        for each in passes
        for index in range(readers.nodes)
    )
    # All on one machine: only the origin is slow.
    speeds = Speeds(UNLIMITED, UNLIMITED, readers.origin_bytes_per_second, UNLIMITED, UNLIMITED)
    data = DatasetSpec(
        "data", readers.dataset_bytes, file_bytes=readers.file_bytes, block_bytes=float(readers.block_bytes)
    )
    in_flight = float(readers.files_open * readers.file_bytes)
    world = World("io-model", nodes, (data,), jobs, speeds, in_flight_bytes=in_flight)
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
