"""The objects the demo submits: what a user would write in YAML. Pure."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

NAMESPACE = "default"
DATA, COLD_DATA, CHECKPOINTS = "stdlib", "stdlib-cold", "checkpoints"
DATA_BUCKET, CHECKPOINT_BUCKET = "stdlib", "checkpoints"
SECRET = "distant-store"
TRAIN_SCRIPT = Path(__file__).with_name("train.py")
GPUS_A_POD = 2
"""As many as a node has: a gang of two takes two nodes."""


def secret() -> dict[str, Any]:
    """The store's credentials."""
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": SECRET, "namespace": NAMESPACE},
        "stringData": {"id": "demo-key-id", "secret": "demo-key-secret"},
    }


def dataset(name: str, bucket: str, endpoint: str, *, nodes: list[str], writable: bool = False) -> dict[str, Any]:
    """A Dataset of one bucket, its blocks kept on `nodes` only ([] = anywhere)."""
    spec: dict[str, Any] = {
        "mounts": [{"mountPoint": f"s3://{bucket}", "name": "data", "path": "/"}],
        "sharedOptions": {"fs.s3.endpoint": endpoint, "fs.s3.region": "us-east-1"},
        "sharedEncryptOptions": [
            {"name": f"fs.s3.{option}", "valueFrom": {"secretKeyRef": {"name": SECRET, "key": key}}}
            for option, key in (("accessKeyId", "id"), ("accessKeySecret", "secret"))
        ],
        "accessModes": ["ReadWriteMany" if writable else "ReadOnlyMany"],
    }
    if nodes:
        expression = {"key": "kubernetes.io/hostname", "operator": "In", "values": nodes}
        spec["nodeAffinity"] = {"required": {"nodeSelectorTerms": [{"matchExpressions": [expression]}]}}
    return _object("data.headrace.dev/v1alpha1", "Dataset", name, spec)


def load(name: str, source: str, copies: int) -> dict[str, Any]:
    """A DataLoad of a whole dataset."""
    spec = {"dataset": {"name": source}, "target": [{"path": "/", "replicas": copies}]}
    return _object("data.headrace.dev/v1alpha1", "DataLoad", name, spec)


def job(name: str, data: str, *, steps: int, pause_seconds: float, saves: bool) -> dict[str, Any]:
    """A TrainingJob of two JAX processes on one dataset; `saves`: with checkpoints."""
    command = ["python", str(TRAIN_SCRIPT), "--data", "/data", "--steps", str(steps)]
    command += ["--checkpoint-every", "10", "--pause-seconds", str(pause_seconds)]
    resources = {"cpu": "1", "memory": "1Gi", "nvidia.com/gpu": str(GPUS_A_POD)}
    container = {
        "name": "trainer",
        "image": f"python:{sys.version_info.major}.{sys.version_info.minor}",
        "command": command,
        "env": [{"name": "JAX_PLATFORMS", "value": "cpu"}, {"name": "TF_CPP_MIN_LOG_LEVEL", "value": "2"}],
        "resources": {"requests": resources, "limits": {"nvidia.com/gpu": str(GPUS_A_POD)}},
    }
    template = {"spec": {"terminationGracePeriodSeconds": 2, "containers": [container]}}
    datasets: list[dict[str, Any]] = [{"name": data, "mountPath": "/data"}]
    spec: dict[str, Any] = {
        "framework": "JAX",
        "replicaSpecs": {"Worker": {"replicas": 2, "restartPolicy": "OnFailure", "template": template}},
        "datasets": datasets,
    }
    if saves:
        datasets.append({"name": CHECKPOINTS, "mountPath": "/checkpoints", "readOnly": False})
        spec["checkpoint"] = {"dataset": CHECKPOINTS, "path": name, "format": "Marker", "marker": "COMPLETE"}
    return _object("training.headrace.dev/v1alpha1", "TrainingJob", name, spec)


def _object(api_version: str, kind: str, name: str, spec: dict[str, Any]) -> dict[str, Any]:
    return {
        "apiVersion": api_version,
        "kind": kind,
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": spec,
    }
