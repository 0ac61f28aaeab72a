"""From a scenario, traces and a seed to a world: nodes, datasets, jobs, faults.

Owns how each is drawn. Invariant: the seed alone decides, and each part has a generator of its own, so that another
number of jobs does not change the nodes. How datasets are assigned to jobs of a trace: a team (Philly's virtual
cluster) has the datasets whose number leaves its own number as rest; of those a job reads one, by Zipf. How long a
job reads: its GPUs read at `read_speed_per_gpu` for its run time, in as many epochs as that makes, parts included.
"""

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate, pairwise
from random import Random

from simulations.engine.model import GIB, DatasetSpec, Fault, JobSpec, NodeSpec, Speeds, World
from simulations.scenarios.schema import FaultPlan, JobSize, Lognormal, Scenario
from simulations.traces import synthetic
from simulations.traces.readers import TraceJob, Traces

NO_TRACES = Traces()
GPUS_PER_NODE = 8


def build(scenario: Scenario, seed: int, traces: Traces = NO_TRACES) -> World:
    """The world of a scenario."""
    nodes = _nodes(scenario, Random(f"{seed}/nodes"), traces)
    datasets = _datasets(scenario, Random(f"{seed}/datasets"), nodes)
    cluster = scenario.cluster
    return World(
        name=scenario.name,
        nodes=nodes,
        datasets=datasets,
        jobs=_jobs(scenario, Random(f"{seed}/jobs"), traces, datasets),
        speeds=Speeds(
            nic=cluster.nic,
            uplink=cluster.uplink,
            origin=cluster.origin,
            mem=cluster.mem_speed,
            ssd=cluster.ssd_speed,
            peer_stream=cluster.peer_stream,
            origin_stream=cluster.origin_stream,
        ),
        faults=_faults(scenario, Random(f"{seed}/faults"), nodes),
        node_mtbf_seconds=cluster.node_mtbf_seconds,
        node_repair_seconds=cluster.node_repair_seconds,
        tick_seconds=scenario.tick_seconds,
        end_spread_seconds=scenario.end_spread_seconds,
        report_seconds=scenario.report_seconds,
        horizon_seconds=scenario.horizon_seconds,
        seed=seed,
    )


def _nodes(scenario: Scenario, random: Random, traces: Traces) -> tuple[NodeSpec, ...]:
    cluster = scenario.cluster
    found: list[NodeSpec] = []

    def add(gpus: int, cpu_milli: int, memory: float, mem: float, ssd: float, *, is_spot: bool) -> None:
        rack = len(found) // cluster.rack_nodes
        zone = f"z{rack % cluster.zones}"
        name = f"node-{len(found):05d}"
        found.append(NodeSpec(name, gpus, cpu_milli, int(memory), rack, zone, mem, ssd, is_spot))

    for index in range(cluster.openb_nodes):
        listed = traces.nodes[index % len(traces.nodes)] if traces.nodes else synthetic.openb_node(random)
        add(listed.gpus, listed.cpu_milli, listed.memory_bytes, 0.0, cluster.openb_cache_ssd, is_spot=False)
    for pool in cluster.pools:
        for _ in range(pool.count):
            add(pool.gpus, pool.cpu_milli, pool.memory, pool.cache_mem, pool.cache_ssd, is_spot=pool.spot)
    return tuple(found)


def _datasets(scenario: Scenario, random: Random, nodes: Sequence[NodeSpec]) -> tuple[DatasetSpec, ...]:
    wanted = scenario.datasets
    count = scenario.workload.jobs if scenario.workload.reads == "own" else wanted.count
    sizes = [_draw(wanted.bytes, random) for _ in range(count)]
    known = {node: share for node, share in wanted.resident.items() if node < len(nodes)}
    return tuple(
        DatasetSpec(
            f"ds{index}",
            size,
            {node: share * size for node, share in known.items()} if index == 0 else {},
            file_bytes=wanted.file,
            homes=tuple(sorted(known)) if index == 0 and wanted.only_there else (),
        )
        for index, size in enumerate(sizes)
    )


