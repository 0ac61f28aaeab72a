"""What benchmarks on a real API server share: many creations at a time, the least of an object that its watch needs,
an account to run a scheduler as, and what a process has cost. Owns no measurement.
"""

import asyncio
import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import yaml

from kube.client import KubeClient
from kube.errors import AlreadyExists
from kube.resources import SERVICE_ACCOUNTS, Resource

CREATE_IN_FLIGHT = 32
TOKEN_SECONDS = 86_400
_BINDINGS = Resource("rbac.authorization.k8s.io", "v1", "clusterrolebindings", "ClusterRoleBinding", namespaced=False)


class Meta(msgspec.Struct, gc=False):
    """Watching must not cost what is measured."""

    name: str = ""
    namespace: str = ""
    uid: str = ""
    resourceVersion: str = ""

    @property
    def resource_version(self) -> str:
        """For kube's watch, which reads it to resume."""
        return self.resourceVersion


async def create_all(
    client: KubeClient, resource: Resource, bodies: Sequence[dict[str, Any]], namespace: str | None
) -> None:
    """Create objects, 32 at a time; one that is there already is fine."""
    waiting = iter(bodies)

    async def create() -> None:
        for body in waiting:
            with contextlib.suppress(AlreadyExists):
                await client.create(resource, body, namespace)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(CREATE_IN_FLIGHT):
            tasks.create_task(create())


async def account_kubeconfig(client: KubeClient, kubeconfig: Path, name: str, namespace: str) -> Path:
    """Make the service account `name`, an administrator, and a file beside `kubeconfig` that signs in as it.

    A secondary scheduler is a Deployment, and so has a token. The API server remembers one for ten seconds, whereas it
    verifies a client certificate's signature anew with every request.
    """
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}}
    binding = {
        "apiVersion": _BINDINGS.api_version,
        "kind": _BINDINGS.kind,
        "metadata": {"name": name},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
        "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": namespace}],
    }
    await create_all(client, SERVICE_ACCOUNTS, [account], namespace)
    await create_all(client, _BINDINGS, [binding], None)
    asked = {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenRequest",
        "spec": {"expirationSeconds": TOKEN_SECONDS},
    }
    answer = await client.request(
        "POST", SERVICE_ACCOUNTS.path(namespace, name, "token"), body=msgspec.json.encode(asked)
    )
    config = yaml.safe_load(kubeconfig.read_text(encoding="utf-8"))
    config["users"] = [
        {"name": user["name"], "user": {"token": msgspec.json.decode(answer)["status"]["token"]}}
        for user in config["users"]
    ]
    made = kubeconfig.with_name(f"{name}.kubeconfig")
    made.touch(mode=0o600)
    made.write_text(yaml.safe_dump(config), encoding="utf-8")
    return made


def peak_mib(pid: int) -> float:
    """Return the most memory a process had resident."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    return float(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024


def cpu_seconds(pid: int) -> float:
    """Return the processor time a process has taken."""
    # After the command's name in brackets: state is field 3, utime and stime are 14 and 15.
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
