"""What a simulation is made of: nodes, datasets, jobs, faults. Plain values; sizes in bytes, times in seconds."""

from dataclasses import dataclass, field

GIB = 1 << 30
BLOCK_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class NodeSpec:
    """A node. `mem_bytes` and `ssd_bytes` are its cache's tiers, not its memory."""

    name: str
    gpus: int
    cpu_milli: int
    memory_bytes: int
    rack: int
    zone: str = "a"
    mem_bytes: float = 0.0
    ssd_bytes: float = 0.0
    is_spot: bool = False


@dataclass(frozen=True, slots=True)
class DatasetSpec:
    """A dataset. `resident`: node number → bytes that are there at the start. `file_bytes`: of one file; the blocks of
    a file have different homes. `homes`: the nodes that alone keep anything of it; empty: every node with a cache."""

    name: str
    size_bytes: float
    resident: dict[int, float] = field(default_factory=dict)
    file_bytes: float = float(BLOCK_BYTES)
    block_bytes: float = float(BLOCK_BYTES)
    homes: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class JobSpec:
    """A job: `pods` equal pods that start together.

    `compute_seconds`: its run time if data came at once, so that f* = epochs · dataset / compute_seconds. Each
    epoch reads the dataset once, the pods sharing it. Without a dataset only compute counts. `checkpoint_bytes` are
    written every `checkpoint_seconds` of work and read when it starts again.
    """

    name: str
    submit_seconds: float
    pods: int
    gpus: int
    cpu_milli: int
    memory_bytes: int
    compute_seconds: float
    dataset: int | None = None
    epochs: float = 1.0
    user: str = ""
    priority: int = 0
    checkpoint_bytes: float = 0.0
    checkpoint_seconds: float = 1800.0
    max_wait_seconds: float = 0.0

    @property
    def total_gpus(self) -> int:
        """GPUs of all its pods."""
        return self.pods * self.gpus


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that happens to nodes or to the origin.

    `kind`: crash (back after `seconds`, memory lost), spot (notice, gone `notice_seconds` later with all it cached,
    back after `seconds`), upgrade (drained, back after `seconds` with its disk), remove (drained, gone for ever),
    brownout (the origin gives `share` of its speed for `seconds`).
    """

    at: float
    kind: str
    nodes: tuple[int, ...] = ()
    seconds: float = 0.0
    notice_seconds: float = 0.0
    share: float = 1.0

    @property
    def is_over_at(self) -> float:
        """When the last of it was felt: nodes are back, or gone for ever."""
        return self.at + self.notice_seconds + self.seconds


@dataclass(frozen=True, slots=True)
class Speeds:
    """Bytes a second. `origin` is for the whole cluster; `peer_stream` and `origin_stream` are the most one pod
    gets from peers and from the origin."""

    nic: float = 12.5e9
    uplink: float = 50e9
    origin: float = 10e9
    mem: float = 8e9
    ssd: float = 3e9
    peer_stream: float = float("inf")
    origin_stream: float = float("inf")


@dataclass(frozen=True, slots=True)
class World:
    """Everything a run starts from. `tick_seconds`: rates are shared anew at most this often; 0: at every event.
    `end_spread_seconds`: the pods of a job that is done leave their nodes within so long.
    `report_seconds`: how often caches tell what they hold. `horizon_seconds`: the run ends then, finished or not.
    `in_flight_bytes`: what one reader has asked for and not got; next to nothing of a dataset, unless it is small."""

    name: str
    nodes: tuple[NodeSpec, ...]
    datasets: tuple[DatasetSpec, ...]
    jobs: tuple[JobSpec, ...]
    speeds: Speeds = Speeds()
    faults: tuple[Fault, ...] = ()
    node_mtbf_seconds: float = float("inf")
    node_repair_seconds: float = 1800.0
    tick_seconds: float = 0.0
    end_spread_seconds: float = 0.0
    report_seconds: float = 10.0
    horizon_seconds: float = float("inf")
    in_flight_bytes: float = 0.0
    seed: int = 0
