"""JAX: one role, and the address of process 0 for `jax.distributed.initialize`.

Owns the names `JAX_COORDINATOR_ADDRESS` (host:port), `JAX_NUM_PROCESSES`, `JAX_PROCESS_ID`, as Kubeflow
Trainer has them, and training-operator v1's `COORDINATOR_ADDRESS`, `COORDINATOR_PORT`, `NUM_PROCESSES`,
`PROCESS_ID`, so that images made for either run unchanged."""

from __future__ import annotations

from collections.abc import Mapping

from api.training_v1alpha1 import TrainingJobSpec
from jobcontroller.core.framework import Rendezvous, RoleCounts
from jobcontroller.frameworks.base import all_succeeded

WORKER = "Worker"


class Jax:
    """`spec.framework: JAX`."""

    name = "JAX"
    roles: tuple[str, ...] | None = (WORKER,)
    reserved_env = frozenset(
        {
            "JAX_COORDINATOR_ADDRESS",
            "JAX_NUM_PROCESSES",
            "JAX_PROCESS_ID",
            "COORDINATOR_ADDRESS",
            "COORDINATOR_PORT",
            "NUM_PROCESSES",
            "PROCESS_ID",
        }
    )

    def validate(self, spec: TrainingJobSpec) -> str | None:
        """Nothing beyond the roles."""
        return None

    def port(self, spec: TrainingJobSpec) -> int | None:
        """`spec.jax.port`."""
        return spec.jax.port if spec.jax else None

    def env(self, rendezvous: Rendezvous, role: str, index: int) -> dict[str, str]:
        """The coordinator is Worker 0; the process id is the index."""
        host = rendezvous.host(WORKER, 0)
        return {
            "JAX_COORDINATOR_ADDRESS": f"{host}:{rendezvous.port}",
            "JAX_NUM_PROCESSES": str(rendezvous.pods),
            "JAX_PROCESS_ID": str(index),
            "COORDINATOR_ADDRESS": host,
            "COORDINATOR_PORT": str(rendezvous.port),
            "NUM_PROCESSES": str(rendezvous.pods),
            "PROCESS_ID": str(index),
        }

    def succeeded(self, roles: Mapping[str, RoleCounts]) -> bool:
        """All processes: a collective program ends everywhere or nowhere."""
        return all_succeeded(roles)
