"""Paddle: collective jobs of workers alone, or parameter servers (role Master) with workers.

Owns `PADDLE_MASTER`, `PADDLE_NNODES`, `PADDLE_JOB_ID`, `PADDLE_SERVER_NUM`, `PADDLE_TRAINER_NUM`, as training-operator
v1 sets them for `paddle.distributed.launch`: with a Master each pod is one server or one trainer. Ranks are the
launcher's own affair: whoever is at `PADDLE_MASTER` gives them out."""

from __future__ import annotations

from collections.abc import Mapping

from api.training_v1alpha1 import TrainingJobSpec
from jobcontroller.core.framework import Rendezvous, RoleCounts
from jobcontroller.frameworks.base import all_succeeded

MASTER, WORKER = "Master", "Worker"


class Paddle:
    """`spec.framework: Paddle`."""

    name = "Paddle"
    roles: tuple[str, ...] | None = (MASTER, WORKER)
    reserved_env = frozenset(
        {"PADDLE_MASTER", "PADDLE_NNODES", "PADDLE_JOB_ID", "PADDLE_SERVER_NUM", "PADDLE_TRAINER_NUM"}
    )

    def validate(self, spec: TrainingJobSpec) -> str | None:
        """Servers alone never end."""
        if WORKER not in spec.replica_specs:
            return "spec.replicaSpecs: a Paddle job needs Workers; its Masters are parameter servers"
        return None

    def port(self, spec: TrainingJobSpec) -> int | None:
        """`spec.paddle.port`."""
        return spec.paddle.port if spec.paddle else None

    def env(self, rendezvous: Rendezvous, role: str, index: int) -> dict[str, str]:
        """The rendezvous is Master 0, or Worker 0 of a collective job."""
        has_servers = MASTER in rendezvous.replicas
        host = rendezvous.host(MASTER if has_servers else WORKER, 0)
        # The attempt is part of the id: pods of an old one must not join.
        found = {
            "PADDLE_MASTER": f"{host}:{rendezvous.port}",
            "PADDLE_NNODES": str(rendezvous.pods),
            "PADDLE_JOB_ID": f"{rendezvous.job_name}-a{rendezvous.attempt}",
            "PYTHONUNBUFFERED": "1",
        }
        if has_servers:
            found["PADDLE_SERVER_NUM" if role == MASTER else "PADDLE_TRAINER_NUM"] = "1"
        return found

    def succeeded(self, roles: Mapping[str, RoleCounts]) -> bool:
        """All trainers; parameter servers run until they are ended."""
        return all_succeeded(roles, (WORKER,))
