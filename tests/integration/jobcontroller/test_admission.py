"""manifests/base/jobcontroller/admission.yaml on a real API server: what a submitter lacks he does not get by a job;
roles that wait for each other are refused."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from headrace.cluster import manifests
from kube.client import KubeClient
from kube.config import load_config
from kube.errors import KubeError
from kube.resources import CRON_TRAINING_JOBS, NAMESPACES, TRAINING_JOBS, Resource
from tests.builders.training_jobs import job_body, workers

pytestmark = pytest.mark.cluster

Body = dict[str, Any]
RBAC = "rbac.authorization.k8s.io"
#: What each may do beside writing our jobs.
USERS: dict[str, list[Body]] = {
    "scientist": [],
    "maker": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["create"]}],
    "reader": [{"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]}],
    "actor": [{"apiGroups": [""], "resources": ["serviceaccounts"], "verbs": ["impersonate"]}],
}
WRITE = {"apiGroups": ["training.headrace.dev"], "resources": ["*"], "verbs": ["create", "patch", "update", "get"]}


class Door:
    """The API server with the policy, a namespace of its own, and the users."""

    def __init__(self, kubeconfig: Path) -> None:
        self._kubeconfig = kubeconfig
        self.namespace = f"door-{uuid4().hex[:8]}"
        self.as_admin("POST", NAMESPACES.path(), {"metadata": {"name": self.namespace}})
        root = f"/apis/{RBAC}/v1/namespaces/{self.namespace}"
        for user, rules in USERS.items():
            role = {"metadata": {"name": user}, "rules": [WRITE, *rules]}
            subject = {"kind": "User", "name": user, "apiGroup": RBAC}
            binding = {
                "metadata": {"name": user},
                "roleRef": {"apiGroup": RBAC, "kind": "Role", "name": user},
                "subjects": [subject],
            }
            self.as_admin("POST", f"{root}/roles", role)
            self.as_admin("POST", f"{root}/rolebindings", binding)

    def as_admin(self, method: str, path: str, body: Body) -> Body:
        return self._request(method, path, body, {})

    def submit(self, user: str, body: Body, resource: Resource = TRAINING_JOBS, groups: str = "") -> str:
        """Try a job without keeping it; "" or why it was refused."""
        headers = {"Impersonate-User": user} | ({"Impersonate-Group": groups} if groups else {})
        try:
            self._request("POST", f"{resource.path(self.namespace)}?dryRun=All", body, headers)
        except KubeError as error:
            return error.message
        return ""

    def change(self, user: str, name: str, patch: Body) -> str:
        try:
            self._request("PATCH", TRAINING_JOBS.path(self.namespace, name), patch, {"Impersonate-User": user})
        except KubeError as error:
            return error.message
        return ""

    def _request(self, method: str, path: str, body: Body, headers: dict[str, str]) -> Body:
        async def work() -> Body:
            async with KubeClient(load_config(self._kubeconfig), user_agent="tests") as client:
                assert client._session is not None
                client._session.headers.update(headers)
                place, _, query = path.partition("?")
                params = dict(part.split("=") for part in query.split("&")) if query else None
                kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
                answer = await client.request(
                    method, place, body=json.dumps(body).encode(), params=params, content_type=kind
                )
                found = json.loads(answer)
                assert isinstance(found, dict)
                return found

        return asyncio.run(work())


@pytest.fixture(scope="module")
def door(api_server: Any) -> Iterator[Door]:
    files = manifests.admission_files()
    assert files
    manifests.apply(api_server.kubeconfig, files)
    found = Door(api_server.kubeconfig)
    # A policy is in force some moments after it is stored.
    circle = job_body("probe", replicaSpecs=roles(Worker="Worker"))
    deadline = time.monotonic() + 60
    while not found.submit("scientist", circle):
        assert time.monotonic() < deadline, "the policy never came into force"
        time.sleep(0.2)
    yield found
    for one in reversed(manifests.load(files)):
        plural = f"{one['kind'].lower()}s" if one["kind"].endswith("Binding") else "validatingadmissionpolicies"
        found.as_admin("DELETE", f"/apis/admissionregistration.k8s.io/v1/{plural}/{one['metadata']['name']}", {})


def roles(**waits_for: str) -> Body:
    """Roles by name, each with the ones it depends on (separated by commas)."""
    one = workers(1)["Worker"]
    return {
        name: deepcopy(one) | ({"dependsOn": [{"role": other} for other in others.split(",")]} if others else {})
        for name, others in waits_for.items()
    }


def a_pod(**fields: Any) -> Body:
    """replicaSpecs with one role whose pod has these fields beside its container."""
    spec = workers(1)
    spec["Worker"]["template"]["spec"] |= fields
    return spec


def a_container(**fields: Any) -> Body:
    return a_pod(containers=[{"name": "main", "image": "x", **fields}])


SECRETS = {
    "a volume": a_pod(volumes=[{"name": "v", "secret": {"secretName": "s"}}]),
    "a projected volume": a_pod(volumes=[{"name": "v", "projected": {"sources": [{"secret": {"name": "s"}}]}}]),
    "a variable": a_container(env=[{"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]),
    "all variables": a_container(envFrom=[{"secretRef": {"name": "s"}}]),
    "of an init container": a_pod(initContainers=[{"name": "i", "envFrom": [{"secretRef": {"name": "s"}}]}]),
    "to pull": a_pod(imagePullSecrets=[{"name": "s"}]),
    "of a CSI driver": a_pod(volumes=[{"name": "v", "csi": {"driver": "d", "nodePublishSecretRef": {"name": "s"}}}]),
    "of a file share": a_pod(volumes=[{"name": "v", "azureFile": {"secretName": "s", "shareName": "f"}}]),
    "of a flex volume": a_pod(volumes=[{"name": "v", "flexVolume": {"driver": "d", "secretRef": {"name": "s"}}}]),
    "of a block device": a_pod(
        volumes=[{"name": "v", "iscsi": {"targetPortal": "p", "iqn": "q", "lun": 0, "secretRef": {"name": "s"}}}]
    ),
}
ACCOUNTS = {
    "by name": a_pod(serviceAccountName="boss"),
    "by its old name": a_pod(serviceAccount="boss"),
    "a token": a_pod(volumes=[{"name": "v", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}}]),
}
HOST = {
    "hostPath": a_pod(volumes=[{"name": "v", "hostPath": {"path": "/"}}]),
    "hostNetwork": a_pod(hostNetwork=True),
    "hostPID": a_pod(hostPID=True),
    "privileged": a_container(securityContext={"privileged": True}),
    "capabilities": a_container(securityContext={"capabilities": {"add": ["SYS_ADMIN"]}}),
    "hostPort": a_container(ports=[{"containerPort": 1, "hostPort": 1}]),
    "privileged, to begin with": a_pod(initContainers=[{"name": "i", "securityContext": {"privileged": True}}]),
}
PLAIN = {
    "as it is": workers(1),
    "the default account": a_pod(serviceAccountName="default"),
    "a claim and a map": a_pod(
        volumes=[
            {"name": "v", "persistentVolumeClaim": {"claimName": "c"}},
            {"name": "w", "projected": {"sources": [{"configMap": {"name": "m"}}]}},
            {"name": "x", "iscsi": {"targetPortal": "p", "iqn": "q", "lun": 0}},
        ],
    ),
    "a variable": a_container(env=[{"name": "A", "value": "b"}], envFrom=[{"configMapRef": {"name": "m"}}]),
    "fewer rights": a_container(
        securityContext={"privileged": False, "capabilities": {"drop": ["ALL"]}}, ports=[{"containerPort": 1}]
    ),
}


def cases(asked: dict[str, Body], allowed: set[str], word: str) -> list[Any]:
    return [pytest.param(spec, allowed, word, id=f"{word}: {name}") for name, spec in asked.items()]


@pytest.mark.parametrize(
    ("spec", "allowed", "word"),
    [
        *cases(SECRETS, {"maker", "reader"}, "names a Secret"),
        *cases(ACCOUNTS, {"maker", "actor"}, "names a service account"),
        *cases(HOST, {"maker"}, "asks for the node itself"),
        *cases(PLAIN, set(USERS), ""),
    ],
)
def test_nobody_gains_by_a_job_what_he_lacks(spec: Body, allowed: set[str], word: str, door: Door) -> None:
    for user in USERS:
        refusal = door.submit(user, job_body("one", replicaSpecs=spec))
        assert (refusal == "") is (user in allowed), (user, refusal)
        assert word in refusal or user in allowed, (user, refusal)


def test_a_schedule_is_looked_at_as_its_jobs_are_and_the_controller_makes_these(door: Door) -> None:
    spec = job_body("one", replicaSpecs=SECRETS["a volume"])["spec"]
    cron = {
        "apiVersion": "training.headrace.dev/v1alpha1",
        "kind": "CronTrainingJob",
        "metadata": {"name": "one"},
        "spec": {"schedule": "@daily", "jobTemplate": {"spec": spec}},
    }
    assert "names a Secret" in door.submit("scientist", cron, CRON_TRAINING_JOBS)
    assert door.submit("maker", cron, CRON_TRAINING_JOBS) == ""
    job = job_body("one", replicaSpecs=SECRETS["a volume"])
    door.as_admin(
        "POST",
        f"/apis/{RBAC}/v1/namespaces/{door.namespace}/rolebindings",
        {
            "metadata": {"name": "controller"},
            "roleRef": {"apiGroup": RBAC, "kind": "Role", "name": "scientist"},
            "subjects": [{"kind": "Group", "name": "headrace:jobcontroller", "apiGroup": RBAC}],
        },
    )
    assert door.submit("anybody", job, groups="headrace:jobcontroller") == ""


def test_who_suspends_a_job_need_not_be_able_to_write_it(door: Door) -> None:
    door.as_admin("POST", TRAINING_JOBS.path(door.namespace), job_body("secret", replicaSpecs=SECRETS["a volume"]))
    assert door.change("scientist", "secret", {"spec": {"runPolicy": {"suspend": True}}}) == ""
    assert door.change("scientist", "secret", {"metadata": {"labels": {"a": "b"}}}) == ""
    more = {"spec": {"replicaSpecs": {"Worker": {"replicas": 5}}}}
    assert "names a Secret" in door.change("scientist", "secret", more)


@pytest.mark.parametrize(
    ("waits", "is_refused"),
    [
        ({"A": ""}, False),
        ({"A": "A"}, True),
        ({"A": "B", "B": "A"}, True),
        ({"A": "", "B": "A", "C": "B,D", "D": "C"}, True),
        ({"A": "Z"}, True),
        ({name: (chr(ord(name) - 1) if name > "A" else "") for name in "ABCDEFGH"}, False),
        ({name: (chr(ord(name) - 1) if name > "A" else "H") for name in "ABCDEFGH"}, True),
    ],
)
def test_roles_that_wait_for_each_other_are_refused(waits: dict[str, str], is_refused: bool, door: Door) -> None:
    text = door.submit("scientist", job_body("one", framework="Custom", replicaSpecs=roles(**waits)))
    assert ("dependsOn closes a circle" in text) is is_refused, text
    assert bool(text) is is_refused, text
