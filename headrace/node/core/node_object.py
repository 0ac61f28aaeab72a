"""The Node object of this agent.

Owns its labels, capacity, conditions and addresses. Does not write it
(shell/registration.py). Invariant: what is offered is what the flags say, not what the
machine has: several process nodes share one machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from api.conditions import timestamp
from api.names import GPU_RESOURCE, PROCESS_NODE_LABEL
from headrace.node.core.requests import amount

HOST_IP = "127.0.0.1"
MAX_PODS = 110


@dataclass(frozen=True, slots=True)
class MachineFacts:
    """What is known of the machine and the agent."""

    architecture: str
    kernel_version: str
    os_image: str
    machine_id: str
    system_uuid: str
    boot_id: str
    agent_version: str
    ephemeral_storage_bytes: int


@dataclass(frozen=True, slots=True)
class NodeOffer:
    """What the flags say the node has; quantities as the user wrote them."""

    name: str
    cpu: str
    memory: str
    gpus: int
    labels: Mapping[str, str]


def labels(offer: NodeOffer, facts: MachineFacts) -> dict[str, str]:
    """Return the Node's labels; the user's own win."""
    return {
        "kubernetes.io/hostname": offer.name,
        "kubernetes.io/os": "linux",
        "kubernetes.io/arch": facts.architecture,
        PROCESS_NODE_LABEL: "process",
        **offer.labels,
    }


def capacity(offer: NodeOffer, facts: MachineFacts) -> dict[str, str]:
    """Return the capacity, all of it allocatable, as quantities."""
    return {
        "cpu": offer.cpu,
        "memory": offer.memory,
        "pods": str(MAX_PODS),
        "ephemeral-storage": str(facts.ephemeral_storage_bytes),
        GPU_RESOURCE: str(offer.gpus),
    }


def allocatable(offer: NodeOffer, facts: MachineFacts) -> dict[str, int]:
    """Return the same as numbers: millicores for cpu, else units."""
    return {name: amount(name, value) for name, value in capacity(offer, facts).items()}


def status(
    offer: NodeOffer,
    facts: MachineFacts,
    *,
    kubelet_port: int | None,
    transitions: Mapping[str, tuple[str, str]],
    is_shut_down: bool,
    now: float,
) -> dict[str, Any]:
    """Return the Node's status. `transitions` is condition type -> (status, last transition time) as it stands."""
    resources = capacity(offer, facts)
    return {
        "capacity": resources,
        "allocatable": resources,
        "conditions": _conditions(transitions, is_shut_down, now),
        "addresses": [{"type": "InternalIP", "address": HOST_IP}, {"type": "Hostname", "address": offer.name}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": kubelet_port or 0}},
        "nodeInfo": {
            "architecture": facts.architecture,
            "operatingSystem": "linux",
            "kernelVersion": facts.kernel_version,
            "osImage": facts.os_image,
            "machineID": facts.machine_id,
            "systemUUID": facts.system_uuid,
            "bootID": facts.boot_id,
            "containerRuntimeVersion": f"process://{facts.agent_version}",
            "kubeletVersion": f"headrace-{facts.agent_version}",
            "kubeProxyVersion": "",
        },
    }


def _conditions(transitions: Mapping[str, tuple[str, str]], is_shut_down: bool, now: float) -> list[dict[str, str]]:
    stamp = timestamp(now)
    wanted = [
        ("MemoryPressure", "False", "ProcessNode", "process nodes do not watch memory"),
        ("DiskPressure", "False", "ProcessNode", "process nodes do not watch disks"),
        ("PIDPressure", "False", "ProcessNode", "process nodes do not watch process numbers"),
        ("Ready", "False", "NodeShutdown", "the node agent was stopped")
        if is_shut_down
        else ("Ready", "True", "AgentReady", "the headrace node agent is posting ready status"),
    ]
    result = []
    for type_, value, reason, message in wanted:
        old_value, old_time = transitions.get(type_, ("", ""))
        result.append(
            {
                "type": type_,
                "status": value,
                "reason": reason,
                "message": message,
                "lastHeartbeatTime": stamp,
                "lastTransitionTime": old_time if old_value == value and old_time else stamp,
            }
        )
    return result
