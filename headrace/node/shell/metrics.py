"""Metrics of the node agent. All are stable; labels are bounded."""

from prometheus_client import Counter, Gauge

PODS = Gauge("headrace_node_pods", "Pods on this node that have not ended")
STARTS = Counter("headrace_node_container_starts", "Container starts", ["outcome"])  # started, failed
STATUS_WRITES = Counter("headrace_node_status_writes", "Writes of a pod's status", ["outcome"])  # ok, failed
WORKER_ERRORS = Counter("headrace_node_worker_errors", "Errors that ended a pod's worker and were survived")
REJECTIONS = Counter("headrace_node_rejections", "Pods this node did not take")