def _jobs(scenario: Scenario, random: Random, traces: Traces, datasets: Sequence[DatasetSpec]) -> tuple[JobSpec, ...]:
    work = scenario.workload
    drawn = _drawn(scenario, random, traces)
    teams = sorted({job.team for job, _ in drawn})
    chooser = _Zipf(work.zipf)
    jobs: list[JobSpec] = []
    for index, ((job, size), at) in enumerate(zip(drawn, _arrivals(scenario, random, drawn), strict=True)):
        seconds = _draw(work.compute_seconds, random) if job.seconds is None else job.seconds
        seconds = min(seconds, work.compute_seconds.most)
        team = job.team or f"user{random.randrange(work.users)}"
        gpus = size.pods * size.gpus
        dataset = None
        if work.reads == "same":
            dataset = 0
        elif work.reads == "own":
            dataset = index
        elif work.reads == "zipf":
            dataset = chooser.draw(len(datasets), random)
        elif work.reads == "by-team":
            number = teams.index(job.team) if job.team in teams else 0
            owned = range(number % len(datasets), len(datasets), max(1, min(len(teams), len(datasets))))
            dataset = owned[chooser.draw(len(owned), random)]
        reads = max(gpus, 1) * work.read_speed_per_gpu * seconds
        jobs.append(
            JobSpec(
                name=f"job-{index:06d}",
                submit_seconds=at,
                pods=size.pods,
                gpus=size.gpus,
                cpu_milli=size.cpu_milli or (8_000 * size.gpus if size.gpus else 4_000),
                memory_bytes=(job.memory_bytes if size.pods == 1 else None) or 16 * GIB * max(1, size.gpus),
                compute_seconds=seconds,
                dataset=dataset,
                epochs=1.0 if dataset is None else reads / datasets[dataset].size_bytes,
                user=team,
                checkpoint_bytes=work.checkpoint,
                checkpoint_seconds=work.checkpoint_seconds,
                max_wait_seconds=work.max_wait_seconds,
                is_required=work.required,
            )
        )
    return tuple(jobs)


def _drawn(scenario: Scenario, random: Random, traces: Traces) -> list[tuple[TraceJob, JobSize]]:
    """Jobs in order of arrival, with the pods each becomes."""
    work = scenario.workload
    weights = [size.weight for size in work.sizes]
    found: list[tuple[TraceJob, JobSize]] = []
    # A sample over the whole trace, in its order: its first weeks are not like the others.
    listed = traces.philly
    sample = sorted(random.sample(range(len(listed)), min(len(listed), work.jobs))) if work.source == "philly" else []
    for index in range(work.jobs):
        if work.source == "philly":
            job = listed[sample[index]] if index < len(sample) else synthetic.philly_job(random)
            pods = max(1, -(-job.gpus // GPUS_PER_NODE))
            found.append((job, JobSize(pods=pods, gpus=-(-job.gpus // pods))))
        elif work.source == "openb" and random.random() >= work.gang_share:
            pods_listed = traces.openb
            job = pods_listed[index % len(pods_listed)] if pods_listed else synthetic.openb_pod(random)
            # The trace's pods live for weeks; run times are the scenario's.
            found.append((TraceJob(None, None, job.gpus, "", job.cpu_milli, job.memory_bytes), _openb_size(job)))
        else:
            size = random.choices(work.sizes, weights)[0]
            found.append((TraceJob(None, None, size.pods * size.gpus), size))
    return found


def _openb_size(job: TraceJob) -> JobSize:
    return JobSize(pods=1, gpus=job.gpus, cpu_milli=job.cpu_milli or 4_000)


def _arrivals(scenario: Scenario, random: Random, drawn: Sequence[tuple[TraceJob, JobSize]]) -> list[float]:
    mean = scenario.workload.arrival_seconds
    if not mean:
        return [0.0] * len(drawn)
    times = [job.at for job, _ in drawn]
    if None not in times and len(times) > 1:
        known = [time for time in times if time is not None]
        span = known[-1] - known[0]
        if span > 0:
            scale = mean * (len(known) - 1) / span
            return list(accumulate(((after - before) * scale for before, after in pairwise(known)), initial=0.0))
    return list(accumulate((random.expovariate(1.0 / mean) for _ in range(len(drawn) - 1)), initial=0.0))


def _faults(scenario: Scenario, random: Random, nodes: Sequence[NodeSpec]) -> tuple[Fault, ...]:
    found: list[Fault] = []
    for plan in scenario.faults:
        if plan.kind == "brownout":
            found.append(Fault(plan.at, plan.kind, seconds=plan.seconds, share=plan.share))
            continue
        for order, node in enumerate(_hit(plan, random, nodes)):
            at = plan.at + order * plan.each_seconds
            found.append(Fault(at, plan.kind, (node,), plan.seconds, plan.notice_seconds))
    return tuple(found)


def _hit(plan: FaultPlan, random: Random, nodes: Sequence[NodeSpec]) -> list[int]:
    if plan.nodes:
        return [node for node in plan.nodes if node < len(nodes)]
    able = [index for index, node in enumerate(nodes) if plan.kind != "spot" or node.is_spot]
    return sorted(random.sample(able, round(plan.share * len(able))))


def _draw(wanted: Lognormal, random: Random) -> float:
    return min(wanted.most, wanted.median * random.lognormvariate(0.0, wanted.sigma))


class _Zipf:
    """Number k of n with weight 1 / (k + 1)^exponent."""

    def __init__(self, exponent: float) -> None:
        self._exponent = exponent
        self._sums: dict[int, list[float]] = {}

    def draw(self, count: int, random: Random) -> int:
        """One number below `count`."""
        sums = self._sums.get(count)
        if sums is None:
            sums = self._sums[count] = list(accumulate((k + 1) ** -self._exponent for k in range(count)))
        return min(count - 1, bisect_left(sums, random.random() * sums[-1]))
