"""What a scenario file says. Sizes are in bytes (or quantities like 500Gi), times in seconds.

Owns the fields and their checks. `headrace sim run FILE` reads one; unknown fields are errors.
"""

from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from api.quantities import to_int
from simulations.engine.model import BLOCK_BYTES
from simulations.errors import ScenarioError
from simulations.policies.registry import POLICIES

BUILT_IN = Path(__file__).parent


def _bytes(value: object) -> object:
    return to_int(value) if isinstance(value, str) else value


Size = Annotated[float, BeforeValidator(_bytes), Field(ge=0, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0)]
Finite = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Size1 = Annotated[float, BeforeValidator(_bytes), Field(ge=1, allow_inf_nan=False)]
Node = Annotated[int, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]


class Model(BaseModel):
    """Base: a field that is not known is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Lognormal(Model):
    """exp(normal): `median`, spread `sigma` (0: always the median), cut off at `most`."""

    median: Finite
    sigma: Annotated[float, Field(ge=0, le=4)] = 0.0
    most: Positive = float("inf")


class Sizes(Lognormal):
    """The same of sizes, which may be quantities."""

    median: Size1
    most: Annotated[float, BeforeValidator(_bytes), Field(gt=0)] = float("inf")


class NodePool(Model):
    """Equal nodes. Cache sizes are what Headrace's worker, or Fluid's, may use of the node."""

    count: Count
    gpus: Annotated[int, Field(ge=0)] = 8
    cpu_milli: Count = 96_000
    memory: Size = 768 * 2**30
    cache_mem: Size = 0.0
    cache_ssd: Size = 0.0
    spot: bool = False


class Cluster(Model):
    """Nodes by pools, or by a trace given with --trace (`openb`: GPU nodes as listed, synthetic ones without it)."""

    pools: tuple[NodePool, ...] = ()
    openb_nodes: Annotated[int, Field(ge=0)] = 0
    """How many GPU nodes with openb's marginals, before the pools."""
    openb_cache_ssd: Size = 0.0
    rack_nodes: Count = 16
    zones: Count = 1
    nic: Finite = 12.5e9
    uplink: Finite = 50e9
    origin: Finite = 10e9
    mem_speed: Finite = 8e9
    ssd_speed: Finite = 12e9
    """Of all of a node's cache disks together: four NVMe."""
    peer_stream: Positive = float("inf")
    origin_stream: Positive = float("inf")
    node_mtbf_seconds: Positive = float("inf")
    node_repair_seconds: Finite = 1800.0

    @model_validator(mode="after")
    def _has_nodes(self) -> "Cluster":
        if not self.pools and not self.openb_nodes:
            raise ValueError("cluster has no nodes; give pools or openb_nodes")
        return self


class Datasets(Model):
    """`count` datasets; `resident`: node number → share of dataset 0 that is there at the start."""

    count: Annotated[int, Field(ge=0)] = 1
    bytes: Sizes = Sizes(median=100 * 2.0**30)
    resident: dict[Node, Annotated[float, Field(ge=0, le=1)]] = {}
    only_there: bool = False
    """Whether dataset 0 is kept on the nodes of `resident` alone (a Dataset with a nodeAffinity); else on all."""
    file: Size1 = float(BLOCK_BYTES)
    """Bytes of one file: a cache gives up whole files, and of large ones each node is some block's home."""


class JobSize(Model):
    """One kind of job: its pods, GPUs a pod, and how often it comes."""

    pods: Count = 1
    gpus: Annotated[int, Field(ge=0)] = 1
    weight: Positive = 1.0
    cpu_milli: Count | None = None
    """None: 8 cores a GPU, 4 without GPUs."""


class Workload(Model):
    """Jobs. `source` synthetic draws them; philly and openb take arrivals, durations and sizes from the trace given
    with --trace, or from generators with the published marginals."""

    source: Literal["synthetic", "philly", "openb"] = "synthetic"
    jobs: Count = 100
    arrival_seconds: Seconds = 60.0
    """Mean time between jobs (exponential); 0: all at once. Traces keep their own gaps, scaled to this mean."""
    sizes: Annotated[tuple[JobSize, ...], Field(min_length=1)] = (JobSize(),)
    compute_seconds: Lognormal = Lognormal(median=3600.0, sigma=0.5)
    """Run time when no data is waited for; `most` cuts off a trace's too."""
    reads: Literal["nothing", "zipf", "same", "by-team", "own"] = "zipf"
    """Which dataset a job reads: Zipf over all, dataset 0, Zipf over its team's share of them, or a job its own."""
    zipf: Annotated[float, Field(ge=0, le=3)] = 1.0
    gang_share: Annotated[float, Field(ge=0, le=1)] = 0.0
    """openb only, which has no gangs: this share of the jobs is drawn from `sizes` instead."""
    read_speed_per_gpu: Finite = 100e6
    """f* in bytes a second: what a GPU consumes when nothing is waited for."""
    users: Count = 8
    checkpoint: Size = 0.0
    checkpoint_seconds: Finite = 1800.0
    max_wait_seconds: Seconds = 0.0
    required: bool = False
    """Jobs run only where their dataset is cached: all of it for Headrace, some for Fluid. Nothing brings it there."""


