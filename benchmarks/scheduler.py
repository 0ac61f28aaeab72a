"""Schedulers on one real API server, one after another: pods bound per second, first to last bind.

Owns the cluster of the run (etcd and kube-apiserver as processes, nodes as plain objects, no controllers)
and the clock: an independent watch sees the binds. Every scheduler gets the same nodes, fresh pods created
beforehand, the same client limits and the same way to sign in. Nothing runs the pods, so they stay Pending
after the bind. A scheduler is a command; {kubeconfig} and {name} (the pods' schedulerName) are filled in."""

import argparse
import asyncio
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import msgspec

from api import names
from benchmarks import frame
from benchmarks.cluster import Meta, account_kubeconfig, create_all
from benchmarks.scheduler_core import core_cases
from benchmarks.scheduler_restart import bound_pods, restart_cases
from benchmarks.scheduler_scale import scale_cases
from benchmarks.scheduler_shapes import GOAL_RATIO as GOAL_SHAPED_RATIO
from benchmarks.scheduler_shapes import SHAPES, Shape, core_shape_cases
from headrace.cluster import manifests
from headrace.cluster.binaries import require
from headrace.cluster.control_plane import WITHOUT_CONTROLLERS, ControlPlane
from kube.client import KubeClient
from kube.config import load_config
from kube.resources import NODES, POD_GROUPS, PODS, VOLCANO_POD_GROUPS, Resource
from kube.watch import list_watch
from simulations.kwok.process import QPS, Scheduler, headrace_scheduler, kube_scheduler, running

NAMESPACE = "default"
ACCOUNT = "bench-scheduler"
SETTLE_SECONDS = 3.0
# A scheduler that binds nothing more for so long is stuck; the case then fails with what it did.
STUCK_SECONDS = 60.0
GOAL_RATIO = 2.5
GOAL_GANG_RATIO = 1 / 1.1
KINDS = ("plain", "shaped", "gang", "core", "scale", "restart")
# Members a gang: 20 gangs of 500, 500 of 20, one of 10,000 of the same number of pods.
GANG_SIZES, GANG_PODS = (500, 20, 10_000), 10_000
GANG_APIS: dict[str, Resource] = {"scheduling.x-k8s.io": POD_GROUPS, "volcano": VOLCANO_POD_GROUPS}
QUICK_SHAPES = ("spread", "anti-affinity")
RESTART_NODES, RESTART_PODS = 5000, 50_000
QUICK_RESTART_PODS = 2000


class _Spec(msgspec.Struct, gc=False):
    nodeName: str = ""


class _Pod(msgspec.Struct, gc=False):
    """As little of a pod as shows a bind: watching must not cost what is measured."""

    metadata: Meta = msgspec.field(default_factory=Meta)
    spec: _Spec = msgspec.field(default_factory=_Spec)


@dataclass(frozen=True, slots=True)
class Load:
    """`gangs` × `size` pods; size 0: plain pods, or of a shape."""

    case: str
    pods: int
    gang_size: int = 0
    shape: Shape | None = None
    goal: float = GOAL_RATIO


