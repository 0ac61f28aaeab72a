"""XGBoost and LightGBM: a Master and workers, with a tracker on rank 0.

Owns KubeDL's and training-operator v1's `MASTER_ADDR`, `MASTER_PORT`, `RANK`, `WORLD_SIZE`, LightGBM's `WORKER_PORT`
and `WORKER_ADDRS`, and Kubeflow Trainer's `DMLC_TRACKER_URI`, `DMLC_TRACKER_PORT`, `DMLC_TASK_ID`, `DMLC_NUM_WORKER`.
Ranks are one after another over both roles; KubeDL gives Master 0 and Worker 0 the same."""

from __future__ import annotations

from collections.abc import Mapping

from api.training_v1alpha1 import TrainingJobSpec
from jobcontroller.core.framework import Rendezvous, RoleCounts
from jobcontroller.frameworks.base import all_succeeded

MASTER, WORKER = "Master", "Worker"


class XGBoost:
    """`spec.framework: XGBoost`."""

    name = "XGBoost"
    roles: tuple[str, ...] | None = (MASTER, WORKER)
    reserved_env = frozenset(
        {
            "MASTER_ADDR",
            "MASTER_PORT",
            "RANK",
            "WORLD_SIZE",
            "WORKER_PORT",
            "WORKER_ADDRS",
            "DMLC_TRACKER_URI",
            "DMLC_TRACKER_PORT",
            "DMLC_TASK_ID",
            "DMLC_NUM_WORKER",
        }
    )

    def validate(self, spec: TrainingJobSpec) -> str | None:
        """The tracker is one pod."""
        master = spec.replica_specs.get(MASTER)
        if master is not None and master.replicas != 1:
            return f"spec.replicaSpecs.Master.replicas is {master.replicas}; an XGBoost job has one Master, or none"
        return None

    def port(self, spec: TrainingJobSpec) -> int | None:
        """`spec.xgboost.port`."""
        return spec.xgboost.port if spec.xgboost else None

    def env(self, rendezvous: Rendezvous, role: str, index: int) -> dict[str, str]:
        """The Master has rank 0 and workers follow; without one, Worker 0 has."""
        masters = rendezvous.replicas.get(MASTER, 0)
        rank = str(index if role == MASTER else masters + index)
        host, port = rendezvous.host(MASTER if masters else WORKER, 0), str(rendezvous.port)
        workers = [rendezvous.host(WORKER, number) for number in range(rendezvous.replicas.get(WORKER, 0))]
        return {
            "MASTER_ADDR": host,
            "MASTER_PORT": port,
            "RANK": rank,
            "WORLD_SIZE": str(rendezvous.pods),
            "PYTHONUNBUFFERED": "1",
            "WORKER_PORT": port,
            "WORKER_ADDRS": ",".join(workers),
            "DMLC_TRACKER_URI": host,
            "DMLC_TRACKER_PORT": port,
            "DMLC_TASK_ID": rank,
            "DMLC_NUM_WORKER": str(rendezvous.pods),
        }

    def succeeded(self, roles: Mapping[str, RoleCounts]) -> bool:
        """Master and all workers: a tracker that is done has heard of all of them."""
        return all_succeeded(roles)
