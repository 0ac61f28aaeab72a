"""PyTorch: Master and Worker, for scripts that read the environment and for torchrun.

Owns the legacy names `MASTER_ADDR`, `MASTER_PORT`, `RANK`, `WORLD_SIZE` (KubeDL's and training-operator v1's:
rank of the *pod*; torchrun sets its own for each process) and torchrun's `PET_NNODES`, `PET_NODE_RANK`,
`PET_NPROC_PER_NODE`, `PET_MASTER_ADDR`, `PET_MASTER_PORT`."""

from __future__ import annotations

from collections.abc import Mapping

from api.training_v1alpha1 import PyTorchOptions, TrainingJobSpec
from jobcontroller.core.framework import Rendezvous, RoleCounts
from jobcontroller.frameworks.base import all_succeeded

MASTER, WORKER = "Master", "Worker"


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
        per_node = (rendezvous.spec.pytorch or PyTorchOptions()).nproc_per_node
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

    def succeeded(self, roles: Mapping[str, RoleCounts]) -> bool:
        """Master and all workers, as in KubeDL."""
        return all_succeeded(roles, (MASTER, WORKER))