def main(arguments: list[str]) -> int:
    """Run the cases; prints the report."""
    options = _options(arguments)
    cases: list[frame.Case] = []
    if options.only in ("", "core"):
        cases += core_cases(quick=options.quick) + core_shape_cases(quick=options.quick)
    if options.only in ("", "scale"):
        cases += scale_cases(quick=options.quick)
    if options.only not in ("core", "scale"):
        with tempfile.TemporaryDirectory(prefix="headrace-bench-") as folder:
            cases += _cluster_cases(Path(folder), options)
    frame.report("scheduler", cases, options.json, options.plot)
    return 0


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = frame.parser("scheduler", __doc__ or "")
    parser.add_argument("--nodes", type=int, help="nodes (1000; quick: 200)")
    parser.add_argument("--pods", type=int, help="pods a run (3000; quick: 500)")
    parser.add_argument("--gang-size", type=int, default=0, help="measure only gangs of this size, of --pods pods")
    parser.add_argument(
        "--gang-api",
        choices=tuple(GANG_APIS),
        default="scheduling.x-k8s.io",
        help="the gangs' objects for schedulers added by --yardstick (volcano: its CRD must be applied by its command)",
    )
    parser.add_argument("--only", choices=KINDS, default="", help="run only this kind of case")
    shapes = tuple(shape.name for shape in SHAPES)
    parser.add_argument("--shape", choices=shapes, default="", help="of the shaped cases, run only this one")
    parser.add_argument(
        "--sign-in",
        choices=("token", "certificate"),
        default="token",
        help="how every scheduler signs in: a service account's token, as a secondary scheduler in the cluster does "
        "(default), or a client certificate",
    )
    if "--quick" in arguments:
        parser.set_defaults(runs=1)
    options = parser.parse_args(arguments)
    options.nodes = options.nodes or (200 if options.quick else 1000)
    options.pods = options.pods or (500 if options.quick else 3000)
    return options


def _cluster_cases(folder: Path, options: argparse.Namespace) -> list[frame.Case]:
    binaries = require(("etcd", "kube-apiserver", "kube-scheduler"))
    plane = ControlPlane(
        folder,
        binaries,
        name="bench",
        components=("etcd", "kube-apiserver"),
        extra_args={"kube-apiserver": WITHOUT_CONTROLLERS},
    )
    frame.progress("starting etcd and kube-apiserver")
    try:
        plane.start()
        manifests.apply(plane.kubeconfig, manifests.crd_files())
        return asyncio.run(_measure(plane, str(binaries["kube-scheduler"]), folder, options))
    finally:
        plane.stop()


async def _measure(plane: ControlPlane, binary: str, folder: Path, options: argparse.Namespace) -> list[frame.Case]:
    plain = Load(f"plain-{options.nodes}-nodes", options.pods)
    cases: list[frame.Case] = []
    async with KubeClient(load_config(plane.kubeconfig), user_agent="headrace-bench") as client:
        kubeconfig = plane.kubeconfig
        if options.sign_in == "token":
            kubeconfig = await account_kubeconfig(client, kubeconfig, ACCOUNT, NAMESPACE)
        ours = headrace_scheduler()
        theirs = [kube_scheduler(binary, kubeconfig, folder, name="kube-scheduler 1.36")]
        theirs += [Scheduler(name, command, name, options.gang_api) for name, command in options.yardstick]
        frame.progress(f"creating {options.nodes} nodes")
        await create_all(client, NODES, [_node(index) for index in range(options.nodes)], None)
        bench = Bench(client, kubeconfig, folder, options.sign_in)
        if options.only in ("", "plain"):
            cases += await _plain(bench, ours, theirs, plain, options.runs)
        if options.only in ("", "shaped"):
            for load in _shaped(options):
                cases += await _plain(bench, ours, theirs, load, options.runs)
        if options.only in ("", "gang"):
            for load in _gangs(options):
                cases += await _gang(bench, ours, theirs[1:], load, options.runs)
        if options.only in ("", "restart"):
            cases += await _restart(bench, (ours, theirs[0]), options)
    return cases


def _shaped(options: argparse.Namespace) -> list[Load]:
    wanted = (options.shape,) if options.shape else QUICK_SHAPES if options.quick else [shape.name for shape in SHAPES]
    chosen = [shape for shape in SHAPES if shape.name in wanted]
    return [
        Load(
            f"shaped-{shape.name}-{options.nodes}-nodes",
            shape.count(options.nodes, options.pods),
            shape=shape,
            goal=GOAL_SHAPED_RATIO,
        )
        for shape in chosen
    ]


