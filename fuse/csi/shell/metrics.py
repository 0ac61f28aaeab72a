"""Metrics of the plugin and its launcher, each declared once. Labels are bounded: never paths, datasets or pods."""

from prometheus_client import Counter, Histogram

REQUESTS = Counter(
    "headrace_csi_requests",
    "Calls answered (stable).",
    ["method", "code"],  # code: gRPC status name
)
REQUEST_SECONDS = Histogram(
    "headrace_csi_request_seconds",
    "Seconds from a call to its answer, calls that went well (stable).",
    ["method"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120),
)
DEFECTS = Counter("headrace_csi_defects", "Exceptions nobody expected; the log has each (stable).", ["method"])
DAEMONS = Counter(
    "headrace_csi_daemons",
    "FUSE daemons by what became of them (stable).",
    ["event"],  # started, failed, ended
)
HEALED = Counter("headrace_csi_healed", "Targets mounted anew after their daemon died (stable).")
NOT_HEALED = Counter("headrace_csi_not_healed", "Tries of that which failed; the log has each (stable).")
