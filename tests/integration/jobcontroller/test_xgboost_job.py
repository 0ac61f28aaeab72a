"""An XGBoost job that really runs: the tracker in the Master, training over it, on two process nodes; the test places.

Nightly: the library comes with `make nightly` (tools/nightly.txt)."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.builders.job_cluster import Cluster
from tests.builders.process_nodes import logs_of_job
from tests.builders.training_jobs import job_body

pytest.importorskip("xgboost", reason="tools/nightly.txt is not installed; `make nightly` does")
pytestmark = [pytest.mark.nightly, pytest.mark.cluster, pytest.mark.mount]

PROGRAM = """
import hashlib, os
import numpy as np
import xgboost
from xgboost import collective
from xgboost.tracker import RabitTracker

rank, world, port = int(os.environ["RANK"]), int(os.environ["DMLC_NUM_WORKER"]), int(os.environ["DMLC_TRACKER_PORT"])
if rank == 0:
    tracker = RabitTracker(n_workers=world, host_ip=os.environ["POD_IP"], port=port)
    tracker.start()
with collective.CommunicatorContext(
    dmlc_communicator="rabit", dmlc_tracker_uri=os.environ["DMLC_TRACKER_URI"], dmlc_tracker_port=port,
    dmlc_task_id=os.environ["DMLC_TASK_ID"], dmlc_retry=60,
):
    rows = np.random.default_rng(7).random((600, 4))[rank::world]
    data = xgboost.DMatrix(rows, (rows[:, 0] > rows[:, 1]).astype(int))
    model = xgboost.train({"objective": "binary:logistic", "nthread": 1, "max_depth": 3}, data, 5)
    digest = hashlib.sha256(bytes(model.save_raw("json"))).hexdigest()
    seen = int(collective.allreduce(np.array([len(rows)]), collective.Op.SUM)[0])
    print("of", collective.get_world_size(), "rows", seen, "model", digest, flush=True)
if rank == 0:
    tracker.wait_for()
"""


def _pod() -> dict[str, Any]:
    env = [{"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}]
    container = {"name": "main", "image": "any", "command": [sys.executable, "-c", PROGRAM], "env": env}
    return {"spec": {"containers": [container], "automountServiceAccountToken": False}}


async def test_all_ranks_train_one_model_over_all_rows(cluster: Cluster, api_server: Any, tmp_path: Path) -> None:
    roles = {role: {"replicas": count, "template": _pod()} for role, count in (("Master", 1), ("Worker", 2))}
    body = job_body("boost", framework="XGBoost", replicaSpecs=roles)
    logs = await logs_of_job(cluster, api_server.kubeconfig, tmp_path, body)
    said = [re.search(r"of 3 rows 600 model (\w{64})", log) for log in logs.values()]
    assert all(said), logs
    assert len({one.group(1) for one in said if one is not None}) == 1
