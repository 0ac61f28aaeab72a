"""What a local cluster is made of: the options of `headrace up`.

Owns their defaults and checks. Invariant: an options object is always valid."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from api import quantities
from headrace.cluster.realnode.addresses import MAX_REAL_NODES
from headrace.errors import UsageError

MAX_NODES = 64
MAX_NAME = 40


@dataclass(frozen=True, slots=True)
class ClusterOptions:
    """Remembered by the cluster: an `up` without options brings back what the last one asked for."""

    #: Process nodes, each a node agent, a cache worker and a FUSE mount; or real ones, each a kubelet with containers
    #: and a cache worker.
    nodes: int = 3
    real: bool = False
    #: What each node says it has. Quantities as in a pod's resources.
    cpu: str = "8"
    memory: str = "16Gi"
    gpus: int = 2
    #: Cache tiers of each node.
    mem_tier: str = "256Mi"
    ssd_tier: str = "10Gi"
    #: The API server's port; None means any free one.
    port: int | None = None
    #: False starts etcd, kube-apiserver, kube-controller-manager and kwok, and nothing of ours.
    parts: bool = True
    #: False runs our parts in plain text, and believing whoever reaches them.
    trust: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.nodes <= MAX_NODES:
            raise UsageError(f"--nodes {self.nodes} is out of range; give 0 to {MAX_NODES}")
        if self.real and self.nodes > MAX_REAL_NODES:
            raise UsageError(f"--nodes real:{self.nodes} is out of range; give real:1 to real:{MAX_REAL_NODES}")
        if self.gpus < 0:
            raise UsageError(f"--gpus {self.gpus} is negative; give 0 or more")
        if self.port is not None and not 1 <= self.port <= 65535:
            raise UsageError(f"--port {self.port} is not a port; give 1 to 65535")
        for option, value in (
            ("--cpu", self.cpu),
            ("--memory", self.memory),
            ("--mem-tier", self.mem_tier),
            ("--ssd-tier", self.ssd_tier),
        ):
            try:
                positive = quantities.parse(value) > 0
            except ValueError as error:
                raise UsageError(f"{option} {error}") from None
            if not positive:
                raise UsageError(f"{option} {value!r} must be more than zero")

    def to_dict(self) -> dict[str, Any]:
        """As recorded in the state file."""
        return asdict(self)

    @staticmethod
    def merged(recorded: dict[str, Any], given: dict[str, Any]) -> ClusterOptions:
        """The recorded options with those given (not None) put over them. Raises UsageError."""
        known = {field.name for field in fields(ClusterOptions)}
        base = ClusterOptions(**{key: value for key, value in recorded.items() if key in known})
        return replace(base, **{key: value for key, value in given.items() if value is not None})


def parse_nodes(text: str) -> dict[str, Any]:
    """The options that `--nodes TEXT` names: a number of process nodes, `real`, or `real:NUMBER`. Raises UsageError."""
    match = re.fullmatch(r"([0-9]{1,5})|real(?::([0-9]{1,5}))?", text)
    if match is None:
        raise UsageError(f"--nodes {text!r} is not known; give a number of process nodes, `real` or `real:NUMBER`")
    return {"nodes": int(match[1] or match[2] or 1), "real": match[1] is None}


def check_name(name: str) -> str:
    """Return the cluster's name when it can be part of a folder's and a context's name, else UsageError."""
    plain = name.replace("-", "")
    if not (plain.isascii() and plain.isalnum() and plain == plain.lower() and len(name) <= MAX_NAME) or (
        name.startswith("-") or name.endswith("-")
    ):
        raise UsageError(
            f"--name {name!r} is not usable; use lower-case letters, digits and inner dashes, at most {MAX_NAME}"
        )
    return name
