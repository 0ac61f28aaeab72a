"""Metrics of the Kubernetes client, each declared once.

Owns names, units and labels. Labels are bounded: verbs, plurals of kinds, and the fixed
causes named beside each metric; never names of objects.
"""

from prometheus_client import Counter, Histogram

REQUESTS = Counter(
    "headrace_kube_requests",
    "Requests sent to the API server, every try counted (stable).",
    ["verb", "code"],  # code: HTTP code, 0 when no answer arrived
)
REQUEST_SECONDS = Histogram(
    "headrace_kube_request_seconds",
    "Seconds from sending a request to its whole answer, one try (stable).",
    ["verb"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)
RETRIES = Counter(
    "headrace_kube_retries",
    "Requests tried again (stable).",
    ["verb", "cause"],  # cause: throttled, unavailable, no_answer, unauthorized
)
WATCH_RESTARTS = Counter(
    "headrace_kube_watch_restarts",
    "Watches opened again (stable).",
    ["resource", "cause"],  # cause: ended, silence, gone, error
)
UNDECODABLE_OBJECTS = Counter(
    "headrace_kube_undecodable_objects",
    "Objects left out because their fields have unexpected types (stable).",
    ["resource"],
)
EVENTS = Counter(
    "headrace_kube_events",
    "Kubernetes events by what became of them (stable).",
    ["outcome"],  # created, repeated, dropped, failed
)
