"""Small simulated worlds: a case shows only what matters to it."""

from dataclasses import replace
from typing import Any

from simulations.engine.model import GIB, DatasetSpec, JobSpec, NodeSpec, Speeds, World

SPEEDS = Speeds(nic=2e9, uplink=8e9, origin=1e9, mem=8e9, ssd=4e9)


def a_sim_node(index: int, *, gpus: int = 8, rack: int = 0, ssd_bytes: float = 1000e9, **more: Any) -> NodeSpec:
    return NodeSpec(f"n{index}", gpus, 96_000, 768 * GIB, rack, ssd_bytes=ssd_bytes, **more)


def a_job(name: str = "j", **fields: Any) -> JobSpec:
    asks = {"submit_seconds": 0.0, "pods": 1, "gpus": 1, "cpu_milli": 4000, "memory_bytes": 16 * GIB}
    return JobSpec(name, **(asks | {"compute_seconds": 100.0} | fields))


def a_world(
    nodes: int | tuple[NodeSpec, ...] = 2,
    *,
    jobs: tuple[JobSpec, ...],
    sizes: tuple[float, ...] = (100e9,),
    **more: Any,
) -> World:
    made = tuple(a_sim_node(index) for index in range(nodes)) if isinstance(nodes, int) else nodes
    datasets = tuple(DatasetSpec(f"d{index}", size) for index, size in enumerate(sizes))
    return replace(World("test", made, datasets, jobs, SPEEDS), **more)


def a_busy_world(seed: int = 0, **more: Any) -> World:
    """Gangs and singles on 8 nodes, two datasets that do not fit together, crashes."""
    nodes = tuple(a_sim_node(index, rack=index // 4, ssd_bytes=150e9) for index in range(8))
    jobs = tuple(
        a_job(
            f"j{index}",
            submit_seconds=index * 40.0,
            pods=(1, 1, 2, 4)[index % 4],
            gpus=(1, 8, 4, 8)[index % 4],
            compute_seconds=600.0,
            dataset=index % 2,
            epochs=4,
            user=f"u{index % 3}",
            checkpoint_bytes=5e9,
            checkpoint_seconds=200.0,
        )
        for index in range(40)
    )
    fields: dict[str, Any] = {"sizes": (100e9, 80e9), "node_mtbf_seconds": 20_000.0, "seed": seed} | more
    return a_world(nodes, jobs=jobs, **fields)
