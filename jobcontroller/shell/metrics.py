"""Every metric of the job controller. Labels are bounded: no job, pod or namespace names.

Stability: experimental."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

RECONCILES = Counter("headrace_jobcontroller_reconciles", "decisions made, by result", ["result"])
"""result: done, conflict, retry; errors are counted by kube/workqueue.py."""
RECONCILE_SECONDS = Histogram(
    "headrace_jobcontroller_reconcile_seconds",
    "seconds from taking a job off the queue to the last action",
    buckets=(0.001, 0.005, 0.02, 0.1, 0.5, 2, 10),
)
QUEUE_DEPTH = Gauge("headrace_jobcontroller_queue_depth", "jobs waiting for a worker or being handled")
ACTIONS = Counter("headrace_jobcontroller_actions", "actions performed, by kind and result", ["kind", "result"])
"""kind: the action's class name; result: done, refused, failed."""
OUTCOMES = Counter("headrace_jobcontroller_outcomes", "restarts and ends of jobs, by reason", ["reason"])
"""reason: one of core/reasons.py."""
SIGNS = Counter("headrace_jobcontroller_sign_readings", "readings of jobs' signs of life, by result", ["result"])
"""result: read, failed."""
_LAUNCH_BUCKETS = (1, 2, 5, 10, 30, 60, 300, 1800, 7200, 28800)
FIRST_POD_SECONDS = Histogram(
    "headrace_jobcontroller_first_pod_launch_seconds",
    "seconds from a job's creation until the first pod of its first attempt ran (KubeDL's first_pod_launch_delay)",
    buckets=_LAUNCH_BUCKETS,
)
"""Both are counted when all pods run."""
ALL_PODS_SECONDS = Histogram(
    "headrace_jobcontroller_all_pods_launch_seconds",
    "seconds from a job's creation until all pods of its first attempt ran (KubeDL's all_pods_launch_delay)",
    buckets=_LAUNCH_BUCKETS,
)