async def _restart(bench: "Bench", schedulers: Sequence[Scheduler], options: argparse.Namespace) -> list[frame.Case]:
    nodes = options.nodes if options.quick else RESTART_NODES
    pods = QUICK_RESTART_PODS if options.quick else RESTART_PODS
    frame.progress(f"restart: {nodes} nodes, {pods} bound pods")
    await create_all(bench.client, NODES, [_node(index) for index in range(nodes)], None)
    await create_all(bench.client, PODS, bound_pods(nodes, pods), NAMESPACE)
    size = f"{nodes}-nodes-{pods}-pods"
    return await restart_cases(bench.client, bench.kubeconfig, bench.folder, schedulers, size=size, runs=options.runs)


async def _plain(
    bench: "Bench", ours: Scheduler, theirs: Sequence[Scheduler], load: Load, runs: int
) -> list[frame.Case]:
    figures: dict[str, list[float]] = {scheduler.name: [] for scheduler in (ours, *theirs)}
    for turn in range(runs):
        order = (ours, *theirs) if turn % 2 else (*theirs, ours)
        for scheduler in order:
            figures[scheduler.name].append(await bench.pods_per_second(scheduler, load))
    note = (
        f"{load.pods} pods; QPS {QPS} each, signed in by {bench.sign_in}; all nodes scored by ours; "
        "events (off the bind path, as theirs; ours wait for binds, 5 s at most) and decision annotations on"
    )
    return [
        frame.Case(
            load.case if index == 0 else f"{load.case}-{scheduler.name}",
            "pods/s",
            list(zip(figures[ours.name], figures[scheduler.name], strict=True)),
            yardstick=scheduler.name,
            goal=load.goal,
            note=note,
        )
        for index, scheduler in enumerate(theirs)
    ]


