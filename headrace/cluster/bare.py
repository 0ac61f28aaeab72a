"""A control plane without controllers, for one run of schedulers under test: empty, with our CRDs and kwok's nodes.

Owns its components and flags. Invariant: nothing of it is left, whatever ends the run."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from headrace.cluster import manifests
from headrace.cluster.binaries import require
from headrace.cluster.control_plane import WITHOUT_CONTROLLERS, ControlPlane
from simulations.kwok.runs import Cluster

COMPONENTS = ("etcd", "kube-apiserver", "kwok")
#: No controller looks at Leases, and renewing a thousand of them is a hundred writes a second.
NO_LEASES = ("--node-lease-duration-seconds=0",)


@contextmanager
def bare_cluster() -> Iterator[Cluster]:
    """Start one, stop it in the end. Raises HeadraceError."""
    binaries = require((*COMPONENTS, "kube-scheduler"))
    with tempfile.TemporaryDirectory(prefix="headrace-sim-") as folder:
        plane = ControlPlane(
            Path(folder),
            binaries,
            name="sim",
            components=COMPONENTS,
            durable=False,
            dies_with_us=True,
            extra_args={"kube-apiserver": WITHOUT_CONTROLLERS, "kwok": NO_LEASES},
        )
        try:
            plane.start()
            manifests.apply(plane.kubeconfig, manifests.crd_files())
            yield Cluster(plane.kubeconfig, Path(folder), str(binaries["kube-scheduler"]))
        finally:
            plane.stop()
