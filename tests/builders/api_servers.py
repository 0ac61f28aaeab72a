"""API servers for tests: etcd and kube-apiserver, nothing else, so that nothing acts on objects by itself."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from headrace.cluster import manifests
from headrace.cluster.control_plane import ControlPlane
from kube.client import KubeClient
from kube.config import load_config
from kube.errors import AlreadyExists
from kube.resources import NAMESPACES

SYSTEM = "headrace-system"


@contextmanager
def api_server(
    folder: Path,
    binaries: Mapping[str, Path],
    name: str,
    *,
    flags: Sequence[str] = (),
    crds: bool = True,
) -> Iterator[ControlPlane]:
    """An API server with these flags and, unless told otherwise, our CRDs; it ends with the test run at the latest."""
    plane = ControlPlane(
        folder,
        binaries,
        name=name,
        components=("etcd", "kube-apiserver"),
        durable=False,
        dies_with_us=True,
        extra_args={"kube-apiserver": flags},
    )
    try:
        plane.start()
        if crds:
            manifests.apply(plane.kubeconfig, manifests.crd_files())
        yield plane
    finally:
        plane.stop()


def grant(plane: ControlPlane, part: str) -> Path:
    """Give a part of ours the rights its manifests name and no more; its kubeconfig. May be called again."""
    asyncio.run(_make_system_namespace(plane.kubeconfig))
    manifests.apply(plane.kubeconfig, [manifests.rbac_file(part)])
    return plane.kubeconfig_for(part)


async def _make_system_namespace(kubeconfig: Path) -> None:
    async with KubeClient(load_config(kubeconfig), user_agent="tests") as client:
        with suppress(AlreadyExists):
            await client.create(NAMESPACES, {"metadata": {"name": SYSTEM}})
