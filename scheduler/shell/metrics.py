"""Metrics of the scheduler, each declared once; kube-scheduler's names and buckets where it has the metric.

Owns names, units and labels. Labels are bounded: results, pools, sources. No names of pods, nodes or jobs.
"""

from prometheus_client import Counter, Gauge, Histogram

_EXPONENTIAL = tuple(0.001 * 2**exponent for exponent in range(15))

SCHEDULE_ATTEMPTS = Counter(
    "scheduler_schedule_attempts",
    "Tries by result (stable, as kube-scheduler's).",
    ["result", "profile"],  # result: scheduled, unschedulable, error
)
ATTEMPT_SECONDS = Histogram(
    "scheduler_scheduling_attempt_duration_seconds",
    "Seconds of one pod's try in the core (stable).",
    ["result", "profile"],  # result: scheduled, unschedulable
    buckets=_EXPONENTIAL,
)
ALGORITHM_SECONDS = Histogram(
    "scheduler_scheduling_algorithm_duration_seconds",
    "Seconds of one round of tries in the core (stable).",
    buckets=_EXPONENTIAL,
)
POD_SLI_SECONDS = Histogram(
    "scheduler_pod_scheduling_sli_duration_seconds",
    "Seconds from a pod's creation, or the end of its last scheduling gate, to its bind being decided (stable).",
    ["attempts"],  # 1..14, then 15+
    buckets=tuple(0.01 * 2**exponent for exponent in range(20)),
)
POD_TRIES = Histogram(
    "scheduler_pod_scheduling_attempts",
    "Tries a pod needed (stable).",
    buckets=(1, 2, 4, 8, 16),
)
BINDING_SECONDS = Histogram(
    "scheduler_framework_extension_point_duration_seconds",
    "Seconds of the Bind extension point (stable).",
    ["extension_point", "status", "profile"],
    buckets=tuple(0.0001 * 2**exponent for exponent in range(16)),
)
PENDING_PODS = Gauge(
    "scheduler_pending_pods",
    "Waiting units, pods or whole gangs, by queue (stable).",
    ["queue"],  # active, backoff, unschedulable, gated
)
QUEUE_INCOMING = Counter(
    "scheduler_queue_incoming_pods",
    "Units put into a queue, by queue and by the event that did it (stable, as kube-scheduler's).",
    ["queue", "event"],
)
UNSCHEDULABLE_PODS = Gauge(
    "scheduler_unschedulable_pods",
    "Refused units that wait, by each filter that refused them somewhere (stable).",
    ["plugin", "profile"],
)
GANG_TRIES = Counter(
    "scheduler_podgroup_schedule_attempts",
    "Tries of gangs, by result (stable, as kube-scheduler's).",
    ["result", "profile"],  # result: scheduled, unschedulable
)
GANG_SECONDS = Histogram(
    "scheduler_podgroup_scheduling_attempt_duration_seconds",
    "Seconds of one gang's try in the core (stable).",
    ["result", "profile"],
    buckets=_EXPONENTIAL,
)
CACHE_SIZE = Gauge(
    "scheduler_cache_size",
    "Objects in the scheduler's state (stable).",
    ["type"],  # nodes, pods, assumed_pods
)
STAGE_IN_SECONDS = Histogram(
    "headrace_scheduler_stage_in_seconds",
    "Expected seconds of stage-in of placed pods that name data (stable).",
    buckets=(0.01, 0.05, 0.1, 0.5, 1, 5, 15, 60, 300, 1200, 3600, 14400),
)
DATA_BYTES = Counter(
    "headrace_scheduler_data_bytes",
    "Bytes of data of placed pods by where they were expected to come from (stable).",
    ["source"],  # local, peers, origin
)
GANGS_UNDONE = Counter(
    "headrace_scheduler_gang_members_undone",
    "Bound members deleted because the rest of their gang could not be bound in time (stable).",
)
PREEMPTION_ATTEMPTS = Counter(
    "scheduler_preemption_attempts",
    "Times evicting pods of lower priority was considered (stable).",
)
PREEMPTION_VICTIMS = Histogram(
    "scheduler_preemption_victims",
    "Victims of one preemption (stable).",
    buckets=tuple(2**exponent for exponent in range(7)),
)
EVICTIONS = Counter(
    "headrace_scheduler_evictions",
    "Victims by what became of them (stable).",
    ["outcome"],  # evicted, gone, failed
)
PUBLISH = Counter(
    "headrace_scheduler_publish",
    "Conditions and statuses written off the bind path, by what became of them (stable).",
    ["what", "outcome"],  # what: condition, nomination, group, delete; outcome: written, failed, skipped
)
VOLUME_BINDS = Counter(
    "headrace_scheduler_volume_binds",
    "Pods whose claims had to be bound before them, by what became of that (stable).",
    ["outcome"],  # bound, failed
)
EXTENDER = Counter(
    "headrace_scheduler_extender_requests",
    "Requests of kube-scheduler's extender calls, by what became of them (stable).",
    ["verb", "outcome"],  # verb: filter, prioritize, certificate; outcome: answered, bad_request, not_ready, not_read
)
LEADER = Gauge("headrace_scheduler_is_leader", "1 while this replica decides (stable).")
