"""PyTorch: Master and Worker, for scripts that read the environment and for torchrun.

Owns the legacy names `MASTER_ADDR`, `MASTER_PORT`, `RANK`, `WORLD_SIZE` (KubeDL's and training-operator v1's:
rank of the *pod*; torchrun sets its own for each process) and torchrun's `PET_NNODES`, `PET_NODE_RANK`,
`PET_NPROC_PER_NODE`, `PET_MASTER_ADDR`, `PET_MASTER_PORT`.

With `pytorch.elastic` ranks are torchrun's affair: `PET_NNODES` is `min:max` and `PET_RDZV_BACKEND`,
`PET_RDZV_ENDPOINT`, `PET_RDZV_ID`, `PET_RDZV_CONF`, `PET_MAX_RESTARTS` take the place of the fixed names, as in
training-operator v1. The store of backend c10d lives in one pod, which is told so in PET_RDZV_CONF, and dies with it
(pytorch#67742), so its loss ends the attempt."""

from __future__ import annotations

from collections.abc import Mapping

from api.training_v1alpha1 import PyTorchOptions, TorchElastic, TrainingJobSpec
from jobcontroller.core.framework import Rendezvous, RoleCounts
from jobcontroller.frameworks.base import all_succeeded

MASTER, WORKER = "Master", "Worker"
#: how long members wait for the store: images are pulled for minutes on one node and are there on another
STORE_SECONDS = "600"


class PyTorch:
    """`spec.framework: PyTorch`."""

    name = "PyTorch"
    roles: tuple[str, ...] | None = (MASTER, WORKER)
    # PYTHONUNBUFFERED is ours only as a default: a user may turn it off.
    reserved_env = frozenset(
        {
            "MASTER_ADDR",
            "MASTER_PORT",
            "RANK",
            "WORLD_SIZE",
            "PET_NNODES",
            "PET_NODE_RANK",
            "PET_NPROC_PER_NODE",
            "PET_MASTER_ADDR",
            "PET_MASTER_PORT",
            "PET_RDZV_BACKEND",
            "PET_RDZV_ENDPOINT",
            "PET_RDZV_ID",
            "PET_RDZV_CONF",
            "PET_MAX_RESTARTS",
        }
    )

    def validate(self, spec: TrainingJobSpec) -> str | None:
        """Rank 0 is one pod."""
        master = spec.replica_specs.get(MASTER)
        if master is not None and master.replicas != 1:
            return f"spec.replicaSpecs.Master.replicas is {master.replicas}; a PyTorch job has one Master, or none"
        options = spec.pytorch or PyTorchOptions()
        if isinstance(options.nproc_per_node, int) and options.nproc_per_node < 1:
            return f"spec.pytorch.nprocPerNode is {options.nproc_per_node}; give a number from 1, or auto, gpu, cpu"
        return None

    def port(self, spec: TrainingJobSpec) -> int | None:
        """`spec.pytorch.port`."""
        return spec.pytorch.port if spec.pytorch else None

    def env(self, rendezvous: Rendezvous, role: str, index: int) -> dict[str, str]:
        """The Master has rank 0 and workers follow; without one, Worker 0 has."""
        masters = rendezvous.replicas.get(MASTER, 0)
        rank = index if role == MASTER else masters + index
        host = rendezvous.host(MASTER if masters else WORKER, 0)
        options = rendezvous.spec.pytorch or PyTorchOptions()
        per_node = options.nproc_per_node
        if options.elastic is not None:
            found = _elastic_env(rendezvous, options.elastic, masters, host, is_host=rank == 0)
            return found | {"PET_NPROC_PER_NODE": str(per_node)}
        # With auto, gpu or cpu only the node knows how many processes it starts.
        world_size = rendezvous.pods * per_node if isinstance(per_node, int) else rendezvous.pods
        return {
            "MASTER_ADDR": host,
            "MASTER_PORT": str(rendezvous.port),
            "RANK": str(rank),
            "WORLD_SIZE": str(world_size),
            "PYTHONUNBUFFERED": "1",
            "PET_NNODES": str(rendezvous.pods),
            "PET_NODE_RANK": str(rank),
            "PET_NPROC_PER_NODE": str(per_node),
            "PET_MASTER_ADDR": host,
            "PET_MASTER_PORT": str(rendezvous.port),
        }

    def resizes(self, spec: TrainingJobSpec) -> bool:
        """torchrun's rendezvous takes members in and does without lost ones."""
        return spec.pytorch is not None and spec.pytorch.elastic is not None

    def anchor(self, spec: TrainingJobSpec) -> int | None:
        """Worker 0, where the store of the rendezvous is in it."""
        elastic = spec.pytorch.elastic if spec.pytorch is not None else None
        outside = MASTER in spec.replica_specs or (elastic is not None and elastic.rdzv_endpoint is not None)
        return None if outside else 0

    def succeeded(self, roles: Mapping[str, RoleCounts]) -> bool:
        """Master and all workers, as in KubeDL."""
        return all_succeeded(roles, (MASTER, WORKER))


def _elastic_env(
    rendezvous: Rendezvous, elastic: TorchElastic, masters: int, host: str, *, is_host: bool
) -> dict[str, str]:
    workers = rendezvous.spec.replica_specs[WORKER].replicas
    maximum = elastic.max if elastic.max is not None else workers
    found = {
        "PYTHONUNBUFFERED": "1",
        "PET_NNODES": f"{masters + elastic.min}:{masters + maximum}",
        "PET_RDZV_BACKEND": elastic.rdzv_backend,
        "PET_RDZV_ENDPOINT": elastic.rdzv_endpoint or f"{host}:{rendezvous.port}",
        # The attempt is part of the id: pods of an old one must not join.
        "PET_RDZV_ID": f"{rendezvous.job_name}-a{rendezvous.attempt}",
        "PET_MAX_RESTARTS": str(elastic.max_restarts),
    }
    conf = dict(elastic.rdzv_conf)
    if elastic.rdzv_backend == "c10d" and elastic.rdzv_endpoint is None:
        # torchrun finds out by names whether the endpoint is its own: a pod's host name lacks the subdomain, and the
        # address may not be known yet. So it would be nobody's.
        conf |= {"is_host": str(int(is_host)), "read_timeout": conf.get("read_timeout", STORE_SECONDS)}
    if conf:
        found["PET_RDZV_CONF"] = ",".join(f"{key}={value}" for key, value in sorted(conf.items()))
    return found