def _gangs(options: argparse.Namespace) -> list[Load]:
    pods = options.pods if options.quick or options.gang_size else GANG_PODS
    sizes = (options.gang_size,) if options.gang_size else (max(1, pods // 10),) if options.quick else GANG_SIZES
    return [Load(f"gang-{pods // size}x{size}", pods // size * size, size) for size in sizes]


async def _gang(
    bench: "Bench", ours: Scheduler, theirs: Sequence[Scheduler], gangs: Load, runs: int
) -> list[frame.Case]:
    """Ours against the same number of plain pods; and against schedulers added from outside, gangs on both sides."""
    pairs: dict[str, list[tuple[float, ...]]] = {"": [], **{scheduler.name: [] for scheduler in theirs}}
    for _ in range(runs):
        alone = await bench.pods_per_second(ours, Load(f"plain-{gangs.pods}", gangs.pods))
        whole = await bench.pods_per_second(ours, gangs)
        pairs[""].append((whole, alone))
        for scheduler in theirs:
            pairs[scheduler.name].append((whole, await bench.pods_per_second(scheduler, gangs)))
    return [
        frame.Case(
            f"{gangs.case}-{name}" if name else gangs.case,
            "pods/s",
            found,
            yardstick=name or "ours, the same number of plain pods",
            goal=None if name else round(GOAL_GANG_RATIO, 3),
            note="all-or-nothing" if name else "all-or-nothing; first to last bind at most 1.1 × that of plain pods",
        )
        for name, found in pairs.items()
    ]


@dataclass(slots=True)
class Bench:
    """One cluster with its nodes; runs schedulers on it."""

    client: KubeClient
    kubeconfig: Path
    folder: Path
    sign_in: str
    rounds: int = 0

    async def pods_per_second(self, scheduler: Scheduler, load: Load) -> float:
        """Create fresh pods, start the scheduler, wait for the last bind, stop it, delete the pods."""
        self.rounds += 1
        prefix = f"r{self.rounds}"
        frame.progress(f"{load.case}: creating {load.pods} pods for {scheduler.name}")
        if load.gang_size:
            groups = [_group(f"{prefix}-g{index}", load.gang_size) for index in range(load.pods // load.gang_size)]
            for group in groups:
                group["apiVersion"] = GANG_APIS[scheduler.gang_api].api_version
            await create_all(self.client, GANG_APIS[scheduler.gang_api], groups, NAMESPACE)
        pods = [_pod(f"{prefix}-{index}", scheduler, load, prefix, index) for index in range(load.pods)]
        await create_all(self.client, PODS, pods, NAMESPACE)
        await asyncio.sleep(SETTLE_SECONDS)
        watching = asyncio.create_task(_watch_binds(self.kubeconfig, prefix, len(pods)))
        await asyncio.sleep(0.5)
        async with running(scheduler, self.kubeconfig, self.folder):
            seconds = await watching
        await self._delete_all(load, GANG_APIS[scheduler.gang_api])
        rate = (len(pods) - 1) / seconds
        frame.progress(f"{load.case}: {scheduler.name}: {rate:,.0f} pods/s ({seconds:.2f} s)")
        return rate

    async def _delete_all(self, load: Load, groups: Resource) -> None:
        await self.client.request(
            "DELETE", PODS.path(NAMESPACE), body=b'{"gracePeriodSeconds":0}', timeout_seconds=180, idempotent=True
        )
        if load.gang_size:
            await self.client.request("DELETE", groups.path(NAMESPACE), timeout_seconds=180, idempotent=True)


async def _watch_binds(kubeconfig: Path, prefix: str, count: int) -> float:
    """Seconds from the first bind to the last, as a client of its own sees them."""
    bound: set[str] = set()
    first = last = 0.0
    async with KubeClient(load_config(kubeconfig), user_agent="headrace-bench-watch") as client:
        batches = list_watch(client, PODS, _Pod, namespace=NAMESPACE, jitter=Random(0))
        while True:
            async with asyncio.timeout(STUCK_SECONDS):
                batch = await anext(batches)
            now = time.monotonic()
            changed = getattr(batch, "events", None) or ()
            for change in changed:
                pod = change.object
                if pod.spec.nodeName and pod.metadata.name.startswith(prefix):
                    bound.add(pod.metadata.name)
            if bound and not first:
                first = now
            last = now
            if len(bound) >= count:
                return last - first


def _node(index: int) -> dict[str, Any]:
    room = {"cpu": "96", "memory": "768Gi", "pods": "110", "ephemeral-storage": "1Ti", "nvidia.com/gpu": "8"}
    ready = {
        "type": "Ready",
        "status": "True",
        "reason": "KubeletReady",
        "lastHeartbeatTime": "2026-01-01T00:00:00Z",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }
    name = f"node-{index:05d}"
    labels = {"kubernetes.io/hostname": name, "topology.kubernetes.io/zone": f"zone-{index % 3}"}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": labels},
        "status": {"allocatable": room, "capacity": room, "conditions": [ready]},
    }


def _pod(name: str, scheduler: Scheduler, load: Load, prefix: str, index: int) -> dict[str, Any]:
    requests = {"cpu": "1", "memory": "1Gi"}
    metadata: dict[str, Any] = {"name": name}
    if load.gang_size:
        group = f"{prefix}-g{index // load.gang_size}"
        if scheduler.gang_api == "volcano":
            metadata["annotations"] = {names.VOLCANO_GROUP_ANNOTATION: group}
        else:
            metadata["labels"] = {names.POD_GROUP_LABEL: group}
    container = {"name": "main", "image": "registry.invalid/none", "resources": {"requests": requests}}
    spec: dict[str, Any] = {"schedulerName": scheduler.pod_scheduler_name, "containers": [container]}
    if load.shape is not None:
        metadata["labels"] = load.shape.labels
        spec |= load.shape.spec
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def _group(name: str, size: int) -> dict[str, Any]:
    return {
        "apiVersion": POD_GROUPS.api_version,
        "kind": POD_GROUPS.kind,
        "metadata": {"name": name},
        "spec": {"minMember": size},
    }
