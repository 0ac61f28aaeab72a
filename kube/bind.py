"""Binding a pod to a node: one call, with the pod's uid as precondition.

Owns the call and the reading back of a refusal. Does not choose nodes nor undo binds (a
bind cannot be undone, only the pod deleted). Invariants: a pod that was deleted and
created again under the same name is never bound by a late call; the answer BOUND means
the API server has this uid on this node, also when the reply to the first try was lost.
"""

import enum

import structlog

from kube.client import KubeClient, encode
from kube.errors import Conflict, NotFound
from kube.resources import PODS

_log = structlog.get_logger(__name__)


class BindResult(enum.Enum):
    """What became of a bind; every other failure is raised as a KubeError."""

    BOUND = "bound"
    BOUND_ELSEWHERE = "bound_elsewhere"  # somebody else was faster
    POD_GONE = "pod_gone"  # deleted, or re-created with another uid
    REFUSED = "refused"  # the pod is unbound and must stay so: gated, or being deleted


async def bind_pod(
    client: KubeClient,
    namespace: str,
    name: str,
    uid: str,
    node: str,
    *,
    annotations: dict[str, str] | None = None,
) -> BindResult:
    """Bind the pod to `node`; the API server merges `annotations` into the pod in the same write.

    May be called twice: with the uid as precondition a repeat cannot do harm, so it is also
    retried. Raises KubeError when the API server cannot be asked; then nothing is known.
    """
    metadata: dict[str, object] = {"name": name, "namespace": namespace, "uid": uid}
    if annotations:
        metadata["annotations"] = annotations
    binding = {
        "apiVersion": "v1",
        "kind": "Binding",
        "metadata": metadata,
        "target": {"apiVersion": "v1", "kind": "Node", "name": node},
    }
    path = PODS.path(namespace, name, "binding")
    try:
        await client.request("POST", path, body=encode(binding), idempotent=True)
    except NotFound:
        return BindResult.POD_GONE
    except Conflict as conflict:
        result = await _read_back(client, namespace, name, uid, node)
        if result is not BindResult.BOUND:
            _log.info(
                "bind_refused",
                pod=f"{namespace}/{name}",
                node=node,
                result=result.value,
                cause=conflict.message,
            )
        return result
    return BindResult.BOUND


async def _read_back(client: KubeClient, namespace: str, name: str, uid: str, node: str) -> BindResult:
    """A 409 says only that the bind was refused; the pod itself says why."""
    try:
        pod = await client.get(PODS, name, namespace)
    except NotFound:
        return BindResult.POD_GONE
    if pod["metadata"]["uid"] != uid:
        return BindResult.POD_GONE
    bound_to = pod.get("spec", {}).get("nodeName")
    if bound_to == node:
        return BindResult.BOUND
    return BindResult.BOUND_ELSEWHERE if bound_to else BindResult.REFUSED
