"""The network of real nodes: one bridge in our network namespace, a cable to each node.

Owns the `ip` commands. Which addresses is decided in `addresses.py`. Invariants: every command may be given again; the
cables end with their nodes' namespaces, the bridge with `remove`."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Sequence

from headrace.cluster.realnode.addresses import PREFIX_LENGTH, Network
from headrace.errors import ClusterError

COMMAND_SECONDS = 20.0
#: The node's end of the cable.
INTERFACE = "eth0"


def exists(device: str) -> bool:
    """Whether our namespace has this network device."""
    # Not /sys: it shows the namespace it was mounted in.
    return device in {name for _, name in socket.if_nameindex()}


def ensure_bridge(network: Network) -> None:
    """Have the bridge, with its address. Raises ClusterError, also when another network has these addresses."""
    if not exists(network.bridge):
        routes = _run("ip", "-o", "route", "show", "root", network.all_pods)
        if routes.strip():
            raise ClusterError(
                f"the network {network.all_pods} is in use here ({routes.splitlines()[0].strip()}); "
                "choose another --dir: it decides about the addresses"
            )
        _run("ip", "link", "add", network.bridge, "type", "bridge")
    _run("ip", "address", "replace", f"{network.host}/{PREFIX_LENGTH}", "dev", network.bridge)
    _run("ip", "link", "set", network.bridge, "up")


def plug_in(network: Network, index: int, nodes: int, init_pid: int) -> None:
    """Wire node `index` of `nodes`, whose first process is `init_pid`: cable, address and routes."""
    plug, inside = network.plug(index), ("nsenter", "--target", str(init_pid), "--net", "--", "ip")
    if not exists(plug):
        _run("ip", "link", "add", plug, "type", "veth", "peer", "name", INTERFACE, "netns", str(init_pid))
    _run("ip", "link", "set", plug, "master", network.bridge, "up")
    _run(*inside, "link", "set", "lo", "up")
    _run(*inside, "address", "replace", f"{network.node(index)}/{PREFIX_LENGTH}", "dev", INTERFACE)
    _run(*inside, "link", "set", INTERFACE, "up")
    _run(*inside, "route", "replace", "default", "via", network.host)
    for other in range(nodes):
        if other != index:
            _run(*inside, "route", "replace", network.pods(other), "via", network.node(other))
    _run("ip", "route", "replace", network.pods(index), "via", network.node(index), "dev", network.bridge)


def remove(network: Network) -> None:
    """Take the bridge away, and with it its address and routes. May be called again."""
    if exists(network.bridge):
        _run("ip", "link", "delete", network.bridge)


def _run(*argv: str) -> str:
    return run(argv, COMMAND_SECONDS)


def run(argv: Sequence[str], timeout_seconds: float) -> str:
    """Run a command and return what it printed. Raises ClusterError with its last words."""
    what = " ".join(argv)
    try:
        done = subprocess.run(
            argv, capture_output=True, text=True, timeout=timeout_seconds, check=False, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ClusterError(f"`{what}` failed: {error}") from error
    if done.returncode != 0:
        raise ClusterError(f"`{what}` failed: {(done.stderr or done.stdout).strip()[-500:]}")
    return done.stdout
