"""The text of a pod's /etc/hosts: this is the name service of process nodes.

Owns which names a pod can look up. Does not write files. Every pod with spec.hostname and
spec.subdomain is found under the names cluster DNS would give it, ready or not, as
training frameworks meet before they are ready."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from headrace.node.core.pod_spec import HostAlias

CLUSTER_DOMAIN = "cluster.local"
HEADER = "# Written by the headrace node agent: names of this pod's namespace.\n"


@dataclass(frozen=True, slots=True)
class NamedPod:
    """A pod that has an address and a name below a headless Service."""

    namespace: str
    hostname: str
    subdomain: str
    address: str


def render(
    own_names: Sequence[str],
    own_address: str,
    peers: Iterable[NamedPod],
    aliases: Iterable[HostAlias],
    host_lines: str,
) -> str:
    """Return the file's text.

    `own_names` are the pod's own names, `peers` the named pods of its namespace (itself
    too, or not), `host_lines` the machine's own file, whose names stay known."""
    lines = ["127.0.0.1\tlocalhost", "::1\tlocalhost ip6-localhost ip6-loopback"]
    own_line = [*own_names]
    others = []
    for peer in sorted(set(peers), key=lambda peer: (peer.subdomain, peer.hostname, peer.address)):
        names = names_of(peer)
        if peer.address == own_address and peer.hostname in own_names:
            own_line = [*names, *own_names]
        else:
            others.append(f"{peer.address}\t{' '.join(names)}")
    lines.append(f"{own_address}\t{' '.join(dict.fromkeys(own_line))}")
    lines += others
    lines += [f"{alias.ip}\t{' '.join(alias.hostnames)}" for alias in aliases]
    text = HEADER + "\n".join(lines) + "\n"
    if host_lines.strip():
        text += f"# From the machine's own file.\n{host_lines.rstrip()}\n"
    return text


def names_of(pod: NamedPod) -> list[str]:
    """Return a named pod's names, then those of its Service (which thus has all members' addresses)."""
    service = _with_suffixes(f"{pod.subdomain}.{pod.namespace}")
    return [
        *_with_suffixes(f"{pod.hostname}.{pod.subdomain}.{pod.namespace}"),
        f"{pod.hostname}.{pod.subdomain}",
        *service,
        pod.subdomain,
    ]


def _with_suffixes(name: str) -> list[str]:
    return [f"{name}.svc.{CLUSTER_DOMAIN}", f"{name}.svc", name]
