"""The API server with the job controller's rights, and a namespace of its own for each test."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from kube.client import KubeClient
from kube.config import load_config
from kube.resources import NAMESPACES, SERVICE_ACCOUNTS, TRAINING_JOBS
from tests.builders import api_servers
from tests.builders.job_cluster import Cluster


@pytest.fixture(scope="session")
def jobcontroller_kubeconfig(api_server: Any) -> Path:
    return api_servers.grant(api_server.control_plane, "jobcontroller")


@pytest.fixture
async def cluster(api_server: Any, jobcontroller_kubeconfig: Path) -> AsyncIterator[Cluster]:
    namespace = f"jobs-{uuid4().hex[:8]}"
    async with KubeClient(load_config(api_server.kubeconfig), user_agent="tests") as client:
        await client.create(NAMESPACES, {"metadata": {"name": namespace}})
        await client.create(SERVICE_ACCOUNTS, {"metadata": {"name": "default"}}, namespace)
        yield Cluster(client, namespace, jobcontroller_kubeconfig)
        jobs = (await client.list(TRAINING_JOBS, namespace)).items
        for job in jobs:
            await client.delete(TRAINING_JOBS, job["metadata"]["name"], namespace)
