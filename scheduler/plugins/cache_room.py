"""cache_room: seconds that bringing the pod's data to a node is expected to cost later readers."""

import numpy as np

from api import names
from scheduler.plugins.base import ClusterView, DependsOn, FloatArray, PodRequest, Rows

READ_AGAIN_SHARE = 0.5
"""Of bytes that are pushed out, what somebody will read again. Caches hold what was read once beside what is read
daily; nothing tells the two apart here."""


class CacheRoom:
    """Where data settles, later readers come for it. Two things cost them: what it pushes out of the node's cache
    comes from the origin again; and as likely as the node's GPUs are taken, they run elsewhere and fetch it again. The
    share that is taken after placing the pod stands for that likelihood. So data that is nowhere goes to nodes with
    free cache and free GPUs, and a pod whose data is all on a node costs nothing there.

    docs/evidence.md (AutoML, Philly) has what it saves, and what packing it costs."""

    name = "cache_room"
    unit = "seconds"
    depends_on = DependsOn.USAGE

    def __init__(self, floor_seconds: float) -> None:
        """`floor_seconds`: as for stage_in, what is shorter than this does not outweigh everything else."""
        self.floor_seconds = floor_seconds

    def score(self, view: ClusterView, pod: PodRequest, rows: Rows) -> FloatArray | None:
        """Expected seconds of later readers."""
        if not pod.data:
            return None
        coming = view.residency.coming_seconds(pod.data)
        column = view.resource(names.GPU_RESOURCE)
        if column is None or not pod.shape.gpus:
            return READ_AGAIN_SHARE * coming.displacing[rows]
        taken = view.requested[rows, column] + pod.shape.gpus
        likely = np.minimum(taken / np.maximum(view.allocatable[rows, column], 1), 1.0)
        return np.asarray(READ_AGAIN_SHARE * coming.displacing[rows] + coming.missing[rows] * likely)

    def score_row(self, view: ClusterView, pod: PodRequest, row: int) -> float | None:
        """The same of one row."""
        if not pod.data:
            return None
        coming = view.residency.coming_seconds(pod.data)
        column = view.resource(names.GPU_RESOURCE)
        if column is None or not pod.shape.gpus:
            return READ_AGAIN_SHARE * float(coming.displacing[row])
        taken = int(view.requested[row, column]) + pod.shape.gpus
        likely = min(taken / max(int(view.allocatable[row, column]), 1), 1.0)
        return READ_AGAIN_SHARE * float(coming.displacing[row]) + float(coming.missing[row]) * likely

    def full_scale(self, view: ClusterView, pod: PodRequest) -> float:
        """Seconds if nothing were cached anywhere."""
        return max(self.floor_seconds, view.residency.cold_seconds(pod.data, ()))
