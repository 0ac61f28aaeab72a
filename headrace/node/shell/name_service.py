"""Hosts files of this node's pods, kept up to date with the pods of their namespaces.

Owns which pods have names and the files' content. Does not create the files
(shell/records.py). Invariant: a file is rewritten in place (same inode), since running
containers have it mounted; only when its text changes."""

from __future__ import annotations

import os
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from headrace.node.core.hosts_file import NamedPod, render
from headrace.node.core.pod_spec import Pod, host_name

HOST_FILE = Path("/etc/hosts")
ENDED = ("Succeeded", "Failed")


@dataclass(frozen=True, slots=True)
class _Local:
    pod: Pod
    address: str
    file: Path


class NameService:
    """Names of all pods of the cluster, and the files of those on this node."""

    def __init__(self, host_file: Path = HOST_FILE) -> None:
        self._named: dict[str, dict[str, NamedPod]] = defaultdict(dict)  # namespace -> uid
        self._local: dict[str, dict[str, _Local]] = defaultdict(dict)
        self._host_lines = host_file.read_text(encoding="utf-8") if host_file.exists() else ""

    def seen(self, pod: Pod) -> None:
        """Take note of a pod anywhere in the cluster."""
        self._note(pod, pod.status.pod_ip if pod.status.phase not in ENDED else "")

    def gone(self, pod: Pod) -> None:
        """Forget a pod that was deleted."""
        self._note(pod, "")

    def add_local(self, pod: Pod, address: str, file: Path) -> None:
        """Begin to keep the file of a pod of this node; it is written before this returns."""
        self._local[pod.metadata.namespace][pod.metadata.uid] = _Local(pod, address, file)
        self._note(pod, address)
        self._write(self._local[pod.metadata.namespace][pod.metadata.uid])

    def remove_local(self, pod: Pod) -> None:
        """Stop keeping the file of a pod of this node."""
        self._local[pod.metadata.namespace].pop(pod.metadata.uid, None)

    def _note(self, pod: Pod, address: str) -> None:
        namespace, uid = pod.metadata.namespace, pod.metadata.uid
        named = self._named[namespace]
        before = named.get(uid)
        if address and pod.spec.hostname and pod.spec.subdomain:
            named[uid] = NamedPod(namespace, pod.spec.hostname, pod.spec.subdomain, address)
        else:
            named.pop(uid, None)
        if named.get(uid) != before:
            for local in self._local[namespace].values():
                self._write(local)

    def _write(self, local: _Local) -> None:
        own = [host_name(local.pod)]
        peers = self._named[local.pod.metadata.namespace].values()
        text = render(own, local.address, peers, local.pod.spec.host_aliases, self._host_lines)
        rewrite_in_place(local.file, text)


def rewrite_in_place(path: Path, text: str) -> None:
    """Replace a file's content, keeping its inode; nothing is done when it is the same or the file is gone."""
    data = text.encode()
    try:
        if path.read_bytes() == data:
            return
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        os.pwrite(descriptor, data, 0)
        os.ftruncate(descriptor, len(data))
    finally:
        os.close(descriptor)
