"""The project's YAML, applied to an API server.

Owns finding the files, the order (CRDs first, and served before anything else)
and server-side apply. Does not write or generate YAML. Invariant: applying twice
changes nothing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from headrace.cluster.binaries import PROJECT_ROOT
from headrace.errors import ClusterError
from kube.client import KubeClient, PatchKind
from kube.config import load_config
from kube.errors import KubeError, NotFound, Unavailable
from kube.resources import CRDS, SECRETS, Resource

FIELD_MANAGER = "headrace-up"
MANIFESTS = PROJECT_ROOT / "manifests"
#: A CRD is served some hundred milliseconds after it is accepted; a loaded machine needs seconds.
ESTABLISHED_SECONDS = 30.0

#: The kinds our manifests use and an `up` applies: (group, kind) -> resource.
KINDS: Mapping[tuple[str, str], Resource] = {
    (resource.group, resource.kind): resource
    for resource in (
        CRDS,
        SECRETS,
        Resource("", "v1", "namespaces", "Namespace", namespaced=False),
        Resource("", "v1", "serviceaccounts", "ServiceAccount", namespaced=True),
        Resource("rbac.authorization.k8s.io", "v1", "clusterroles", "ClusterRole", namespaced=False),
        Resource("rbac.authorization.k8s.io", "v1", "clusterrolebindings", "ClusterRoleBinding", namespaced=False),
        Resource("rbac.authorization.k8s.io", "v1", "roles", "Role", namespaced=True),
        Resource("rbac.authorization.k8s.io", "v1", "rolebindings", "RoleBinding", namespaced=True),
        Resource("scheduling.k8s.io", "v1", "priorityclasses", "PriorityClass", namespaced=False),
        Resource("storage.k8s.io", "v1", "csidrivers", "CSIDriver", namespaced=False),
        Resource("storage.k8s.io", "v1", "storageclasses", "StorageClass", namespaced=False),
        Resource(
            "admissionregistration.k8s.io",
            "v1",
            "validatingadmissionpolicies",
            "ValidatingAdmissionPolicy",
            namespaced=False,
        ),
        Resource(
            "admissionregistration.k8s.io",
            "v1",
            "validatingadmissionpolicybindings",
            "ValidatingAdmissionPolicyBinding",
            namespaced=False,
        ),
    )
}
#: Namespaces before what lives in them; all other kinds in file order.
_FIRST = ("Namespace", "CustomResourceDefinition")


def load(files: Iterable[Path]) -> list[dict[str, Any]]:
    """The objects of YAML files, in order. Raises ClusterError naming the file that is not valid."""
    objects: list[dict[str, Any]] = []
    for file in files:
        try:
            documents = list(yaml.safe_load_all(file.read_text(encoding="utf-8")))
        except (OSError, yaml.YAMLError) as error:
            raise ClusterError(f"{file} cannot be read as YAML: {error}") from error
        for document in documents:
            if document is None:
                continue
            if not isinstance(document, dict) or "kind" not in document or "apiVersion" not in document:
                raise ClusterError(f"{file} holds a document without apiVersion and kind")
            objects.append(document)
    return objects


def crd_files(root: Path = MANIFESTS) -> list[Path]:
    """The generated CRDs; empty when there are none."""
    return sorted((root / "crds").glob("*.*.yaml"))


def rbac_file(part: str, root: Path = MANIFESTS) -> Path:
    """Where the RBAC of one part is."""
    return root / "base" / part / "rbac.yaml"


def rbac_files(root: Path = MANIFESTS) -> list[Path]:
    """The RBAC of every part that has one, and the namespaces they live in."""
    return sorted((root / "base").glob("namespace*.yaml")) + sorted((root / "base").glob("*/rbac.yaml"))


def admission_files(root: Path = MANIFESTS) -> list[Path]:
    """What the API server is to refuse of our kinds, beyond their schemas."""
    return sorted((root / "base").glob("*/admission.yaml"))


def apply(kubeconfig: Path, files: Iterable[Path]) -> int:
    """Apply the objects of these files and wait until new kinds are served; the number of objects.

    Blocking. Raises ClusterError with the object and the API server's own words."""
    return asyncio.run(apply_async(kubeconfig, files))


async def apply_async(kubeconfig: Path, files: Iterable[Path]) -> int:
    """As `apply`, inside an event loop."""
    return await apply_objects(kubeconfig, load(files))


async def apply_objects(kubeconfig: Path, objects: list[dict[str, Any]]) -> int:
    """As `apply`, of objects that are in no file."""
    objects.sort(key=lambda item: _FIRST.index(item["kind"]) if item["kind"] in _FIRST else len(_FIRST))
    async with KubeClient(load_config(kubeconfig), user_agent="headrace") as client:
        for item in objects:
            await _apply_one(client, item)
        for item in objects:
            if item["kind"] == CRDS.kind:
                await _wait_served(client, item)
    return len(objects)


async def _apply_one(client: KubeClient, item: dict[str, Any]) -> None:
    group = item["apiVersion"].rpartition("/")[0]
    name = item.get("metadata", {}).get("name", "")
    resource = KINDS.get((group, item["kind"]))
    if resource is None:
        raise ClusterError(f"{item['kind']} {name} ({item['apiVersion']}) is a kind `headrace up` does not apply")
    namespace = item["metadata"].get("namespace", "default") if resource.namespaced else None
    try:
        await client.patch(
            resource,
            name,
            item,
            namespace,
            kind=PatchKind.APPLY,
            field_manager=FIELD_MANAGER,
            force=True,
        )
    except KubeError as error:
        raise ClusterError(f"{item['kind']} {name} was not accepted: {error}") from error


async def _wait_served(client: KubeClient, crd: dict[str, Any]) -> None:
    spec = crd["spec"]
    version = next(entry["name"] for entry in spec["versions"] if entry.get("served"))
    path = f"/apis/{spec['group']}/{version}/{spec['names']['plural']}"
    deadline = time.monotonic() + ESTABLISHED_SECONDS
    while True:
        try:
            await client.request("GET", path, params={"limit": "1"})
            return
        except (NotFound, Unavailable) as error:
            if time.monotonic() > deadline:
                raise ClusterError(
                    f"{crd['metadata']['name']} is not served after {ESTABLISHED_SECONDS:.0f} s: {error}"
                ) from error
        await asyncio.sleep(0.1)
