"""stage_in: seconds until the pod's data is local, from measured speeds (Headrace's main score)."""

from scheduler.plugins.base import ClusterView, DependsOn, FloatArray, PodRequest, Rows


class StageIn:
    """Bytes here at tier speed, bytes on peers only at network speed, the rest at origin speed; datasets add up."""

    name = "stage_in"
    unit = "seconds"
    depends_on = DependsOn.RESIDENCY

    def __init__(self, floor_seconds: float) -> None:
        """`floor_seconds`: a cold start shorter than this does not outweigh everything else."""
        self.floor_seconds = floor_seconds

    def score(self, view: ClusterView, pod: PodRequest, rows: Rows) -> FloatArray | None:
        """Expected seconds of stage-in."""
        if not pod.data and not pod.checkpoint:
            return None
        return view.residency.sources(pod.data, pod.checkpoint).seconds[rows]

    def full_scale(self, view: ClusterView, pod: PodRequest) -> float:
        """Seconds if nothing were cached anywhere."""
        return max(self.floor_seconds, view.residency.cold_seconds(pod.data, pod.checkpoint))
