"""gpu_fit: keep GPUs usable for the pods this cluster runs, and pods without GPUs off GPU nodes, softly.

The measure is FGD's (Weng et al., "Beware of Fragmentation", USENIX ATC'23), for whole GPUs: on a node that a typical
pod does not fit on, every free GPU is a fragment to it; a node's fragmentation is the sum over typical pods, by their
share of the workload. A placement costs what it adds. docs/performance.md has what that does to GPU allocation.
"""

import numpy as np

from api import names
from scheduler.plugins.base import ClusterView, DependsOn, FloatArray, IntArray, PodRequest, Rows

# Of two placements that fragment alike the fuller node wins (best fit); larger, it would outweigh fragments.
BEST_FIT_SHARE = 0.03


class GpuFit:
    """GPUs that a placement turns into fragments, against the most GPUs a node has. A pod without GPUs costs the
    full scale on a GPU node, beside the fragments it makes there."""

    name = "gpu_fit"
    unit = "GPUs made useless"
    depends_on = DependsOn.USAGE

    def score(self, view: ClusterView, pod: PodRequest, rows: Rows) -> FloatArray | None:
        """Cost of 0 or more, in GPUs."""
        column = view.resource(names.GPU_RESOURCE)
        if column is None:
            return None
        asked = pod.shape.gpus
        vector = view.table.vector(pod.shape.requests)
        kinds, shares = view.mix.kinds()
        if not len(shares) and asked:
            # Nobody else's wishes are known: the pod is the typical one.
            kinds, shares = np.array([[vector[0], vector[1], asked]]), np.ones(1)
        free = view.allocatable[rows, column] - view.requested[rows, column]
        left = np.maximum(free - asked, 0)
        cost: FloatArray = BEST_FIT_SHARE * left
        if len(shares):
            cpu = view.allocatable[rows, 0] - view.requested[rows, 0]
            memory = view.allocatable[rows, 1] - view.requested[rows, 1]
            before = _fragments((cpu, memory, free), free, kinds, shares)
            after = _fragments((cpu - vector[0], memory - vector[1], free - asked), left, kinds, shares)
            # Placing takes `asked` away from the fragments at most, so that this is never negative.
            cost += after - before + asked
        if not asked:
            cost += self.full_scale(view, pod) * (view.allocatable[rows, column] > 0)
        return cost

    def full_scale(self, view: ClusterView, pod: PodRequest) -> float:
        """The GPUs of the largest node."""
        column = view.resource(names.GPU_RESOURCE)
        return max(1.0, float(view.allocatable[:, column].max(initial=1))) if column is not None else 1.0


def _fragments(
    free: tuple[IntArray, IntArray, IntArray], gpus: IntArray, kinds: IntArray, shares: FloatArray
) -> FloatArray:
    """GPUs by row that typical pods cannot use where this much cpu, memory and GPUs is free."""
    cpu, memory, whole = (kinds[:, resource, np.newaxis] for resource in range(3))
    fits = (free[0] >= cpu) & (free[1] >= memory) & (free[2] >= whole)
    return np.asarray(gpus * (1.0 - shares @ fits))
