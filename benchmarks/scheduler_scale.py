"""Cost against size: seconds a decision and memory of the scheduler's core, from 500 to 15,000 nodes.

Owns the sizes and the yardstick, which is the straight line through the smallest size: a ratio of 1 or more means
that nothing grows faster than the cluster. Each size runs in a process of its own, so that memory is its own.
"""

import json
import resource
import subprocess
import sys
import time

from benchmarks import frame
from benchmarks.scheduler_core import BINDS_A_ROUND, engine_with_nodes, plain_pod
from scheduler.core.assumed import AssignedPod
from scheduler.core.events import PodAssigned, PodPending
from scheduler.core.pod_request import ShapeCache, pod_request

SIZES = (500, 1000, 2000, 5000, 10_000, 15_000)
QUICK_SIZES = (500, 2000)
BOUND_PODS_A_NODE = 10
PODS = 5000
CHILD_SECONDS = 300


def scale_cases(*, quick: bool) -> list[frame.Case]:
    """Two cases a size: microseconds a decision, and MiB of the process."""
    measured = {}
    for nodes in QUICK_SIZES if quick else SIZES:
        frame.progress(f"scale: {nodes} nodes, {nodes * BOUND_PODS_A_NODE} bound pods")
        child = subprocess.run(
            [sys.executable, "-m", "benchmarks.scheduler_scale", str(nodes)],
            capture_output=True,
            text=True,
            check=True,
            timeout=CHILD_SECONDS,
        )
        measured[nodes] = json.loads(child.stdout)
    smallest = min(measured)
    cases = []
    for name, unit in (("decision", "µs"), ("memory", "MiB")):
        for nodes, figures in measured.items():
            cases.append(
                frame.Case(
                    f"scale-{name}-{nodes}-nodes",
                    unit,
                    [(figures[name], measured[smallest][name] * nodes / smallest)],
                    yardstick=f"linear from {smallest}",
                    higher_is_better=False,
                    goal=1.0,
                    note=f"{BOUND_PODS_A_NODE} bound pods a node; all nodes scored",
                )
            )
    return cases


def measure(nodes: int) -> dict[str, float]:
    """Fill a cluster of that size, decide PODS plain pods; microseconds a decision, peak MiB of this process."""
    engine, shapes = engine_with_nodes(nodes), ShapeCache()
    asked = shapes.shape_of(plain_pod(0)).requests
    for node in range(nodes):
        bound = [
            PodAssigned(AssignedPod(f"b-{node}-{index}", "default", f"b-{node}-{index}", f"node-{node}", asked))
            for index in range(BOUND_PODS_A_NODE)
        ]
        engine.handle(bound, 0.0)
    engine.handle([PodPending(pod_request(plain_pod(index), shapes)) for index in range(PODS)], 0.0)
    started, decided = time.perf_counter(), 0
    while decided < PODS:
        decided += len(engine.decide(0.0, BINDS_A_ROUND))
    seconds = time.perf_counter() - started
    return {"decision": seconds / PODS * 1e6, "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


if __name__ == "__main__":
    print(json.dumps(measure(int(sys.argv[1]))))
