"""The gate of a pod whose role starts after others: an init container that waits for a word of the controller.

Owns what is added to such a pod. Does not decide when it opens (core/startup.py). The word is an annotation the pod
reads through a downward volume, so the pod needs no rights and no network, and the gate outlives the controller.

Invariants: the gate is the first init container; it asks for no more than the pod's first container does, so it
changes neither where the pod fits nor its QoS class. It runs that container's image, which has to have /bin/sh."""

from __future__ import annotations

import copy
from typing import Any

from api import names

GATE_CONTAINER = "headrace-start-gate"
_VOLUME = "headrace-start"
_DIRECTORY = "/headrace-start"
#: A shell that is process 1 gets no default action for SIGTERM: without the trap a held pod would use up its grace.
_SCRIPT = f"trap 'exit 143' TERM; until [ -s {_DIRECTORY}/word ]; do sleep 1 & wait $!; done"
_COPIED = ("image", "imagePullPolicy", "securityContext")
_COPIED_RESOURCES = ("cpu", "memory")


def close(metadata: dict[str, Any], pod_spec: dict[str, Any]) -> None:
    """Add a closed gate to a pod under construction. Harmless for a pod without containers."""
    containers = pod_spec.get("containers") or []
    if not containers:
        return
    metadata["annotations"] = {**metadata["annotations"], names.START_ANNOTATION: ""}
    path = {"fieldPath": f"metadata.annotations['{names.START_ANNOTATION}']"}
    volume = {"name": _VOLUME, "downwardAPI": {"items": [{"path": "word", "fieldRef": path}]}}
    pod_spec["volumes"] = [*(pod_spec.get("volumes") or []), volume]
    pod_spec["initContainers"] = [_gate(containers[0]), *(pod_spec.get("initContainers") or [])]


def _gate(first: dict[str, Any]) -> dict[str, Any]:
    gate: dict[str, Any] = {key: copy.deepcopy(first[key]) for key in _COPIED if key in first}
    gate |= {
        "name": GATE_CONTAINER,
        "command": ["/bin/sh", "-c", _SCRIPT],
        "volumeMounts": [{"name": _VOLUME, "mountPath": _DIRECTORY, "readOnly": True}],
    }
    resources = {
        kind: {name: value for name, value in amounts.items() if name in _COPIED_RESOURCES}
        for kind, amounts in (first.get("resources") or {}).items()
        if kind in ("requests", "limits") and isinstance(amounts, dict)
    }
    if resources:
        gate["resources"] = resources
    return gate
