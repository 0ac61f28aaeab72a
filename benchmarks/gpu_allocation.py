"""How much of a cluster's GPUs can be given away: pods in a row until more is asked for than there is.

Owns the arrivals, which are drawn at random from a workload (FGD's inflation experiment, USENIX ATC'23), and the
count of GPUs given. The scheduler's core decides, with its default weights; the yardstick is the same core, pods in
the same order, spreading by free cpu and memory only, as kube-scheduler's defaults do. With --nodes and --pods the
cluster and the workload are those of the openb trace's CSV files (whole GPUs only); else a made-up mix of both.
"""

import argparse
import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from api import names
from benchmarks import frame
from kube.identity import ObjectMeta
from kube.objects import Container, Node, NodeStatus, Pod, PodSpec, ResourceRequirements
from scheduler.core.decisions import Bind
from scheduler.core.engine import Engine
from scheduler.core.events import NodeChanged, PodPending
from scheduler.core.pod_request import ShapeCache, pod_request
from scheduler.plugins.registry import build
from scheduler.settings import Settings, Weights, engine_settings

SPREADING = Weights(stage_in=0, gpu_fit=0, preferences=0, pod_affinity=0, spread=0, balance=1)
YARDSTICK = "spreading by cpu and memory"
# GPUs asked for so far, against all there are, when the GPUs given away are counted.
LOADS = (0.9, 1.0, 1.3)
MADE_UP_NODES = 200
QUICK_NODES = 40


@dataclass(frozen=True, slots=True)
class Size:
    """A node's room, or what a pod asks for: millicores, MiB, GPUs."""

    cpu: int
    memory: int
    gpus: int

    @property
    def amounts(self) -> dict[str, str]:
        """As Kubernetes writes them."""
        found = {"cpu": f"{self.cpu}m", "memory": f"{self.memory}Mi"}
        return found | ({names.GPU_RESOURCE: str(self.gpus)} if self.gpus else {})


# Shapes of common GPU servers, and of training, notebooks, inference and preprocessing on them.
NODES = (Size(96_000, 786_432, 8), Size(96_000, 393_216, 4), Size(64_000, 262_144, 2))
PODS = (
    *[Size(8000, 32_768, 1)] * 50,
    *[Size(16_000, 65_536, 1)] * 14,
    *[Size(32_000, 131_072, 1)] * 6,
    *[Size(16_000, 65_536, 2)] * 8,
    *[Size(32_000, 131_072, 4)] * 6,
    *[Size(64_000, 524_288, 8)] * 4,
    *[Size(16_000, 65_536, 0)] * 12,
)


def main(arguments: list[str]) -> int:
    """Run the cases; prints the report."""
    options = _options(arguments)
    nodes, pods, source = _made_up(options.quick) if options.nodes is None else _read(options.nodes, options.pods)
    found: list[tuple[list[float], list[float]]] = []
    for seed in range(options.runs):
        frame.progress(f"run {seed + 1} of {options.runs}")
        found.append((fill(nodes, pods, Weights(), seed), fill(nodes, pods, SPREADING, seed)))
    cases = [
        frame.Case(
            f"allocation-at-{round(load * 100)}-percent",
            "% of GPUs",
            [(ours[index], theirs[index]) for ours, theirs in found],
            yardstick=YARDSTICK,
            goal=0.98,
            note=f"{source}; {len(nodes)} nodes; a run is one order of arrivals",
        )
        for index, load in enumerate(LOADS)
    ]
    frame.report("gpu-allocation", cases, options.json, options.plot)
    return 0


def fill(nodes: Sequence[Size], workload: Sequence[Size], weights: Weights, seed: int) -> list[float]:
    """Percent of all GPUs given away at each of LOADS."""
    random, shapes = Random(seed), ShapeCache()
    settings = Settings(weights=weights)
    engine = Engine(build(settings), engine_settings(settings))
    order = list(nodes)
    random.shuffle(order)
    engine.handle([NodeChanged(_node(index, size)) for index, size in enumerate(order)], 0.0)
    total = sum(size.gpus for size in nodes)
    asked = given = number = 0
    made: list[float] = []
    while len(made) < len(LOADS):
        size = random.choice(workload)
        number += 1
        engine.handle([PodPending(pod_request(_pod(number, size), shapes))], float(number))
        if any(isinstance(decision, Bind) for decision in engine.decide(float(number), 1)):
            given += size.gpus
        asked += size.gpus
        while len(made) < len(LOADS) and asked >= LOADS[len(made)] * total:
            made.append(100.0 * given / total)
    return made


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = frame.parser("gpu-allocation", __doc__ or "")
    parser.add_argument("--nodes", type=Path, metavar="CSV", help="node list of the openb trace")
    parser.add_argument("--pods", type=Path, metavar="CSV", help="pod list of the openb trace")
    options = parser.parse_args(arguments)
    if (options.nodes is None) != (options.pods is None):
        parser.error("--nodes and --pods go together: give both files of the trace, or none")
    return options


def _made_up(quick: bool) -> tuple[list[Size], Sequence[Size], str]:
    count = QUICK_NODES if quick else MADE_UP_NODES
    return [NODES[index % len(NODES)] for index in range(count)], PODS, "made-up cluster and workload"


def _read(nodes: Path, pods: Path) -> tuple[list[Size], list[Size], str]:
    with nodes.open(encoding="utf-8", newline="") as file:
        sizes = [Size(int(row["cpu_milli"]), int(row["memory_mib"]), int(row["gpu"])) for row in csv.DictReader(file)]
    with pods.open(encoding="utf-8", newline="") as file:
        asked = [
            Size(int(row["cpu_milli"]), int(row["memory_mib"]), int(row["num_gpu"]))
            for row in csv.DictReader(file)
            # Parts of a GPU are not what this scheduler gives out.
            if int(row["num_gpu"]) == 0 or int(row["gpu_milli"]) == 1000
        ]
    return sizes, asked, f"{nodes.name}, {pods.name}, whole GPUs"


def _node(index: int, size: Size) -> Node:
    allocatable = size.amounts | {"pods": "250"}
    return Node(metadata=ObjectMeta(name=f"node-{index}"), status=NodeStatus(allocatable=allocatable))


def _pod(number: int, size: Size) -> Pod:
    container = Container(name="main", resources=ResourceRequirements(requests=dict(size.amounts)))
    metadata = ObjectMeta(name=f"p-{number}", namespace="default", uid=f"p-{number}")
    return Pod(metadata=metadata, spec=PodSpec(containers=[container]))
