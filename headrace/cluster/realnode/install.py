"""Our parts on real nodes, installed as a user installs them: with kubectl, from manifests/.

Owns calling kubectl, and waiting until what it installed runs. Invariant: applying twice changes nothing."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from headrace.cluster.binaries import require
from headrace.cluster.manifests import FIELD_MANAGER
from headrace.cluster.realnode.wiring import run
from headrace.errors import ComponentFailed

KUBECTL_SECONDS = 120.0
#: Every part imports a lot when it starts, all at once, on one machine.
READY_SECONDS = 600.0
POLL_SECONDS = 1.0
NAMESPACES = ("headrace-system", "headrace-node")


def apply_kustomization(kubeconfig: Path, folder: Path) -> None:
    """`kubectl apply -k`. Raises ClusterError with kubectl's words."""
    flags = ("--server-side", "--force-conflicts", f"--field-manager={FIELD_MANAGER}")
    _kubectl(kubeconfig, "apply", *flags, "--kustomize", str(folder))


def wait_ready(kubeconfig: Path, progress: Callable[[str], None]) -> None:
    """Wait until every Deployment and DaemonSet of ours has all its pods Ready.

    Raises ComponentFailed naming those that have not after READY_SECONDS."""
    deadline = time.monotonic() + READY_SECONDS
    while True:
        items: list[dict[str, Any]] = []
        for namespace in NAMESPACES:
            answer = _kubectl(kubeconfig, "get", "deployments,daemonsets", "--namespace", namespace, "--output", "json")
            items += json.loads(answer)["items"]
        missing = not_ready(items)
        if not missing:
            return
        progress(f"waiting for {', '.join(missing)}")
        if time.monotonic() > deadline:
            raise ComponentFailed(
                f"{', '.join(missing)} not Ready after {READY_SECONDS:.0f} s; "
                f"`kubectl --kubeconfig {kubeconfig} get pods,events -A` tells more"
            )
        time.sleep(POLL_SECONDS)


def not_ready(items: Iterable[dict[str, Any]]) -> list[str]:
    """The names of the Deployments and DaemonSets of which some pod is missing, old or not Ready. Pure.

    A DaemonSet that is replaced only when its pods are deleted (OnDelete) may have old ones."""
    return [f"{one['kind'].lower()}/{one['metadata']['name']}" for one in items if not _is_ready(one)]


def _is_ready(item: dict[str, Any]) -> bool:
    status = item.get("status", {})
    if status.get("observedGeneration", 0) < item["metadata"]["generation"]:
        return False
    if item["kind"] == "Deployment":
        wanted = item["spec"].get("replicas", 1)
        return bool(status.get("updatedReplicas", 0) >= wanted and status.get("availableReplicas", 0) >= wanted)
    wanted = status.get("desiredNumberScheduled", 0)
    is_new = item["spec"]["updateStrategy"]["type"] == "OnDelete" or status.get("updatedNumberScheduled", 0) >= wanted
    return bool(is_new and status.get("numberReady", 0) >= wanted)


def _kubectl(kubeconfig: Path, *arguments: str) -> str:
    kubectl = str(require(["kubectl"])["kubectl"])
    return run((kubectl, "--kubeconfig", str(kubeconfig), *arguments), KUBECTL_SECONDS)
