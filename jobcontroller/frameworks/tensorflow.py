"""TensorFlow: parameter servers, workers, a chief and an evaluator, told of each other by `TF_CONFIG`.

Owns `TF_CONFIG` as KubeDL and training-operator v1 write it: the cluster by lower-case role, this pod's task,
`environment: cloud`. An evaluator is no part of the cluster it evaluates. `spec.tensorflow.enableDynamicWorker`
gives the sparse form, in which a worker knows itself and the parameter servers only, so that workers may come and
go (training-operator's enableDynamicWorker)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from api.training_v1alpha1 import TrainingJobSpec
from jobcontroller.core.framework import Rendezvous, RoleCounts
from jobcontroller.frameworks.base import all_succeeded

CHIEF, MASTER, PS, WORKER, EVALUATOR = "Chief", "Master", "PS", "Worker", "Evaluator"


class TensorFlow:
    """`spec.framework: TensorFlow`."""

    name = "TensorFlow"
    roles: tuple[str, ...] | None = (CHIEF, MASTER, PS, WORKER, EVALUATOR)
    reserved_env = frozenset({"TF_CONFIG"})

    def validate(self, spec: TrainingJobSpec) -> str | None:
        """One chief at most, under one of its two names; somebody must be able to end the job."""
        if not spec.replica_specs.keys() & {CHIEF, MASTER, WORKER}:
            return "spec.replicaSpecs: a TensorFlow job needs a Chief or Workers: parameter servers never end"
        leaders = [role for role in (CHIEF, MASTER) if role in spec.replica_specs]
        if len(leaders) > 1:
            return "spec.replicaSpecs: Chief and Master are two names of one role; keep one of them"
        for role in (*leaders, EVALUATOR):
            replica = spec.replica_specs.get(role)
            if replica is not None and replica.replicas > 1:
                return f"spec.replicaSpecs.{role}.replicas is {replica.replicas}; a TensorFlow job has one, or none"
        return None

    def port(self, spec: TrainingJobSpec) -> int | None:
        """`spec.tensorflow.port`."""
        return spec.tensorflow.port if spec.tensorflow else None

    def env(self, rendezvous: Rendezvous, role: str, index: int) -> dict[str, str]:
        """One JSON object, compact, as TensorFlow's resolvers read it."""
        cluster = {
            member.lower(): [f"{rendezvous.host(member, number)}:{rendezvous.port}" for number in range(count)]
            for member, count in rendezvous.replicas.items()
            if member != EVALUATOR
        }
        task = {"type": role.lower(), "index": index}
        options = rendezvous.spec.tensorflow
        config: dict[str, Any] = {"cluster": cluster, "task": task, "environment": "cloud"}
        if options is not None and options.enable_dynamic_worker and role in (PS, WORKER):
            config = {"sparseCluster": _sparse(rendezvous, cluster, role, index), "task": task}
        return {"TF_CONFIG": json.dumps(config, separators=(",", ":"))}

    def resizes(self, spec: TrainingJobSpec) -> bool:
        """In the sparse form workers know of no other worker, so parameter servers train with those there are."""
        return spec.tensorflow is not None and spec.tensorflow.enable_dynamic_worker and PS in spec.replica_specs

    def anchor(self, spec: TrainingJobSpec) -> int | None:
        """Without a chief, worker 0 is it."""
        return None if spec.replica_specs.keys() & {CHIEF, MASTER} else 0

    def succeeded(self, roles: Mapping[str, RoleCounts]) -> bool:
        """The chief decides; without one, all workers. Parameter servers and evaluators run until they are ended."""
        leader = next((role for role in (CHIEF, MASTER) if role in roles), None)
        return all_succeeded(roles, (leader,) if leader is not None else (WORKER,))


def _sparse(rendezvous: Rendezvous, cluster: Mapping[str, list[str]], role: str, index: int) -> dict[str, Any]:
    servers = cluster.get("ps", [])
    if role == PS:
        return {"worker": {}, "ps": servers[index : index + 1]}
    # A worker that joined later has an index beyond the number of workers.
    return {"worker": {str(index): f"{rendezvous.host(WORKER, index)}:{rendezvous.port}"}, "ps": servers}
