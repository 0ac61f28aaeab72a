"""What the mount counts.

Owns every metric of this part: name, unit, bounded labels (operations, error names and ops are closed sets; no
paths, no datasets). Per-request counts are plain integers read at scrape time: the request path is hot.
"""

from collections import Counter
from collections.abc import Iterator
from typing import Final

import prometheus_client
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

REQUESTS: Final = "headrace_fuse_requests"
ERRORS: Final = "headrace_fuse_errors"
DEFECTS: Final = "headrace_fuse_defects"
RETRIES: Final = "headrace_fuse_worker_retries"
ENSURED_BYTES: Final = "headrace_fuse_ensured_bytes"
INLINE_BYTES: Final = "headrace_fuse_inline_bytes"
READ_BYTES: Final = "headrace_fuse_read_bytes"
WRITTEN_BYTES: Final = "headrace_fuse_written_bytes"
COMMITTED_BYTES: Final = "headrace_fuse_committed_bytes"
PASSTHROUGH_OPENS: Final = "headrace_fuse_passthrough_opens"
RESENT: Final = "headrace_fuse_resent_requests"
TAKEOVERS: Final = "headrace_fuse_takeovers"
JOURNAL_BYTES: Final = "headrace_fuse_journal_bytes"
INODES: Final = "headrace_fuse_inodes"


class Metrics(Collector):
    """Counters of one mount."""

    def __init__(self) -> None:
        self.requests: Counter[str] = Counter()
        self.errors: Counter[tuple[str, str]] = Counter()
        self.defects: Counter[str] = Counter()
        self.retries: Counter[str] = Counter()
        self.ensured_bytes: Counter[str] = Counter()
        self.inline_bytes: Counter[str] = Counter()
        self.read_bytes = 0
        self.written_bytes = 0
        self.committed_bytes = 0
        self.inodes = 0
        self.resent = 0
        self.takeovers: Counter[str] = Counter()
        self.journal_bytes = 0
        self.passthrough_opens = 0
        self.passthrough_refusals = 0

    def retried(self, op: str) -> None:
        """A request to the worker was sent again after the worker was lost."""
        self.retries[op] += 1

    def ensured(self, local_bytes: int, peer_bytes: int, origin_bytes: int) -> None:
        """The worker made bytes resident; by where they came from."""
        self.ensured_bytes["local"] += local_bytes
        self.ensured_bytes["peer"] += peer_bytes
        self.ensured_bytes["origin"] += origin_bytes

    def sent_inline(self, size_bytes: int, *, from_origin: bool) -> None:
        """The worker sent bytes that its node does not keep."""
        self.inline_bytes["origin" if from_origin else "cache"] += size_bytes

    def committed(self, size_bytes: int) -> None:
        """A written file became durable."""
        self.committed_bytes += size_bytes

    def collect(self) -> Iterator[Metric]:
        """Yield every metric, for a scrape."""
        yield _labelled(REQUESTS, "Requests of the kernel, by operation.", "operation", self.requests)
        errors = CounterMetricFamily(ERRORS, "Requests answered with an errno.", labels=["operation", "error"])
        for labels, value in self.errors.items():
            errors.add_metric(labels, value)
        yield errors
        yield _labelled(DEFECTS, "Requests that met a defect of ours (EIO).", "operation", self.defects)
        yield _labelled(RETRIES, "Requests sent again to a new worker.", "op", self.retries)
        yield _labelled(ENSURED_BYTES, "Bytes made resident for readers.", "source", self.ensured_bytes)
        yield _labelled(INLINE_BYTES, "Bytes sent by a worker that does not keep them.", "source", self.inline_bytes)
        yield CounterMetricFamily(READ_BYTES, "Bytes handed to the kernel.", value=self.read_bytes)
        yield CounterMetricFamily(WRITTEN_BYTES, "Bytes taken from writers.", value=self.written_bytes)
        yield CounterMetricFamily(COMMITTED_BYTES, "Bytes of committed files.", value=self.committed_bytes)
        opens = CounterMetricFamily(PASSTHROUGH_OPENS, "Opens onto the worker's file.", labels=["result"])
        opens.add_metric(["opened"], self.passthrough_opens)
        opens.add_metric(["refused"], self.passthrough_refusals)
        yield opens
        yield CounterMetricFamily(RESENT, "Requests an earlier daemon left unanswered.", value=self.resent)
        yield _labelled(TAKEOVERS, "Daemons of this mount that were followed by another.", "reason", self.takeovers)
        yield GaugeMetricFamily(JOURNAL_BYTES, "What is written down for the next daemon.", value=self.journal_bytes)
        yield GaugeMetricFamily(INODES, "Inodes known.", value=self.inodes)


def _labelled(name: str, help_text: str, label: str, values: Counter[str]) -> Metric:
    family = CounterMetricFamily(name, help_text, labels=[label])
    for key, value in values.items():
        family.add_metric([key], value)
    return family


def serve(metrics: Metrics, host: str, port: int) -> None:
    """Serve /metrics in a thread; OSError when the port is taken."""
    registry = prometheus_client.CollectorRegistry()
    registry.register(metrics)
    prometheus_client.ProcessCollector(registry=registry)
    prometheus_client.start_http_server(port, addr=host, registry=registry)