class FaultPlan(Model):
    """Faults at a time; several nodes one after the other, `each_seconds` apart. `nodes`: numbers, or `share` of the
    spot nodes (kind spot) or of all, drawn by the seed."""

    kind: Literal["crash", "spot", "upgrade", "remove", "brownout"]
    at: Seconds
    nodes: tuple[Node, ...] = ()
    share: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Of the nodes; for a brownout: of the origin's speed that is left."""
    each_seconds: Seconds = 0.0
    seconds: Seconds = 600.0
    notice_seconds: Seconds = 120.0

    @model_validator(mode="after")
    def _hits_something(self) -> "FaultPlan":
        if self.kind == "brownout":
            if self.nodes:
                raise ValueError(f"a brownout is the origin's, but nodes is {list(self.nodes)}; leave it out")
        elif bool(self.nodes) == bool(self.share):
            both = "both" if self.nodes else "neither"
            raise ValueError(f"a fault of kind {self.kind} hits nodes or a share of them, but {both} given; give one")
        return self


class Scenario(Model):
    """One question, and the world it is asked in."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")]
    question: str
    cluster: Cluster
    datasets: Datasets = Datasets()
    workload: Workload = Workload()
    faults: tuple[FaultPlan, ...] = ()
    policies: Annotated[tuple[str, ...], Field(min_length=1)] = tuple(POLICIES)
    """Run side by side; without any: all that `headrace sim list` has."""
    seeds: Count = 3
    origin_price_per_gib: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.05
    tick_seconds: Seconds = 1.0
    end_spread_seconds: Seconds = 0.0
    """The pods of a job that is done leave their nodes within so long; 0: all at once."""
    report_seconds: Seconds = 10.0
    horizon_seconds: Positive = float("inf")

    @model_validator(mode="after")
    def _fits_together(self) -> "Scenario":
        unknown = [name for name in self.policies if name not in POLICIES]
        if unknown:
            raise ValueError(f"policies {unknown} are not known; choose from {', '.join(POLICIES)}")
        if self.workload.reads != "nothing" and not self.datasets.count:
            raise ValueError(f"workload.reads is {self.workload.reads!r} but datasets.count is 0; give it datasets")
        if len(set(self.policies)) < len(self.policies):
            raise ValueError(f"policies {list(self.policies)} name one twice; give each once")
        cluster, data = self.cluster, self.datasets
        count = cluster.openb_nodes + sum(pool.count for pool in cluster.pools)
        named = {
            "datasets.resident": data.resident,
            **{f"faults.{i}.nodes": f.nodes for i, f in enumerate(self.faults)},
        }
        for where, nodes in named.items():
            if nodes and max(nodes) >= count:
                raise ValueError(f"{where} names node {max(nodes)}, but there are {count}; give numbers from 0 on")
        if data.only_there and not data.resident:
            raise ValueError("datasets.only_there is true but resident is empty; name the nodes that keep dataset 0")
        spot = sum(pool.count for pool in cluster.pools if pool.spot)
        if not spot and any(fault.kind == "spot" and fault.share for fault in self.faults):
            raise ValueError("a fault of kind spot has a share of the spot nodes, but no pool is spot; mark one")
        return self


def load(file: Path) -> Scenario:
    """Read a scenario file. Raises ScenarioError with one sentence a problem."""
    try:
        raw = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ScenarioError(
            f"scenario {file}: {error.strerror}; give a file, or a name `headrace sim list` has"
        ) from None
    except UnicodeDecodeError as error:
        raise ScenarioError(f"scenario {file} is not UTF-8 text: {error}; give a YAML file") from None
    except yaml.YAMLError as error:
        raise ScenarioError(f"scenario {file} is not valid YAML: {error}") from None
    try:
        return Scenario.model_validate(raw)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, item['loc'])) or 'file'}: {item['msg']} (got {str(item.get('input'))[:80]})"
            for item in error.errors()
        )
        raise ScenarioError(f"scenario {file}: {problems}") from None


def built_in() -> dict[str, Path]:
    """Scenarios that come with Headrace, by name."""
    return {file.stem: file for file in sorted(BUILT_IN.glob("*.yaml"))}


def find(word: str) -> Path:
    """The file of a name or a path."""
    return built_in().get(word, Path(word))
