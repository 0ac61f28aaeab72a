"""A cluster with real nodes for tests: kubectl, pods, and what a node holds.

Owns asking and waiting. What is started is `headrace up --nodes real`'s (headrace/cluster/)."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headrace.cluster.binaries import require
from headrace.cluster.local_cluster import LocalCluster
from headrace.cluster.realnode.programs import NodeFolder

IMAGE = "headrace:0.1.0"
KUBECTL_SECONDS = 60.0
#: A machine that does much else starts a container in seconds, and our parts in tens of seconds.
DEADLINE_SECONDS = 300.0
CSI_NAMESPACE = "headrace-node"


def eventually(what: str, condition: Callable[[], Any], seconds: float = DEADLINE_SECONDS) -> Any:
    """Wait for a true value and return it; AssertionError names `what` and the last value."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds:.0f} s: {what}; last seen: {value!r}")
        time.sleep(0.3)
    return value


@dataclass(frozen=True)
class RealCluster:
    """A running cluster."""

    local: LocalCluster

    def kubectl(self, *arguments: str, text: str | None = None, must: bool = True) -> str:
        """Run kubectl as the administrator; what it printed, or its error when it need not succeed."""
        command = [str(require(["kubectl"])["kubectl"]), "--kubeconfig", str(self.local.kubeconfig), *arguments]
        done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=KUBECTL_SECONDS, check=False)
        if must and done.returncode != 0:
            raise AssertionError(f"kubectl {' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout if done.returncode == 0 else done.stderr

    def apply(self, *objects: dict[str, Any]) -> None:
        """`kubectl apply -f -`."""
        self.kubectl("apply", "-f", "-", text=json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)}))

    def get(self, kind: str, name: str, namespace: str = "default") -> dict[str, Any]:
        """One object; empty when there is none."""
        text = self.kubectl("get", kind, name, "-n", namespace, "-o", "json", "--ignore-not-found")
        return dict(json.loads(text)) if text.strip() else {}

    def phase(self, kind: str, name: str) -> str:
        """The phase in an object's status; "" without one."""
        return str(self.get(kind, name).get("status", {}).get("phase", ""))

    def wait_phase(self, kind: str, name: str, wanted: str, *, never: Sequence[str] = ("Failed",)) -> None:
        """Wait for a phase; AssertionError with what is known when another one ends it."""

        def reached() -> bool:
            now = self.phase(kind, name)
            if now in never:
                raise AssertionError(f"{kind} {name} is {now}: {self.about(kind, name)}")
            return now == wanted

        try:
            eventually(f"{kind} {name} is {wanted}", reached)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.about(kind, name)}") from error

    def about(self, kind: str, name: str) -> str:
        """What a person would look at."""
        told = self.kubectl("describe", kind, name, must=False)
        logs = self.kubectl("logs", name, "--tail", "20", must=False) if kind == "pod" else ""
        return f"{told[-3000:]}\n{logs}"

    def logs(self, pod: str) -> str:
        """What a pod's container printed."""
        return self.kubectl("logs", pod)

    def csi_pods(self, app: str) -> dict[str, str]:
        """Our pods of that name which are Ready: uid by name."""
        text = self.kubectl("get", "pods", "-n", CSI_NAMESPACE, "-l", f"app.kubernetes.io/name={app}", "-o", "json")
        alive = [pod for pod in json.loads(text)["items"] if "deletionTimestamp" not in pod["metadata"]]
        return {pod["metadata"]["name"]: pod["metadata"]["uid"] for pod in alive if is_ready(pod)}

    def nodes(self) -> list[NodeFolder]:
        """The real nodes."""
        names = sorted({one.node for one in self.local.load().components.values() if one.node})
        return [NodeFolder(name, self.local.folder.root / "nodes" / name) for name in names]


def is_ready(item: dict[str, Any]) -> bool:
    """Whether a pod or node says so."""
    return condition(item, "Ready")


def condition(item: dict[str, Any], kind: str) -> bool:
    """Whether an object has this condition."""
    found = item.get("status", {}).get("conditions") or []
    return any(one["type"] == kind and one["status"] == "True" for one in found)


def pid_namespace(pid: int) -> str:
    """What tells a process' namespace of process ids from others; "" when it is gone."""
    try:
        return str(Path(f"/proc/{pid}/ns/pid").readlink())
    except OSError:
        return ""


def processes_of(node: NodeFolder) -> dict[int, list[str]]:
    """Every process of a node, those in containers too: command line by the id it has here."""
    first = node.init_pid()
    assert first is not None
    found = {}
    for pid in sorted(_descendants(first)):
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        if words != [""]:
            found[pid] = words
    # kubelet, containerd and the worker came in from outside and are nobody's child in there.
    own = pid_namespace(first)
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) not in found and pid_namespace(int(entry.name)) == own:
            found[int(entry.name)] = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
    return found


def _descendants(pid: int) -> set[int]:
    found = {pid}
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):  # noqa: PTH208  names, not files
            for child in Path(f"/proc/{pid}/task/{thread}/children").read_text(encoding="ascii").split():
                found |= _descendants(int(child))
    except OSError:
        return found
    return found


def fuse_daemons(node: NodeFolder) -> list[int]:
    """The processes that serve FUSE mounts, of each mount the one that serves now."""
    served = [pid for pid, words in processes_of(node).items() if "fuse.node.served" in words]
    by_keeper: dict[int, list[int]] = {}
    for pid in served:
        by_keeper.setdefault(_parent(pid), []).append(pid)
    # The first is the process that daemons are forked from; the last forked one serves.
    return [max(pids, key=_start_ticks) for pids in by_keeper.values() if len(pids) > 1]


def _stat(pid: int) -> list[str]:
    text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    return text[text.rindex(")") + 2 :].split()


def _parent(pid: int) -> int:
    return int(_stat(pid)[1])


def _start_ticks(pid: int) -> int:
    return int(_stat(pid)[19])


@dataclass(frozen=True)
class Held:
    """What a node holds, in numbers that must not grow."""

    mounts: int
    programs: dict[str, int]


def held(node: NodeFolder) -> Held:
    """Count a node's mounts, and its processes by what they run."""
    first = node.init_pid()
    mounts = len(Path(f"/proc/{first}/mountinfo").read_text(encoding="utf-8", errors="replace").splitlines())
    programs = Counter(Path(words[0]).name for words in processes_of(node).values() if words[0])
    return Held(mounts, dict(programs))
