"""The Node object and its Lease, written so that the cluster knows this node lives.

Owns creating and refreshing both, and lifting the not-ready taint when nobody else does.
Does not watch pods. Invariants: labels of others are kept; the taint is only lifted from
the very Node that was read, after it was Ready for a while."""

from __future__ import annotations

import asyncio
import os
import platform
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import structlog

from headrace.node.core import node_object
from headrace.node.core.node_object import MachineFacts, NodeOffer
from kube.client import KubeClient, PatchKind
from kube.errors import AlreadyExists, Conflict, Invalid, KubeError, NotFound
from kube.resources import LEASES, NODES

_log = structlog.get_logger(__name__)

LEASE_NAMESPACE = "kube-node-lease"
NOT_READY_TAINT = "node.kubernetes.io/not-ready"
#: What kube-apiserver and kubelet call the machine types Python knows.
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
RETRY_SECONDS = 2.0


class Registration:
    """This agent's Node."""

    def __init__(
        self, client: KubeClient, offer: NodeOffer, facts: MachineFacts, kubelet_port: Callable[[], int | None]
    ) -> None:
        self._client = client
        self._offer = offer
        self._facts = facts
        self._kubelet_port = kubelet_port
        self._uid = ""

    async def register(self) -> None:
        """Create the Node, or take over the one of that name, and write its first status. Tried until it works."""
        while True:
            try:
                await self._register_once()
                return
            except Invalid:
                raise
            except KubeError as error:
                _log.warning("register_failed", node=self._offer.name, error=str(error))
                await asyncio.sleep(RETRY_SECONDS)

    async def _register_once(self) -> None:
        metadata: dict[str, Any] = {"labels": node_object.labels(self._offer, self._facts)}
        try:
            node = await self._client.patch(NODES, self._offer.name, {"metadata": metadata})
        except NotFound:
            body = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": self._offer.name, **metadata}}
            try:
                node = await self._client.create(NODES, body)
            except AlreadyExists:
                node = await self._client.patch(NODES, self._offer.name, {"metadata": metadata})
        self._uid = node["metadata"]["uid"]
        await self._write_status(node, is_shut_down=False)
        await self.renew_lease()

    async def _write_status(self, node: dict[str, Any], *, is_shut_down: bool) -> None:
        transitions = {
            condition["type"]: (condition["status"], condition.get("lastTransitionTime") or "")
            for condition in (node.get("status") or {}).get("conditions") or ()
        }
        status = node_object.status(
            self._offer,
            self._facts,
            kubelet_port=self._kubelet_port(),
            transitions=transitions,
            is_shut_down=is_shut_down,
            now=time.time(),
        )
        await self._client.patch(
            NODES, self._offer.name, {"status": status}, kind=PatchKind.STRATEGIC, subresource="status"
        )

    async def refresh_status(self, *, is_shut_down: bool = False) -> None:
        """Write the status again; registers anew when somebody deleted the Node."""
        try:
            node = await self._client.get(NODES, self._offer.name)
        except NotFound:
            await self._register_once()
            return
        await self._write_status(node, is_shut_down=is_shut_down)

    async def renew_lease(self, duration_seconds: int = 40) -> None:
        """Say that the node is alive."""
        name = self._offer.name
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        spec = {"holderIdentity": name, "leaseDurationSeconds": duration_seconds, "renewTime": now}
        try:
            await self._client.patch(LEASES, name, {"spec": spec}, LEASE_NAMESPACE)
        except NotFound:
            owner = {"apiVersion": "v1", "kind": "Node", "name": name, "uid": self._uid}
            body = {
                "apiVersion": "coordination.k8s.io/v1",
                "kind": "Lease",
                "metadata": {"name": name, "namespace": LEASE_NAMESPACE, "ownerReferences": [owner]},
                "spec": spec,
            }
            await self._client.create(LEASES, body, LEASE_NAMESPACE)

    async def lift_taint(self, patience_seconds: float) -> None:
        """Remove the not-ready taint if it is still there after `patience_seconds`.

        kube-controller-manager does it within moments; without one nobody else would."""
        await asyncio.sleep(patience_seconds)
        while True:
            try:
                node = await self._client.get(NODES, self._offer.name)
                taints = node["spec"].get("taints") or []
                left = [taint for taint in taints if taint["key"] != NOT_READY_TAINT]
                if len(left) == len(taints):
                    return
                version_seen = node["metadata"]["resourceVersion"]
                body = {"metadata": {"resourceVersion": version_seen}, "spec": {"taints": left or None}}
                await self._client.patch(NODES, self._offer.name, body)
                _log.info("taint_lifted", node=self._offer.name, taint=NOT_READY_TAINT)
                return
            except Conflict:
                continue
            except KubeError as error:
                _log.warning("taint_not_lifted", node=self._offer.name, error=str(error))
                await asyncio.sleep(RETRY_SECONDS)

    async def keep_lease(self, every_seconds: float, duration_seconds: int) -> None:
        """Renew the Lease for ever."""
        while True:
            try:
                await self.renew_lease(duration_seconds)
            except KubeError as error:
                _log.warning("lease_not_renewed", node=self._offer.name, error=str(error))
            await asyncio.sleep(every_seconds)

    async def keep_status(self, every_seconds: float) -> None:
        """Refresh the status for ever."""
        while True:
            await asyncio.sleep(every_seconds)
            try:
                await self.refresh_status()
            except KubeError as error:
                _log.warning("node_status_not_written", node=self._offer.name, error=str(error))


def machine_facts(folder: Path) -> MachineFacts:
    """Return what is true of this machine; storage is that of `folder`'s file system."""
    system = os.uname()
    disk = os.statvfs(folder)
    return MachineFacts(
        architecture=ARCHITECTURES.get(system.machine, system.machine),
        kernel_version=system.release,
        os_image=_os_image(),
        machine_id=_first_line("/etc/machine-id"),
        system_uuid=_first_line("/sys/class/dmi/id/product_uuid") or _first_line("/etc/machine-id"),
        boot_id=_first_line("/proc/sys/kernel/random/boot_id"),
        agent_version=agent_version(),
        ephemeral_storage_bytes=disk.f_frsize * disk.f_blocks,
    )


def agent_version() -> str:
    """Return the installed version, `0` from a bare checkout."""
    try:
        return version("headrace")
    except PackageNotFoundError:
        return "0"


def _os_image() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", "Linux")
    except OSError:
        return "Linux"


def _first_line(path: str) -> str:
    try:
        return Path(path).read_text(encoding="ascii").strip()
    except OSError:
        return ""
