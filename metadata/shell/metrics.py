"""Metrics of the metadata service, each declared once. Labels are bounded: never paths, datasets or nodes."""

from prometheus_client import Counter, Gauge, Histogram

REQUESTS = Counter(
    "headrace_metadata_requests",
    "Requests answered (stable).",
    ["method", "code"],  # code: gRPC status name
)
REQUEST_SECONDS = Histogram(
    "headrace_metadata_request_seconds",
    "Seconds from a request to its answer, unary calls (stable).",
    ["method"],
    buckets=(0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1, 5),
)
COMMIT_SECONDS = Histogram(
    "headrace_metadata_commit_seconds",
    "Seconds of one database commit with all its works (stable).",
    buckets=(0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1, 5, 30),
)
COMMIT_WORKS = Histogram(
    "headrace_metadata_commit_works",
    "Works that shared one commit (internal).",
    buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512),
)
LISTED_OBJECTS = Counter("headrace_metadata_listed_objects", "Objects that listings returned (stable).")
LISTINGS = Counter(
    "headrace_metadata_listings",
    "Listings that ended (stable).",
    ["outcome"],  # done, cancelled, or a reason of understores/errors.py
)
LISTING_SECONDS = Histogram(
    "headrace_metadata_listing_seconds",
    "Seconds of a listing that went well, from its start to the new snapshot (stable).",
    buckets=(0.1, 0.5, 1, 5, 10, 30, 60, 300, 1800, 7200),
)
LISTING_CHANGES = Counter(
    "headrace_metadata_listing_changes",
    "Files in which listings differed from the snapshot before (stable).",
    ["kind"],  # added, changed, removed
)
LISTINGS_RESUMED = Counter(
    "headrace_metadata_listings_resumed", "Listings that a restart interrupted and that went on (stable)."
)
LISTINGS_NOT_PARALLEL = Counter(
    "headrace_metadata_listings_not_parallel",
    "Mounts listed by one request after another, as the store refused to tell its directories (stable).",
)
LEFT_OUT_OBJECTS = Counter(
    "headrace_metadata_left_out_objects",
    "Objects of listings that are in no snapshot (stable).",
    ["why"],  # unusable_key, shadowed (a directory has the name), hidden (another mount covers it)
)
WORKERS_ALIVE = Gauge("headrace_metadata_workers_alive", "Workers with a lease (stable).")
WATCHES = Gauge("headrace_metadata_watches", "Watch streams open (stable).")
INTERNAL_ERRORS = Counter(
    "headrace_metadata_internal_errors",
    "Exceptions that are bugs (stable).",
    ["place"],  # request, listing, purge, leases
)
FENCES = Counter(
    "headrace_metadata_fences",
    "Directories of datasets closed to a node whose pods nobody knows the end of, and opened again (stable).",
    ["event"],  # raised, lifted
)
TOKENS = Counter(
    "headrace_metadata_tokens",
    "Capability tokens issued (stable).",
    ["role"],  # of the audience
)
