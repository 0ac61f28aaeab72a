"""Every metric of a worker: name, unit, bounded labels. Stability: stable unless it says otherwise.

Labels hold media, sources, operations and reasons only; never a dataset, path or peer.
"""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram


class Metrics:
    """One registry a worker, so that tests may run several in one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"headrace_worker_{name}", text, labels, registry=self.registry)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"headrace_worker_{name}", text, labels, registry=self.registry)

        self.origin_bytes = counter("origin_read_bytes", "bytes read from under stores")
        self.origin_blocks = counter("origin_blocks", "blocks read from under stores", "why")
        self.limited_seconds = counter("limited_seconds", "waits for the limits on reading under stores", "limit")
        self.peer_bytes = counter("peer_read_bytes", "bytes read from peers")
        self.peer_served_bytes = counter("peer_served_bytes", "bytes sent to peers")
        self.reader_bytes = counter("reader_bytes", "bytes made readable for local readers", "source")
        self.corrupt_blocks = counter("corrupt_blocks", "blocks whose bytes did not have their checksum", "found")
        self.scrubbed_bytes = counter("scrubbed_bytes", "bytes read again to see whether they are still right")
        self.scrub_passes = counter("scrub_passes", "times all that was cached has been read again")
        self.evicted_bytes = counter("evicted_bytes", "bytes that made room for others", "medium")
        self.moved_bytes = counter("moved_bytes", "bytes that changed their level", "why", "source", "target")
        self.bypassed_bytes = counter("bypassed_bytes", "bytes served and not kept", "medium")
        self.failed_requests = counter("failed_requests", "requests answered with an errno", "op", "errno")
        self.refused = counter("refused", "requests and connections that trust refused", "reason")
        self.hedges = counter("hedges", "slow peer reads that somebody else was asked for too")
        self.hedges_won = counter("hedges_won", "of these, where the second one was first")
        self.failed_peers = counter("failed_peer_reads", "blocks a peer did not deliver")
        self.bugs = counter("bugs", "exceptions no code expected; each is logged", "where")
        self.tier_full = counter("tier_full", "times a medium refused bytes", "medium")
        self.tier_paused = counter("tier_paused", "times a medium was left alone for a while", "medium", "why")
        self.used_bytes = gauge("used_bytes", "bytes kept", "medium")
        self.temporary_bytes = gauge("temporary_bytes", "bytes of bypassed readers on the medium", "medium")
        self.hit_ratio = gauge("hit_ratio", "part of the bytes readers got lately that the cache had", "kind")
        self.files = gauge("files", "object versions with a sparse file")
        self.open_handles = gauge("open_handles", "handles of local readers and writers")
        self.ahead_bytes = counter("ahead_bytes", "bytes that were in the under store before their file was closed")
        self.ahead_uploads = counter("ahead_uploads", "uploads begun before the file was closed", "outcome")
        self.preheated_bytes = counter("preheated_bytes", "bytes made readable before their reader came", "source")
        self.preheated_files = counter("preheated_files", "files begun before their reader came", "outcome")
        self.held_files = gauge("held_files", "files this node holds for the under store")
        self.held_bytes = gauge("held_bytes", "bytes of them")
        self.held_oldest_seconds = gauge("held_oldest_seconds", "age of the oldest of them")
        self.held_unknown = gauge("held_unknown_files", "of them, those metadata does not know: see the log")
        self.held_uploads = counter("held_uploads", "uploads of held files", "outcome")
        self.held_fallbacks = counter(
            "held_fallbacks", "files that could not be held and waited for their upload", "why"
        )
        self.handed_over_bytes = counter("handed_over_bytes", "bytes that others took before this worker leaves")
        self.promoted_files = counter("promoted_files", "files fetched whole because they were read like weights")
        self.commit_seconds = Histogram(
            "headrace_worker_commit_seconds", "time to make a written file durable", registry=self.registry
        )
